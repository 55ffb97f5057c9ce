# mypy: ignore-errors
"""Many strided copies in one launch, by a table of addresses; ``scatter`` says what is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from whet.engine.kernels.launch import launch

FIELDS = 6  # of a row of the table: addresses of source and target, rows, columns, row strides of source and target
TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


class Table(NamedTuple):
    """Copies between one pair of dtypes."""

    addresses: torch.Tensor  # (copies, FIELDS) int64
    factors: torch.Tensor  # (copies,) float32
    program_copy: torch.Tensor  # (programs,) int32: which copy a program works on
    program_start: torch.Tensor  # (programs,) int32: from which of its elements on
    source: torch.dtype
    target: torch.dtype


@triton.jit
def _scatter(
    TABLE, FACTORS, COPY, START, SOURCE: tl.constexpr, TARGET: tl.constexpr, FIELDS: tl.constexpr, BLOCK: tl.constexpr
):
    program = tl.program_id(0)
    copy = tl.load(COPY + program)
    fields = TABLE + copy * FIELDS
    source = tl.load(fields).to(tl.pointer_type(SOURCE))
    target = tl.load(fields + 1).to(tl.pointer_type(TARGET))
    columns = tl.load(fields + 3).to(tl.int32)
    count = tl.load(fields + 2).to(tl.int32) * columns
    i = tl.load(START + program) + tl.arange(0, BLOCK)
    row = (i // columns).to(tl.int64)
    column = i % columns
    values = tl.load(source + row * tl.load(fields + 4) + column, mask=i < count).to(tl.float32)
    values *= tl.load(FACTORS + copy)
    tl.store(target + row * tl.load(fields + 5) + column, values.to(TARGET), mask=i < count)


def tables(copies: Sequence[tuple[torch.Tensor, torch.Tensor, float]], block: int) -> Iterator[Table]:
    """One table for each pair of dtypes."""
    pairs = dict.fromkeys((source.dtype, target.dtype) for target, source, _ in copies)
    for pair in pairs:
        chosen = [copy for copy in copies if (copy[1].dtype, copy[0].dtype) == pair]
        rows = [
            (s.data_ptr(), t.data_ptr(), *s.shape, s.stride(0), t.stride(0)) for t, s, _ in chosen
        ]  # fmt: skip
        programs = [(n, start) for n, (_, s, _) in enumerate(chosen) for start in range(0, s.numel(), block)]
        device = chosen[0][0].device
        of = torch.tensor(programs, dtype=torch.int32, device=device)
        factors = torch.tensor([factor for _, _, factor in chosen], dtype=torch.float32, device=device)
        addresses = torch.tensor(rows, dtype=torch.int64, device=device)
        yield Table(addresses, factors, of[:, 0].contiguous(), of[:, 1].contiguous(), *pair)


def run(table: Table, block: int) -> None:
    """All copies of a table."""
    types = {"SOURCE": TYPES[table.source], "TARGET": TYPES[table.target]}
    grid = (len(table.program_copy),)
    launch(_scatter, grid, *table[:4], **types, FIELDS=FIELDS, BLOCK=block, num_warps=8)
