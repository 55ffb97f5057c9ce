"""Pairs of uneven lengths that the tests of preference training share."""

from __future__ import annotations

from small_runs import NUMBERS

from whet.data.records import PreferenceRecord


def pair(n: int) -> PreferenceRecord:
    """A pair whose lengths depend on its number."""
    asked = " ".join([NUMBERS[n % 10]] * (1 + n % 3))
    good, bad = NUMBERS[(n + 1) % 10], " ".join(["well"] * (2 + n % 4))
    return PreferenceRecord(
        [{"role": "user", "content": f"After {asked}?"}],
        [{"role": "assistant", "content": good}],
        [{"role": "assistant", "content": bad}],
    )
