"""The GPU's attention kernels and projection groups against float64. Run with: pytest -m gpu"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from attention_cases import SCALE, both, heads_of, off, wanted

from whet.engine import attention as module
from whet.engine.attention import Documents, attention, attention_backward
from whet.engine.attention_choice import bucket, parts_of
from whet.engine.documents import Kind, Part, Scores
from whet.engine.weights import Group

pytestmark = pytest.mark.gpu

UNEQUAL = (700, 5, 1, 300, 130, 64)
NEAR = 1e-2  # of bfloat16's own rounding, forward and backward


@pytest.fixture(scope="module", autouse=True)
def cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    torch.use_deterministic_algorithms(on)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def on_gpu(tokens: int, heads: int = 8, groups: int = 2, size: int = 128, seed: int = 0) -> list[torch.Tensor]:
    """q, k, v as the layer has them: views of the rows of a projection group, and the gradient of o."""
    qkv = heads_of(tokens, heads, groups, torch.bfloat16, size=size, spare=64, seed=seed)
    rows = torch.full((tokens, (heads + 2 * groups) * size + 64), float("nan"), dtype=torch.bfloat16, device="cuda")
    views = rows[:, :-64].unflatten(1, (-1, size)).split([heads, groups, groups], 1)
    for view, values in zip(views, qkv, strict=True):
        view.copy_(values)
    return [*views, torch.randn(tokens, heads, size, dtype=torch.float64).to("cuda", torch.bfloat16)]


def forced(monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    """Every document by one kernel; cuDNN one document at a time."""

    def parts(_: Any, lengths: tuple[int, ...], __: Scores) -> tuple[Part, ...]:
        starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
        if kind != "cudnn":
            return (Part(kind, 0, len(lengths), 0, starts[-1]),)
        return tuple(Part(kind, i, i + 1, starts[i], starts[i + 1]) for i in range(len(lengths)))

    monkeypatch.setattr(module, "parts_of", parts)


CASES: list[tuple[Kind, Scores, int]] = [
    ("fa2", Scores(SCALE / 4), 128),
    ("fa2", Scores(SCALE / 4), 64),
    ("fa2", Scores(SCALE / 4), 256),
    ("fa2", Scores(SCALE / 4, window=50), 128),
    ("cudnn", Scores(SCALE / 4), 128),
    ("cudnn", Scores(SCALE / 4), 64),
    ("each", Scores(SCALE / 4), 128),
    ("each", Scores(SCALE / 4, softcap=5.0), 128),
    ("each", Scores(SCALE / 4, softcap=5.0, window=50), 256),
]


@pytest.mark.parametrize(("kind", "scores", "size"), CASES, ids=str)
def test_each_kernel_is_the_definition(kind, scores, size, monkeypatch):
    forced(monkeypatch, kind)
    *qkv, do = on_gpu(sum(UNEQUAL), size=size)
    got = both(qkv, do, UNEQUAL, scores)
    assert off(got, wanted(qkv, do, UNEQUAL, scores)) < NEAR


@pytest.mark.parametrize("lengths", [(512,) * 4, (64,) * 5, (1920, 40, 50, 2048), UNEQUAL, (2048,), (1,)])
@pytest.mark.parametrize("window", [None, 100])
def test_the_choice_is_the_definition(lengths, window):
    *qkv, do = on_gpu(sum(lengths))
    scores = Scores(SCALE / 4, window=window)
    got = both(qkv, do, lengths, scores)
    assert off(got, wanted(qkv, do, lengths, scores)) < NEAR


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_dtypes_run_plainly(dtype):
    qkv = [t.cuda() for t in heads_of(300, 4, 2, dtype)]
    do = torch.randn(300, 4, 8, dtype=dtype, device="cuda")
    assert parts_of(qkv[0], (100, 200), Scores(SCALE))[0].kind == "each"
    got = both(qkv, do, (100, 200), Scores(SCALE))
    assert off(got, wanted(qkv, do, (100, 200), Scores(SCALE))) < (1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("lengths", [UNEQUAL, (512,) * 4, (100, 700, 3000)])
@pytest.mark.parametrize("scores", [Scores(SCALE / 4), Scores(SCALE / 4, 5.0), Scores(SCALE / 4, None, 50)], ids=str)
def test_documents_never_see_each_other(lengths, scores):
    """Bit-identical; FlashAttention-2 needs deterministic algorithms for that in the backward."""
    *qkv, do = on_gpu(sum(lengths))
    *other, _ = on_gpu(sum(lengths), seed=1)
    changed = slice(lengths[0], lengths[0] + lengths[1])
    with deterministic(scores.softcap is None):
        before = [t.clone() for t in both(qkv, do, lengths, scores)]
        for t, new in zip(qkv, other, strict=True):
            t[changed] = new[changed]
        do[changed] = -3
        after = both(qkv, do, lengths, scores)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a[: changed.start], b[: changed.start]) and torch.equal(a[changed.stop :], b[changed.stop :])
        assert not torch.equal(a[changed], b[changed])


@pytest.mark.parametrize("kind", ["fa2", "cudnn", "each"])
def test_the_forward_of_a_document_does_not_depend_on_its_neighbours(kind, monkeypatch):
    """Without deterministic algorithms too; cuDNN's padding reaches into the next document."""
    forced(monkeypatch, kind)
    lengths = (700, 500, 64)
    *qkv, _ = on_gpu(sum(lengths))
    documents = module.Documents.of(lengths, "cuda")
    before, _ = module.attention(*qkv, documents, scale=SCALE / 4)
    for t in qkv:
        t[700:1200] = 7.0
    after, _ = module.attention(*qkv, documents, scale=SCALE / 4)
    assert torch.equal(before[:700], after[:700]) and torch.equal(before[1200:], after[1200:])


def test_the_choice_covers_what_cudnn_takes():
    """Every bucket's shape builds a plan and agrees with FlashAttention-2."""
    for length in (64, 100, 1000, 1025, 1500, 3000):
        *qkv, do = on_gpu(length)
        part = Part("cudnn", 0, 1, 0, length)
        o, saved = module.attention_cuda.dense(*qkv, part, Scores(SCALE / 4))
        grads = module.attention_cuda.dense_backward(do, *qkv, o, saved, part, Scores(SCALE / 4))
        cu = torch.tensor([0, length], dtype=torch.int32, device="cuda")
        o2, saved2 = module.attention_cuda.varlen(*qkv, cu, length, Scores(SCALE / 4))
        grads2 = module.attention_cuda.varlen_backward(do, *qkv, o2, saved2, cu, length, Scores(SCALE / 4))
        assert bucket(length) >= length and saved[0].shape[2] == bucket(length)
        assert off([o, *grads], [t.double() for t in (o2, *grads2)]) < 2 * NEAR


def test_a_group_on_the_gpu():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    linears = torch.nn.ModuleDict({"q": torch.nn.Linear(192, 128), "k": torch.nn.Linear(192, 64)})
    model = get_peft_model(linears, LoraConfig(r=8, target_modules=["q", "k"])).base_model.model.cuda()
    for name, parameter in model.named_parameters():
        parameter.data.normal_(std=0.3)
        if "lora" not in name:
            parameter.data = parameter.data.bfloat16()
    group = Group([model["q"], model["k"]], torch.bfloat16)
    assert group.R == 64 and group.bytes()["twice"] == 0
    weight = torch.cat([m.base_layer.weight for m in model.values()]).double()
    update = [
        m.scaling["default"] * m.lora_B["default"].weight.double() @ m.lora_A["default"].weight.double()
        for m in model.values()
    ]
    x, dy = (torch.randn(300, n, device="cuda").bfloat16() for n in (192, 192))
    xa, dya = (torch.cat([t, torch.full_like(t[:, :64], float("nan"))], 1) for t in (x, dy))
    y = group.forward(xa)
    dx = group.dgrad(dya)
    grads = group.wgrad(dya, x, xa[:, 192:])
    whole = weight + torch.cat(update)
    scale, a, b = (
        model["k"].scaling["default"],
        *(model["k"].get_submodule(f"lora_{s}.default").weight.double() for s in "AB"),
    )
    want = [
        x.double() @ whole.t() + group.bias.double(),
        dy.double() @ whole,
        scale * (dy[:, 128:].double() @ b).t() @ x.double(),
        scale * dy[:, 128:].double().t() @ (x.double() @ a.t()),
    ]
    assert all(grad.dtype == torch.float32 for grad in grads)
    assert off([y, dx, *grads[2:]], want) < NEAR


@pytest.mark.parametrize("lengths", [(384, 384, 384, 384), (700, 655, 130, 129)], ids=["cudnn", "fa2"])
def test_documents_that_share_a_beginning(lengths: tuple[int, ...]) -> None:
    """Two pairs; every document against itself alone: the same bits forward, gradients of what is shared added."""
    shared = (0, 256, 0, 100)
    tokens = sum(lengths) - sum(shared)
    *heads, do = on_gpu(tokens)
    documents = Documents.of(lengths, "cuda", shared)
    o, saved = attention(*heads, documents, scale=SCALE)
    found = attention_backward(do, *heads, o, saved, documents, scale=SCALE)
    assert documents.rows is not None
    rows, first = documents.rows.tokens_1S[0], documents.rows.first_1S[0]
    whole = [t.index_select(0, rows) for t in heads]
    alone = Documents.of(lengths, "cuda")
    o_S, saved_S = attention(*whole, alone, scale=SCALE)
    assert torch.equal(o_S.index_select(0, documents.rows.rows_JT[0]), o)
    do_S = do.index_select(0, rows).masked_fill_((first < 0)[:, None, None], 0)
    grads = attention_backward(do_S, *whole, o_S, saved_S, alone, scale=SCALE)
    for got, grad in zip(found, grads, strict=True):
        wide = torch.zeros(got.shape, device="cuda").index_add_(0, rows, grad.float())
        assert (got.float() - wide).norm() <= NEAR * wide.norm()
