"""Attention of packed documents against a float64 reference, the choice of kernels, and the glue around the GPU's ones.

The GPU kernels are replaced by a stand-in on the CPU here; tests/engine/test_attention_gpu.py runs them.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attention_cases import SCALE, E, both, heads_of, off, reference, wanted

from whet.engine import attention as module
from whet.engine import attention_cpu, attention_cuda, attention_plain
from whet.engine.attention import Documents, attention, documents_of
from whet.engine.attention_choice import Shape, bucket, choose
from whet.engine.attention_cpu import batches_of
from whet.engine.documents import Scores

LENGTHS = (5, 1, 33, 70, 2)
VARIANTS = [
    Scores(SCALE),
    Scores(SCALE, softcap=3.0),
    Scores(SCALE, window=9),
    Scores(SCALE, 3.0, 2),
    Scores(0.1, None, 99),
]


@pytest.mark.parametrize("scores", VARIANTS, ids=str)
@pytest.mark.parametrize(("heads", "groups"), [(6, 2), (3, 3), (4, 1)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 2e-6), (torch.bfloat16, 5e-3)])
def test_is_the_definition(scores, heads, groups, dtype, bound):
    qkv = heads_of(sum(LENGTHS), heads, groups, dtype)
    do = torch.randn(sum(LENGTHS), heads, E).to(dtype)
    got = both(qkv, do, LENGTHS, scores)
    assert [t.dtype for t in got] == [dtype] * 4
    assert [t.shape for t in got] == [do.shape, *(t.shape for t in qkv)]
    assert off(got, wanted(qkv, do, LENGTHS, scores)) < bound


@pytest.mark.parametrize(
    "lengths",
    [(7, 7, 7), (3, 7, 300, 16, 17, 5, 300, 290, 1), (16, 9, 16), (1, 2), (260,), (200, 128, 195, 130, 129, 120)],
)
@pytest.mark.parametrize("products", [0, 16, 128])
def test_short_documents_are_batched(lengths, products, monkeypatch):
    """Equal neighbours as a view, others gathered with repeated rows, long ones alone; as products or by flash."""
    monkeypatch.setattr(attention_cpu, "PRODUCTS", products)
    qkv, do = heads_of(sum(lengths), 6, 2), torch.randn(sum(lengths), 6, E, dtype=torch.float64)
    assert off(both(qkv, do, lengths, Scores(SCALE)), wanted(qkv, do, lengths, Scores(SCALE))) < 1e-13
    counts = [batch.documents for batch in batches_of(lengths)]
    assert sum(counts) == len(lengths) and len(counts) == len(
        {-(-n // 16) if n <= 256 else -i for i, n in enumerate(lengths)}
    )


@pytest.mark.parametrize(("heads", "groups"), [(6, 2), (3, 3), (4, 1)])
@pytest.mark.parametrize(("dtype", "worse"), [(torch.float32, 1.3), (torch.bfloat16, 1.6)])
def test_products_are_about_as_exact_as_flash_attention(heads, groups, dtype, worse, monkeypatch):
    """bfloat16 against flash attention in float32; torch's own attention in bfloat16 is 1.4 to 1.8 times as far."""
    lengths = (40, 38, 17, 90, 96)
    qkv, do = heads_of(sum(lengths), heads, groups, dtype), torch.randn(sum(lengths), heads, E).to(dtype)
    want, found = wanted(qkv, do, lengths, Scores(SCALE)), {}
    for products in (0, 128):
        monkeypatch.setattr(attention_cpu, "PRODUCTS", products)
        found[products] = off(both(qkv, do, lengths, Scores(SCALE)), want)
    assert found[128] <= worse * found[0]


def test_repeated_rows_add_nothing_to_gradients():
    """Not even where the gradient of the document's last row, which is repeated, is huge."""
    lengths = (17, 30, 20)
    qkv, do = heads_of(sum(lengths), 4, 2), torch.randn(sum(lengths), 4, E, dtype=torch.float64)
    do[[16, 46, 66]] *= 1e6
    assert len(batches_of(lengths)) == 1
    assert off(both(qkv, do, lengths, Scores(SCALE)), wanted(qkv, do, lengths, Scores(SCALE))) < 1e-13


@pytest.mark.parametrize("scores", VARIANTS, ids=str)
@pytest.mark.parametrize("block", [1, 200, 1 << 24])
def test_blocks_of_rows_do_not_matter(scores, block, monkeypatch):
    monkeypatch.setattr(attention_plain, "BLOCK_SCORES", {"cpu": block})
    monkeypatch.setattr(attention_plain, "WINDOW_ROWS", 3)
    monkeypatch.setattr(attention_plain, "_has_flash", lambda *_: False)
    qkv, do = heads_of(53, 6, 2), torch.randn(53, 6, E, dtype=torch.float64)
    assert off(both(qkv, do, (20, 33), scores), wanted(qkv, do, (20, 33), scores)) < 1e-13


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scores", VARIANTS, ids=str)
@pytest.mark.parametrize("products", [16, 128])
def test_documents_never_see_each_other(scores, dtype, products, monkeypatch):
    monkeypatch.setattr(attention_cpu, "PRODUCTS", products)
    qkv, other = heads_of(sum(LENGTHS), 4, 2, dtype), heads_of(sum(LENGTHS), 4, 2, dtype, seed=1)
    do, changed = torch.randn(sum(LENGTHS), 4, E).to(dtype), slice(6, 39)
    before = both(qkv, do, LENGTHS, scores)
    for t, new in zip(qkv, other, strict=True):
        t[changed] = new[changed]
    do[changed] = -3
    after = both(qkv, do, LENGTHS, scores)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a[:6], b[:6]) and torch.equal(a[39:], b[39:])
        assert not torch.equal(a[changed], b[changed])


def test_gradients_go_where_they_are_wanted():
    qkv, do = heads_of(sum(LENGTHS), 4, 2), torch.randn(sum(LENGTHS), 4, E, dtype=torch.float64)
    want = both(qkv, do, LENGTHS, Scores(SCALE))[1:]
    rows = torch.full((sum(LENGTHS), 8 * E + 3), float("nan"), dtype=torch.float64)
    out = rows[:, 3:].unflatten(1, (-1, E)).split([4, 2, 2], 1)
    got = both(qkv, do, LENGTHS, Scores(SCALE), out=out)[1:]
    for a, b, c in zip(got, want, out, strict=True):
        assert torch.equal(a, b) and a.data_ptr() == c.data_ptr()


def test_wrong_shapes_are_named():
    qkv = heads_of(10, 4, 2)
    with pytest.raises(ValueError, match="9 tokens"):
        attention(*qkv, Documents.of((4, 5)), scale=1.0)
    with pytest.raises(ValueError, match="multiple"):
        attention(qkv[0][:, :3], *qkv[1:], Documents.of((4, 6)), scale=1.0)


# ------------------------------------------------------------------------------------------------------ documents


def test_documents_are_read_from_positions():
    positions = torch.tensor([[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5], [3, 4, 0, 0, 0, 1]])
    documents = documents_of(positions)
    assert documents.lengths == (3, 2, 1, 6, 2, 1, 1, 2)
    assert documents.cu.tolist() == [0, 3, 5, 6, 12, 14, 15, 16, 18] and documents.cu.dtype == torch.int32
    assert (documents.longest, documents.tokens) == (6, 18)
    known = documents_of(positions, documents.lengths)
    assert known.lengths == documents.lengths and torch.equal(known.cu, documents.cu)
    with pytest.raises(ValueError, match="17 tokens in a batch of 18"):
        documents_of(positions, (3, 2, 1, 6, 2, 1, 2))
    with pytest.raises(ValueError, match="at least one token"):
        Documents.of((3, 0))


# ------------------------------------------------------------------------------------------- the choice of kernels

CARD = Shape("cuda", short=True, deterministic=False, heads=32, head_dim=128)


def kinds(lengths: tuple[int, ...], scores: Scores = VARIANTS[0], **changed: Any) -> list[tuple[str, int]]:
    return [(part.kind, part.last - part.first) for part in choose(CARD._replace(**changed), lengths, scores)]


def test_the_choice():
    assert kinds((2048,) * 8) == kinds((256,) * 8) == [("cudnn", 8)]
    assert kinds((300,) * 8) == [("fa2", 8)], "not a bucket's length: a plan for every new length costs more"
    assert kinds((100, 900, 300)) == [("fa2", 3)]
    assert kinds((8192, 5000)) == [("cudnn", 1), ("cudnn", 1)]
    assert kinds((100, 200, 8192, 50, 60)) == [("fa2", 2), ("cudnn", 1), ("fa2", 2)]
    assert kinds((8192, 2), Scores(SCALE, window=4096)) == [("fa2", 2)]
    assert kinds((4096,), Scores(SCALE, window=4096)) == [("cudnn", 1)]
    assert kinds((4096, 7), Scores(SCALE, softcap=50.0)) == kinds((4096, 7), short=False) == [("each", 2)]
    assert kinds((4096,) * 2, deterministic=True) == kinds((4096,) * 2, head_dim=256) == [("fa2", 2)]
    assert kinds((64, 64), head_dim=20) == kinds((64, 64), head_dim=512) == [("each", 2)]


def test_the_choice_is_the_fastest_that_was_measured(monkeypatch):
    """Every case of the recorded benchmark: what is chosen now took at most 5% more than the fastest way there."""
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(str(benchmarks))
    from engine_attention import MIXED, filled

    recorded: dict[tuple[str, int, int], dict[str, dict[str, Any]]] = {}
    for row in json.loads((benchmarks / "results" / "engine_attention.json").read_text())["rows"]:
        recorded.setdefault((row["documents"], row["tokens"], row["heads"]), {})[row["kernel"]] = row
    assert len(recorded) > 20
    for (name, tokens, heads), rows in recorded.items():
        lengths = (int(name),) * (tokens // int(name)) if name.isdigit() else filled(MIXED[name], tokens)
        parts = choose(CARD._replace(heads=heads), lengths, Scores(SCALE))
        ms = {kernel: row["forward"] + row["backward"] for kernel, row in rows.items()}
        if bucket(lengths[0]) != lengths[0]:
            ms.pop("batch", None)  # a plan for every length there is
        as_then = "+".join(f"{part.kind}:{part.last - part.first}" for part in parts[:8]) == rows["chosen"]["parts"]
        way = "chosen" if as_then else {"fa2": "fa2", "cudnn": "single"}[parts[0].kind]
        assert as_then or len({part.kind for part in parts}) == 1, "a split that was not measured"
        assert ms[way] <= 1.05 * min(ms.values()), (name, heads, way, ms)


def test_parts_cover_every_document_once():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        lengths = tuple((2 ** (torch.rand(9, generator=generator) * 14)).int().tolist())
        parts = choose(CARD, lengths, Scores(SCALE))
        assert [part.first for part in parts] + [9] == [0] + [part.last for part in parts]
        assert [part.start for part in parts] == [sum(lengths[: part.first]) for part in parts]
        assert [part.stop for part in parts] == [sum(lengths[: part.last]) for part in parts]


def test_buckets():
    found = [bucket(length) for length in range(1, 40000)]
    assert all(0 <= b - length <= max(63, length / 8) for length, b in enumerate(found, 1))
    assert all(bucket(b) == b and b % 64 == 0 for b in set(found))
    assert len({b for b in found if b <= 32768}) == 56


# -------------------------------------------------------------------------------------------- around the GPU's kernels


class StandIn:
    """aten's two GPU kernels by their definition, with everything that they leave undefined poisoned."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def _scaled_dot_product_cudnn_attention(self, q, k, v, bias, keep, dropout, causal, debug, *, scale):
        assert (bias, keep, dropout, causal, debug) == (None, True, 0.0, True, False)
        self.calls.append(("cudnn", q.shape[0], q.shape[2]))
        o = self.dense([q, k, v], scale)
        n = q.shape[2]
        return o, q.new_zeros(*q.shape[:3], 1), None, None, n, n, torch.tensor(7), torch.tensor(8), None

    def _scaled_dot_product_cudnn_attention_backward(
        self, do, q, k, v, o, lse, seed, offset, bias, cu_q, cu_k, max_q, max_k, dropout, causal, *, scale
    ):
        assert lse.shape == (*q.shape[:3], 1) and (seed, offset) == (7, 8) and max_q == max_k == q.shape[2]
        heads = [t.detach().requires_grad_() for t in (q, k, v)]
        with torch.enable_grad():
            again = self.dense(heads, scale)
        return torch.autograd.grad(again, heads, do)

    @staticmethod
    def dense(heads: list[torch.Tensor], scale: float) -> torch.Tensor:
        n, _, length, _ = heads[0].shape
        flat = [t.transpose(1, 2).flatten(0, 1) for t in heads]
        return reference(flat, (length,) * n, Scores(scale)).unflatten(0, (n, length)).transpose(1, 2)

    def _flash_attention_forward(
        self,
        q,
        k,
        v,
        cu_q,
        cu_k,
        max_q,
        max_k,
        dropout,
        causal,
        debug,
        *,
        scale,
        window_size_left=-1,
        window_size_right=0,
    ):
        lengths = tuple(cu_q.diff().tolist())
        assert cu_q[0] == 0 and sum(lengths) == len(q) and max_q == max_k == max(lengths)
        self.calls.append(("fa2", len(lengths), max_q))
        o = reference([q, k, v], lengths, self.scores(scale, window_size_left))
        return o, q.new_zeros(q.shape[1], len(q)), None, None, None

    def _flash_attention_backward(
        self, do, q, k, v, o, lse, cu_q, cu_k, max_q, max_k, dropout, causal, state, unused, *, scale,
        window_size_left=-1, window_size_right=0,
    ):  # fmt: skip
        assert lse.shape == (q.shape[1], len(q)) and state.dtype == torch.uint64
        heads = [t.detach().requires_grad_() for t in (q, k, v)]
        with torch.enable_grad():
            again = reference(heads, tuple(cu_q.diff().tolist()), self.scores(scale, window_size_left))
        return torch.autograd.grad(again, heads, do)

    @staticmethod
    def scores(scale: float, left: int) -> Scores:
        return Scores(scale, None, None if left < 0 else left + 1)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(attention_cuda, "_aten", stand_in)
    monkeypatch.setattr(module, "parts_of", lambda q, lengths, scores: choose(CARD, lengths, scores))
    return stand_in


@pytest.mark.parametrize(
    ("lengths", "scores", "calls"),
    [
        ((64,) * 3, Scores(SCALE), [("cudnn", 3, 64)]),
        ((30, 40, 5), Scores(SCALE), [("fa2", 3, 40)]),
        ((30, 40, 5), Scores(SCALE, window=7), [("fa2", 3, 40)]),
        ((70, 40, 5, 130, 129, 9), Scores(SCALE), [("cudnn", 1, 128), ("fa2", 2, 40), ("cudnn", 1, 192)]),
        ((9, 100, 70), Scores(SCALE), [("fa2", 1, 9), ("cudnn", 1, 128), ("cudnn", 1, 128)]),
    ],
)
def test_parts_and_padding(gpu, lengths, scores, calls, monkeypatch):
    """Long documents (from 60 tokens on here) go one by one at their bucket's length, into the rows that follow."""
    kinds = "whet.engine.attention_choice._kinds"
    monkeypatch.setattr(kinds, lambda shape, lengths: ["cudnn" if length >= 60 else "fa2" for length in lengths])
    choose.cache_clear()
    qkv, do = heads_of(sum(lengths), 4, 2), torch.randn(sum(lengths), 4, E, dtype=torch.float64)
    got = both(qkv, do, lengths, scores)
    choose.cache_clear()
    assert gpu.calls[: len(calls)] == calls
    assert off(got, wanted(qkv, do, lengths, scores)) < 1e-13


def test_sub_batches_have_running_sums_of_their_own():
    documents = Documents.of((3, 4, 5, 6))
    part = SimpleNamespace(first=1, last=3)
    assert documents.cu_of(part).tolist() == [0, 4, 9]
    assert documents.cu_of(part) is documents.cu_of(part)
