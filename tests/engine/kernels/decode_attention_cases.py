"""Cases of attention over a cache against the plain twin in float64: on the GPU, and in Triton's interpreter.

The cache is NaN wherever no token stands, and so are outputs before they are written.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from kernel_tensors import rotary

from whet.engine.documents import Scores
from whet.engine.kernels.decode_attention import attend_plain, place_plain

ERRORS = {torch.float32: 3e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}


class Shape(NamedTuple):
    heads: int
    groups: int
    width: int
    pairs: int
    size: int  # of a chunk


SHAPES = [Shape(4, 2, 8, 4, 16), Shape(6, 1, 20, 6, 16), Shape(7, 7, 64, 32, 32), Shape(8, 2, 128, 64, 128)]
POSITIONS = (0, 15, 16, 33, 100)
SCORES = [Scores(0.3), Scores(0.3, 2.0), Scores(0.3, None, 5), Scores(0.2, 4.0, 40)]


def cache(shape: Shape, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values at all earlier positions of each slot, NaN elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    chunks = max(POSITIONS) // shape.size + 2
    kv = torch.randn(2, chunks, len(POSITIONS), shape.groups, shape.size, shape.width, generator=generator).to(dtype)
    key = torch.arange(chunks * shape.size).view(chunks, 1, 1, shape.size, 1)
    empty = key >= torch.tensor(POSITIONS).view(1, -1, 1, 1, 1)
    return kv[0].masked_fill(empty, float("nan")), kv[1].masked_fill(empty, float("nan"))


def check(shape: Shape, scores: Scores, dtype: torch.dtype, device: str) -> None:
    from whet.engine.kernels import decode_attention_triton as kernels

    positions = torch.tensor(POSITIONS)
    generator = torch.Generator().manual_seed(3)
    total = shape.heads + 2 * shape.groups
    qkv = torch.randn(len(POSITIONS), total, shape.width, generator=generator).to(dtype)
    cos, sin = rotary(2 * max(POSITIONS) + 2, shape.pairs, dtype)
    k, v = cache(shape, dtype, 4)
    own = [t.to(device) for t in (qkv.clone(), k, v)]
    kernels.place(*own, cos.to(device), sin.to(device), positions.to(device))
    out = kernels.attend(own[0][:, : shape.heads], own[1], own[2], positions.to(device), scores)

    wide = [qkv.double(), k.double(), v.double()]
    place_plain(*wide, cos.double(), sin.double(), positions)
    for found, wanted in zip(own[1:], wide[1:], strict=True):  # the new token, and nothing else
        torch.testing.assert_close(found.cpu().double(), wanted, rtol=ERRORS[dtype], atol=ERRORS[dtype], equal_nan=True)
    wanted = attend_plain(wide[0][:, : shape.heads], wide[1].nan_to_num(), wide[2].nan_to_num(), positions, scores)
    error = float((out.cpu().double() - wanted).abs().max() / wanted.abs().max())
    assert error <= ERRORS[dtype], (shape, scores, dtype, error)
    for slot in (1, 4):  # alone, and in a longer cache: the same bits
        alone = [torch.cat([t[:, slot : slot + 1], t[:1, slot : slot + 1]]) for t in own[1:]]
        at = positions[slot : slot + 1].to(device)
        one = kernels.attend(own[0][slot : slot + 1, : shape.heads], *alone, at, scores)
        assert torch.equal(one[0], out[slot])


def check_all(device: str) -> None:
    dtypes = (torch.float32, torch.float16) if device == "cpu" else (torch.float32, torch.float16, torch.bfloat16)
    for number, shape in enumerate(SHAPES):
        few = device == "cpu" and number > 0
        for scores in SCORES[:: 3 if few else 1]:
            for dtype in dtypes[: 1 if few else 3]:
                check(shape, scores, dtype, device)


if __name__ == "__main__":
    check_all("cpu")
    print("every case agrees")
