"""The gradients of a trained linear head against autograd over all logits at once, in float64 and below."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from families import lora_model, packed
from live_bytes import LiveBytes

from whet.engine import loss as loss_module
from whet.engine import trained_head as subject
from whet.engine.forward import Engine
from whet.engine.loss import IGNORE, head_loss, labelled_loss, token_logprobs
from whet.engine.trained_head import ALIGNMENT, slice_width

BOUND = 1e-12
# Rows, hidden size, vocabulary, rows of a chunk: one slice; several with a narrow last one; the narrowest possible.
SHAPES = [(17, 12, 61, 1024), (17, 12, 61, 4), (37, 20, 700, 16), (90, 8, 301, 1), (41, 8, 513, 40)]

Loss = Callable[..., torch.Tensor]


def example(rows: int, hidden: int, vocabulary: int, dtype: torch.dtype = torch.float64, scale: float = 1.0):
    """Hidden states, weight, bias and targets; every fifth row has no label."""
    generator = torch.Generator().manual_seed(rows * 1000 + vocabulary)

    def random(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
        return values.to(dtype).requires_grad_()

    targets_N = torch.randint(0, vocabulary, (rows,), generator=generator)
    targets_N[2::5] = IGNORE
    return random(rows, hidden), random(vocabulary, hidden), random(vocabulary), targets_N


def plain(hidden_ND, weight_VD, targets_N, *, bias=None, softcap=None, chunk_rows=0) -> torch.Tensor:
    """The specification: all log-probabilities at once, from logits in float32 at least."""
    logits_NV = F.linear(hidden_ND, weight_VD, bias)
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    if softcap is not None:
        logits_NV = torch.tanh(logits_NV / softcap) * softcap
    return -F.cross_entropy(logits_NV, targets_N, reduction="none", ignore_index=IGNORE)


def near(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((ours - theirs).norm() <= BOUND * theirs.norm())


@pytest.mark.parametrize("biased", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("softcap", [None, 30.0, 3.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_losses_and_gradients_are_those_of_autograd(shape, softcap: float | None, biased: bool) -> None:
    *sizes, chunk = shape
    hidden_ND, weight_VD, bias_V, targets_N = example(*sizes)
    more = {"bias": bias_V if biased else None, "softcap": softcap}
    leaves = [hidden_ND, weight_VD] + ([bias_V] if biased else [])
    logp_N = token_logprobs(hidden_ND, weight_VD, targets_N, chunk_rows=chunk, **more)
    total = head_loss(hidden_ND, weight_VD, targets_N, chunk_rows=chunk, **more)
    expected_N = plain(hidden_ND, weight_VD, targets_N, **more)
    assert logp_N.dtype == total.dtype == torch.float64
    assert near(logp_N, expected_N) and near(total, -expected_N.sum())
    weights_N = torch.linspace(-1, 2, len(targets_N)).double()  # every row has a gradient of its own
    for found, expected in [((logp_N, weights_N), (expected_N, weights_N)), ((total * 0.37,), (expected_N.sum(),))]:
        ours = torch.autograd.grad(found[0], leaves, *found[1:], retain_graph=True)
        theirs = torch.autograd.grad(expected[0], leaves, *expected[1:], retain_graph=True)
        factor = 1.0 if len(found) == 2 else -0.37
        assert all(near(a, factor * b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("trained", ["h", "w", "b", "hw", "hb", "wb"])
def test_only_what_is_trained_gets_a_gradient(trained: str) -> None:
    hidden_ND, weight_VD, bias_V, targets_N = example(37, 20, 700)
    leaves = {"h": hidden_ND, "w": weight_VD, "b": bias_V}
    (-plain(hidden_ND, weight_VD, targets_N, bias=bias_V)).sum().backward()
    expected = {name: leaf.grad for name, leaf in leaves.items()}
    for name, leaf in leaves.items():
        leaf.grad = None
        leaf.requires_grad_(name in trained)
    head_loss(hidden_ND, weight_VD, targets_N, bias=bias_V, chunk_rows=16).backward()
    for name, leaf in leaves.items():
        assert near(leaf.grad, expected[name]) if name in trained else leaf.grad is None


def test_a_gradient_of_finite_differences() -> None:
    hidden_ND, weight_VD, bias_V, targets_N = example(5, 3, 140, scale=0.5)

    def loss(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return token_logprobs(hidden, weight, targets_N, bias=bias, softcap=2.0, chunk_rows=2)

    assert torch.autograd.gradcheck(loss, (hidden_ND, weight_VD, bias_V), eps=1e-6, atol=1e-7, rtol=1e-6)


def test_a_tied_weight_gets_both_gradients() -> None:
    _, weight_VD, _, targets_N = example(37, 20, 700)
    ids_N = targets_N.roll(3).clamp_min(0)

    def gradient(function: Loss) -> torch.Tensor:
        hidden_ND = torch.tanh(F.embedding(ids_N, weight_VD))
        return torch.autograd.grad(function(hidden_ND, weight_VD, targets_N, chunk_rows=16).sum(), weight_VD)[0]

    assert near(gradient(token_logprobs), gradient(plain))


def test_no_rows_have_zero_gradients() -> None:
    hidden_ND, weight_VD, bias_V, targets_N = example(0, 8, 300)
    total = head_loss(hidden_ND, weight_VD, targets_N, bias=bias_V)
    grads = torch.autograd.grad(total, [hidden_ND, weight_VD, bias_V])
    assert total == 0 and [grad.shape for grad in grads] == [(0, 8), (300, 8), (300,)]
    assert all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("chunk", [1024, 40])
@pytest.mark.parametrize("softcap", [None, 30.0])
def test_low_precision_is_no_worse_than_autograd(dtype: torch.dtype, chunk: int, softcap: float | None) -> None:
    """The error against float64, ours and that of autograd from the same input, with float32 losses in both.

    Not the same: autograd rounds g p, this p and g h.
    """
    leaves = example(130, 64, 1011, dtype, scale=0.5)[:3]
    targets_N = example(130, 64, 1011)[3]
    weights_N = torch.linspace(-1, 2, 130)

    def gradients(function: Loss, wide: torch.dtype) -> list[torch.Tensor]:
        hidden, weight, bias = (leaf.detach().to(wide).requires_grad_() for leaf in leaves)
        loss_N = function(hidden, weight, targets_N, bias=bias, softcap=softcap, chunk_rows=chunk)
        grads = torch.autograd.grad(loss_N, [hidden, weight, bias], weights_N.to(loss_N.dtype))
        assert all(grad.dtype == wide for grad in grads)
        return [grad.double() for grad in grads]

    exact = gradients(plain, torch.float64)
    every = zip(gradients(token_logprobs, dtype), gradients(plain, dtype), exact, strict=True)
    for ours, theirs, right in every:
        assert (ours - right).norm() <= 1.25 * (theirs - right).norm()


def test_a_weight_of_another_dtype_than_the_hidden_states() -> None:
    hidden_ND, weight_VD, _, targets_N = example(37, 20, 700, torch.bfloat16, scale=0.5)
    wide_VD = weight_VD.detach().float().requires_grad_()
    found = torch.autograd.grad(head_loss(hidden_ND, wide_VD, targets_N, chunk_rows=16), [hidden_ND, wide_VD])
    exact = [hidden_ND.detach().double().requires_grad_(), wide_VD.detach().double().requires_grad_()]
    expected = torch.autograd.grad(-plain(*exact, targets_N).sum(), exact)
    assert [grad.dtype for grad in found] == [torch.bfloat16, torch.float32]
    for ours, theirs, bound in zip(found, expected, (4e-3, 1e-5), strict=True):
        assert (ours.double() - theirs).norm() <= bound * theirs.norm()


def test_autocast_counts_in_the_backward_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are in bfloat16 in both, as those of a linear layer; a later one with that weight keeps its gradient."""
    hidden_ND, weight_VD, bias_V, targets_N = example(130, 64, 1011, torch.float32, scale=0.5)
    dtypes: list[torch.dtype] = []

    def gradients(function: Loss) -> tuple[torch.Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16):
            total = function(hidden_ND, weight_VD, targets_N, bias=bias_V, chunk_rows=40).sum()
            total = total + F.linear(hidden_ND, weight_VD).float().square().sum()
        return torch.autograd.grad(total, [hidden_ND, weight_VD, bias_V])

    def noting(*arguments, **options) -> None:
        dtypes.append(arguments[0].dtype)
        real(*arguments, **options)

    real = subject.cross_entropy_slice_
    monkeypatch.setattr(subject, "cross_entropy_slice_", noting)
    found = gradients(token_logprobs)
    assert len(dtypes) > 1 and set(dtypes) == {torch.bfloat16}
    for ours, theirs in zip(found, gradients(plain), strict=True):
        assert ours.dtype == torch.float32 and (ours - theirs).norm() <= 1e-2 * theirs.norm()


@pytest.mark.parametrize("chunk", [1, 16, 100, 1024])
@pytest.mark.parametrize("vocab", [61, 128, 1009, 128_256])
@pytest.mark.parametrize("rows", [1, 100, 1025, 5000])
def test_a_slice_is_as_large_as_a_chunk(rows: int, vocab: int, chunk: int) -> None:
    width = slice_width(rows, vocab, chunk)
    assert width % ALIGNMENT == 0 and width < vocab + ALIGNMENT
    if rows > chunk:
        assert width == ALIGNMENT or rows * width <= chunk * vocab
    else:
        assert width >= vocab


@pytest.mark.parametrize("labelled", [False, True])
def test_no_more_logits_than_of_a_chunk_are_there_at_once(labelled: bool, monkeypatch) -> None:
    rows, hidden, vocab, chunk = 400, 8, 4000, 32
    hidden_ND, weight_VD, _, targets_N = example(rows, hidden, vocab, torch.float32)
    live = LiveBytes([hidden_ND, weight_VD, targets_N])
    monkeypatch.setattr(subject, "cross_entropy_slice_", live.kernel(subject.cross_entropy_slice_))
    monkeypatch.setattr(loss_module, "cross_entropy_rows", live.kernel(loss_module.cross_entropy_rows))
    monkeypatch.setattr(loss_module, "CHUNK_ROWS", chunk)
    head = torch.nn.Linear(hidden, vocab, bias=False)
    head.weight = torch.nn.Parameter(weight_VD.detach())
    with live:
        if labelled:
            labels_1T = F.pad(targets_N[None], (1, 0), value=IGNORE)
            labelled_loss(F.pad(hidden_ND, (0, 0, 0, 1))[None], head, labels_1T).backward()
        else:
            token_logprobs(hidden_ND, weight_VD, targets_N, chunk_rows=chunk).sum().backward()
    logits, weights, states = 4 * chunk * vocab, 4 * vocab * hidden, 4 * rows * hidden
    assert logits <= live.highest <= logits + weights + 8 * states


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_engine_trains_a_head(family: str) -> None:
    """A head of its own, and one tied to the embedding with capped logits."""
    engine = Engine.attach(lora_model(family))
    assert isinstance(engine, Engine)
    engine.chunk_rows = 5
    weight_VD, cap = engine.spec.head.weight.requires_grad_(), engine.spec.logit_softcap
    ids_1T, positions_1T = packed((23,))
    hidden_ND = engine.hidden(ids_1T, positions_1T, torch.arange(22))
    expected_N = plain(hidden_ND, weight_VD, ids_1T[0, 1:], softcap=cap)
    wanted = [weight_VD, *(parameter for layer in engine.layers for parameter in layer.parameters)]
    expected = torch.autograd.grad(expected_N.sum(), wanted)
    logp_N, total = (call(ids_1T, positions_1T, ids_1T) for call in (engine.logprobs, engine.loss_sum))
    assert near(logp_N, expected_N) and near(total, -expected_N.sum())
    for found in (torch.autograd.grad(logp_N.sum(), wanted), torch.autograd.grad(-total, wanted)):
        assert all(near(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
