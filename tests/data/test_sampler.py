"""Seeded orders that a resumed run can take up again."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from whet.data.sampler import SeededSampler


def orders(sampler: SeededSampler, epochs: int) -> list[list[int]]:
    found = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        found.append(list(sampler))
    return found


@pytest.mark.parametrize("lengths", [None, np.random.default_rng(1).integers(1, 900, 1003)])
def test_every_epoch_has_every_item_in_an_order_of_its_own(lengths):
    first, second = orders(SeededSampler(1003, 7, lengths=lengths, batch_size=4), 2)
    assert sorted(first) == sorted(second) == list(range(1003))
    assert first != second
    assert [first, second] == orders(SeededSampler(1003, 7, lengths=lengths, batch_size=4), 2)
    assert first != orders(SeededSampler(1003, 8, lengths=lengths, batch_size=4), 1)[0]


@pytest.mark.parametrize("lengths", [None, list(range(1, 51))])
def test_a_stopped_sampler_goes_on_where_it_stopped(lengths):
    whole = SeededSampler(50, 3, lengths=lengths, batch_size=4)
    whole.set_epoch(2)
    seen = list(islice(iter(whole), 17))
    again = SeededSampler(50, 3, lengths=lengths, batch_size=4)
    again.load_state_dict(whole.state_dict())
    fresh = SeededSampler(50, 3, lengths=lengths, batch_size=4)
    fresh.set_epoch(2)
    assert seen + list(again) == list(fresh)
    assert sorted(again) == list(range(50)), "the next iteration is whole again"


def test_like_lengths_come_together_and_the_longest_first():
    lengths = np.random.default_rng(2).integers(10, 2000, 4000)
    order = np.array(list(SeededSampler(4000, 1, lengths=lengths, batch_size=8)))

    def padded(rows: np.ndarray) -> int:
        return int((lengths[rows].reshape(-1, 8).max(axis=1) * 8).sum())

    total = int(lengths.sum())
    assert padded(order) < 1.03 * total
    assert padded(np.array(list(SeededSampler(4000, 1)))) > 1.5 * total
    assert lengths[order[:8]].max() == lengths.max()
