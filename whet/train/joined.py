"""Micro-batches of a step that go through the engine at once.

Everything is one row: the engine reads documents one after the other, so that no token is padded for it, and the first
token of a row is never a label, so that no row predicts the next one's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch

from whet.data.answer_loader import join_answers
from whet.data.loader import Layout

Batch = dict[str, Any]
POSITIONS = ("rows", "ends")  # keys of positions among the B * T of a batch


def joined(parts: Sequence[Batch]) -> Batch:
    """One batch of 1 x T' tokens, T' = the sum of B * T over the parts, with everything that they have, in their order.

    Args:
        parts: batches of ``whet/data/loader.py``, ``answer_loader.py`` or ``train/preference/reward.py``, all of one
            kind and on one device.
    """
    if len(parts) == 1:
        return parts[0]
    names = ("input_ids", "labels", "position_ids")
    batch: Batch = {name: torch.cat([part[name].flatten() for part in parts])[None] for name in names}
    starts = [0, *accumulate(part["input_ids"].numel() for part in parts)]
    for name in POSITIONS:
        if name in parts[0]:
            batch[name] = torch.cat([part[name] + start for part, start in zip(parts, starts[:-1], strict=True)])
    batch["layout"] = _layout([part["layout"] for part in parts])
    if "answers" in parts[0]:
        batch["answers"] = join_answers([part["answers"] for part in parts])
    if "reference" in parts[0]:
        batch["reference"] = torch.cat([part["reference"] for part in parts])
    others = [part["others"] for part in parts if "others" in part]
    if others:
        batch["others"] = joined(others)
    return batch


def _layout(layouts: Sequence[Layout]) -> Layout:
    shared = [layout.shared or (0,) * len(layout.lengths) for layout in layouts]
    flat = tuple(tokens for part in shared for tokens in part)
    return Layout(
        tuple(length for layout in layouts for length in layout.lengths),
        sum(layout.real for layout in layouts),
        sum(layout.labelled for layout in layouts),
        flat if any(flat) else (),
    )
