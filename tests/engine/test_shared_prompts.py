"""Documents that begin alike and store their beginning once, against documents that stand there whole."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attention_cases import SCALE, E, heads_of, off, reference
from families import FAMILIES, lora_model, packed
from reference import reference_logits
from test_memory import KERNELS, LiveBytes, engine, tensors  # noqa: F401

import whet.engine.attention as attention_module
import whet.engine.layer as layer_module
from whet.data.answer_loader import AnswerDataset, collate_answers
from whet.data.answer_rows import AnswerRows
from whet.data.prepare import prepare
from whet.engine.attention import Documents, attention, attention_backward, documents_of
from whet.engine.documents import Scores, spans_of
from whet.engine.forward import Engine
from whet.engine.layer import Batch, keep, layer_backward, layer_forward
from whet.engine.loss import module_logprobs, token_logprobs
from whet.engine.memory import POLICIES, layer_bytes
from whet.text.encode import Encoded
from whet.train.forward import Forward
from whet.train.preference.answers import Answers
from whet.train.preference.dpo import Dpo
from whet.train.preference.objective import PreferenceObjective

# Two pairs, a document alone, three answers to one prompt, and one that goes on from a part of the second pair's prompt
LENGTHS, SHARED = (9, 12, 40, 33, 5, 8, 7, 9, 11), (0, 6, 0, 25, 0, 0, 4, 4, 2)
TOKENS = sum(LENGTHS) - sum(SHARED)
VARIANTS = [Scores(SCALE), Scores(SCALE, softcap=3.0), Scores(SCALE, window=7), Scores(SCALE, 3.0, 2)]


def positions_of(lengths: tuple[int, ...], shared: tuple[int, ...]) -> torch.Tensor:
    return torch.cat([torch.arange(common, length) for length, common in zip(lengths, shared, strict=True)])[None]


def whole(t_T: torch.Tensor, lengths: tuple[int, ...], shared: tuple[int, ...]) -> list[torch.Tensor]:
    """Every document by itself, without the code under test."""
    found: list[torch.Tensor] = []
    at = 0
    for length, common in zip(lengths, shared, strict=True):
        own = t_T[at : at + length - common]
        found.append(torch.cat([found[-1][:common], own]) if common else own)
        at += length - common
    return found


@pytest.mark.parametrize("scores", VARIANTS, ids=str)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 2e-6), (torch.bfloat16, 8e-3)])
def test_attention_is_that_of_whole_documents(scores: Scores, dtype: torch.dtype, bound: float) -> None:
    heads = heads_of(TOKENS, 6, 2, dtype)
    do = torch.randn(TOKENS, 6, E).to(dtype)
    documents = Documents.of(LENGTHS, shared=SHARED)
    assert documents.tokens == TOKENS
    o, saved = attention(*heads, documents, **scores._asdict())
    found = [o, *attention_backward(do, *heads, o, saved, documents, **scores._asdict())]
    exact = [t.double().detach().requires_grad_() for t in heads]
    parts = [whole(t, LENGTHS, SHARED) for t in exact]
    outputs = [reference(list(one), (len(one[0]),), scores) for one in zip(*parts, strict=True)]
    wanted_o = torch.cat([part[common:] for part, common in zip(outputs, SHARED, strict=True)])
    wanted = [wanted_o.detach(), *torch.autograd.grad(wanted_o, exact, do.double())]
    assert [t.dtype for t in found] == [dtype] * 4
    assert off(found, wanted) < bound
    into = [torch.full_like(t, float("nan")) for t in heads]
    attention_backward(do, *heads, o, saved, documents, **scores._asdict(), out=tuple(into))
    assert all(torch.equal(one, other) for one, other in zip(into, found[1:], strict=True))


def test_a_branch_does_not_see_the_other() -> None:
    heads = heads_of(TOKENS, 6, 2)
    documents = Documents.of(LENGTHS, shared=SHARED)
    before, _ = attention(*heads, documents, scale=SCALE)
    changed = [t.clone() for t in heads]
    for t in changed:
        t[6:9] += 1  # the chosen answer of the first pair
    after, _ = attention(*changed, documents, scale=SCALE)
    same = torch.ones(TOKENS, dtype=torch.bool)
    same[6:9] = False
    assert torch.equal(before[same], after[same]) and not torch.equal(before[6:9], after[6:9])


def test_positions_say_what_is_shared() -> None:
    assert spans_of(positions_of(LENGTHS, SHARED)) == (LENGTHS, SHARED)
    assert spans_of(torch.arange(5).repeat(2, 1)) == ((5, 5), ())
    found, given = documents_of(positions_of(LENGTHS, SHARED)), Documents.of(LENGTHS, shared=SHARED)
    assert found.rows is not None and given.rows is not None
    assert all(torch.equal(one, other) for one, other in zip(found.rows, given.rows, strict=True))
    assert given.rows.rows_JT.shape == (4, TOKENS)  # one token stands in four documents at most


@pytest.mark.parametrize("shared", [(1, 0), (0, 3), (0, 5), (0, -1)])
def test_what_cannot_be_shared_is_refused(shared: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shares"):
        Documents.of((2, 3), shared=shared)


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_whole_documents(family: str) -> None:
    """A loss that weighs every token differently, in float64, against plain autograd."""
    model = lora_model(family)
    found = Engine.attach(model)
    assert isinstance(found, Engine)
    ids, _ = packed((TOKENS,))
    positions = positions_of(LENGTHS, SHARED)
    labels, labelled, at = torch.full_like(ids, -100), [], 0
    for length, common in zip(LENGTHS, SHARED, strict=True):
        labels[0, at + 1 : at + length - common] = ids[0, at + 1 : at + length - common]
        labelled.append(length - common - 1)
        at += length - common
    weight_N = torch.randn(sum(labelled), dtype=torch.float64)
    logp_N, at = [], 0
    for document, count in zip(whole(ids[0], LENGTHS, SHARED), labelled, strict=True):
        logits = reference_logits(found.spec, document[None], torch.arange(len(document))[None])
        logp = logits[:-1].log_softmax(-1).gather(1, document[1:, None])[:, 0]
        logp_N.append(logp[len(logp) - count :])
    wanted_N = torch.cat(logp_N)
    model.zero_grad()
    (wanted_N * weight_N).sum().backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    for policy in POLICIES:
        found.policies = [policy] * len(found.layers)
        for given in ((LENGTHS, SHARED), (None, ())):
            model.zero_grad()
            got_N = found.logprobs(ids, positions, labels, None, *given)
            (got_N * weight_N).sum().backward()
            assert (got_N - wanted_N).abs().max() < 1e-11 * wanted_N.abs().max()
            for name, gradient in wanted.items():
                parameter = model.get_parameter(name)
                assert parameter.grad is not None
                assert (parameter.grad - gradient).norm() <= 1e-11 * gradient.norm(), (policy, name)


@pytest.mark.parametrize("policy", POLICIES)
def test_memory_of_shared_rows(engine: Any, policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """As ``test_a_layer_takes_what_the_lists_say``, where attention looks at more rows than there are tokens."""
    attached, shape = engine
    lengths, shared = (40, 36, 9), (0, 21, 0)
    tokens, seen = 64, 85
    positions = positions_of(lengths, shared)
    documents = documents_of(positions, lengths, shared)
    batch = Batch(documents, attached.spec.rotary(positions, torch.float32))
    assert documents.rows is not None
    layer, x, dy = attached.layers[0], torch.randn(tokens, 32), torch.randn(tokens, 32)
    held = [group.storage.buffer for group in layer.groups] + layer.parameters + tensors(batch.tables)
    held += [documents.cu, *tensors(tuple(documents.rows))]
    expected = layer_bytes(shape, policy, tokens, seen=seen)
    assert expected.forward >= layer_bytes(shape, policy, tokens).forward

    def counted(known: list[Any]) -> LiveBytes:
        live = LiveBytes(known)
        for (place, name), call in CALLS.items():
            monkeypatch.setattr(place, name, live.kernel(call))
        return live

    with torch.no_grad():
        with counted([x, *held]) as live:
            y, kept = layer_forward(x, layer, batch)
        assert live.highest == expected.forward
        left = keep(kept, policy)
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(left)}
        assert sum(storages.values()) == expected.kept
        del y, kept
        with counted([dy, *held, *tensors(left)]) as live:
            layer_backward(dy, left, layer, batch)
    unseen = shape.layer_adapters * 4 + seen * (3 * shape.attended + shape.heads) * 4
    assert live.highest <= expected.backward - dy.nbytes <= live.highest + unseen


CALLS = {
    (place, name): getattr(place, name)
    for place, names in KERNELS.items()
    for name in names
    if (place, name) not in ((layer_module, "attention"), (layer_module, "attention_backward"))
} | {(attention_module, name): getattr(attention_module, name) for name in ("_forward", "_backward")}


def pairs(count: int = 4) -> AnswerRows:
    """Pairs of uneven lengths; the prompts of one are not the same in both texts."""
    generator = torch.Generator().manual_seed(7)

    def draw(size: int) -> list[int]:
        return torch.randint(3, 60, (size,), generator=generator).tolist()

    documents = []
    for number in range(count):
        prompt = draw(3 + 5 * number)
        for size in (2 + number, 6 - number):
            begins = prompt if number != 1 or size == 3 else [*prompt[:-3], 1, *prompt[-2:]]
            documents.append(Encoded([*begins, *draw(size)], ((len(begins), len(begins) + size),)))
    return AnswerRows(prepare(documents, 64), 2)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gemma3"])
def test_a_dpo_step_in_float64(family: str) -> None:
    """The whole step on packed pairs against two plain forwards of every text."""
    model, rows, method = lora_model(family), pairs(), Dpo(0.3)
    found = Engine.attach(model)
    assert isinstance(found, Engine)
    dataset = AnswerDataset(rows)
    assert dataset.shared.tokens.tolist() == [2, 5, 12, 17] and dataset.shared.differing == 1

    def texts() -> list[Answers]:
        sums, counts = [], []
        for number in range(len(rows.prepared)):
            ids, labels = (torch.tensor(part).long() for part in rows.prepared.row(number))
            logits = reference_logits(found.spec, ids[None], torch.arange(len(ids))[None])
            logp = logits[:-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0][labels[1:] != -100]
            sums.append(logp.sum())
            counts.append(len(logp))
        both = torch.stack(sums), torch.tensor(counts).double()
        return [Answers(both[0][place::2], both[1][place::2]) for place in (0, 1)]

    scales = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_B" in name}
    with torch.no_grad():
        for name in scales:
            model.get_parameter(name).zero_()
        reference = [side.logp_P for side in texts()]
        for name, value in scales.items():
            model.get_parameter(name).copy_(value)
    policy = texts()
    chosen, rejected = (side._replace(reference_P=logp) for side, logp in zip(policy, reference, strict=True))
    loss = method(chosen, rejected).loss_P.sum()
    model.zero_grad()
    loss.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    forward, objective = Forward(model, model, found, None, nullcontext), PreferenceObjective(method)
    for items in ([[0, 1, 2, 3]], [[3, 0], [2, 1]], [[0], [1], [2], [3]]):
        model.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for numbers in items:
            batch = collate_answers([dataset[number] for number in numbers], flat=True)
            part = objective.loss_sum(forward, batch)
            part.backward()
            total += part.detach()
        assert (total - loss).abs() <= 1e-10 * loss.abs()
        for name, gradient in wanted.items():
            parameter = model.get_parameter(name)
            assert parameter.grad is not None
            assert (parameter.grad - gradient).norm() <= 1e-10 * gradient.norm(), (items, name)


@pytest.mark.parametrize(("dtype", "nf4"), [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)])
def test_step_0_has_no_margin(dtype: torch.dtype, nf4: bool) -> None:
    """An adapter that does nothing yet: the reference comes from the same rows by the same kernels, bit for bit."""
    model = lora_model("llama", dtype, nf4=nf4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    found = Engine.attach(model)
    assert isinstance(found, Engine)
    dataset, objective = AnswerDataset(pairs()), PreferenceObjective(Dpo(0.1))
    forward = Forward(model, model, found, None, nullcontext)
    batch = collate_answers([dataset[number] for number in range(4)], flat=True)
    loss = objective.loss_sum(forward, batch) / 4
    figures = objective.training.take()
    assert abs(loss.item() - math.log(2)) < 1e-6
    assert figures["rewards/margins"] == figures["rewards/chosen"] == figures["kl"] == 0


@pytest.mark.parametrize("head", ["frozen", "trained", "any"])
def test_memory_does_not_grow_with_the_vocabulary(head: str) -> None:
    """But for the weights themselves and their gradients: no tensor has a row of logits for every answer token."""
    chunk, peaks = 8, []
    sizes = (1000, 9000)
    for vocab in sizes:
        weight = torch.randn(vocab, 32, requires_grad=head != "frozen")
        hidden = torch.randn(400, 32, requires_grad=True)
        targets = torch.randint(0, vocab, (400,))
        with LiveBytes([hidden, weight, targets]) as live:
            if head == "any":
                logp = module_logprobs(hidden, lambda rows, w=weight: F.linear(rows, w), targets, chunk_rows=chunk)
            else:
                logp = token_logprobs(hidden, weight, targets, chunk_rows=chunk)
            logp.sum().backward()
        peaks.append(live.highest)
    of_logits = 4 * chunk * (sizes[1] - sizes[0])
    of_weights = 4 * 32 * (sizes[1] - sizes[0])
    assert peaks[1] - peaks[0] <= 4 * of_logits + (0 if head == "frozen" else 3 * of_weights) + 2**16
    assert peaks[1] - peaks[0] < 4 * 400 * (sizes[1] - sizes[0]) / 4
