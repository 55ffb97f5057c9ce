"""A prompt that both answers share, computed once: the engine's way and the model's own forward's."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_step import KINDS, difference, plain_step, step_of
from transformers import AutoConfig, AutoModelForCausalLM

from whet import console
from whet.data.answer_loader import AnswerDataset, CollateAnswers, collate_answers
from whet.data.answer_rows import AnswerRows
from whet.engine.read import read_model
from whet.text.encode import IGNORE
from whet.train.batches import count_batches
from whet.train.preference.dpo import Dpo
from whet.train.shared_attention import is_told, sharing_prompts

sys.path.insert(0, str(Path(__file__).parents[2] / "engine"))
from reference import reference_logits


def test_a_prompt_is_stored_once(pairs: AnswerRows) -> None:
    dataset = AnswerDataset(pairs)
    assert (dataset.shared.tokens > 3).all() and dataset.shared.differing == 0
    for number in range(len(dataset)):
        item, spared = dataset[number], int(dataset.shared.tokens[number])
        first, second = (pairs.prepared.row(2 * number + place) for place in (0, 1))
        assert len(item["input_ids"]) == len(first[0]) + len(second[0]) - spared
        rest = item["input_ids"][len(first[0]) :]
        assert rest.tolist() == second[0][spared:].tolist()
        assert item["position_ids"][len(first[0]) :].tolist() == list(range(spared, len(second[0])))
        answers = [[label for label in labels.tolist() if label != IGNORE] for _, labels in (first, second)]
        assert item["labels"][item["labels"] != IGNORE].tolist() == [*answers[0], *answers[1]]
    batch = collate_answers([dataset[0], dataset[3]], flat=True)
    lengths = pairs.prepared.lengths
    assert batch["layout"].lengths == tuple(int(lengths[n]) for n in (0, 1, 6, 7))
    assert batch["layout"].shared == (0, dataset.shared.tokens[0], 0, dataset.shared.tokens[3])
    dataset.share = False
    assert len(dataset[0]["input_ids"]) == lengths[0] + lengths[1]


def test_the_plan_counts_shared_tokens_once(pairs: AnswerRows) -> None:
    dataset = AnswerDataset(pairs)
    shared = count_batches(dataset, 2, 1, seed=0)
    stored = [len(dataset[number]["input_ids"]) for number in range(len(dataset))]
    assert shared.largest.tokens == sum(sorted(stored)[-2:]) and shared.typical.tokens >= sum(stored) / 4
    dataset.share = False
    twice = count_batches(dataset, 2, 1, seed=0)
    assert twice.largest.tokens > shared.largest.tokens and twice.largest.seen == twice.largest.tokens
    assert shared.largest.seen >= shared.largest.tokens + max(dataset.shared.tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_are_the_plain_computation(
    make_model: Callable[..., Any], make_trainer: Callable[..., Any], pairs: AnswerRows, kind: str
) -> None:
    """The engine computes in float64 throughout. transformers' norms run in float32 also in a float64 model, so that it
    is the one that errs (1.5e-6 here); the model's own forward errs as it does."""
    engine = not kind.endswith("own")
    model, base = make_model(kind).double(), make_model("full").double()
    expected, loss = plain_step(model, base, pairs, Dpo(0.3))
    exact, _ = plain_step(model, base, pairs, Dpo(0.3), exact_logprobs) if engine else (expected, loss)
    trainer = make_trainer(model, pairs, Dpo(0.3), micro=3, accumulate=3, flat=True, learning_rate=0.0)
    assert (trainer.engine is not None) == engine
    seen: list[int] = []
    found, line = step_of(watched(trainer, seen))
    spared = int(AnswerDataset(pairs).shared.tokens.sum())
    assert sum(seen[-3:]) == pairs.prepared.stats.tokens - spared  # before come those of the reference
    assert line["loss"] == pytest.approx(loss, rel=1e-6)
    if engine:
        assert difference(found, exact) < 1e-10
        assert difference(found, expected) <= difference(expected, exact) + 1e-10
    else:
        assert difference(found, expected) < 1e-6
    assert not is_told(trainer.model)


def exact_logprobs(model: Any, rows: AnswerRows) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``plain_logprobs``, by the engine's test reference: float64 but for the rotation's tables."""
    spec, sums, counts = read_model(model, training=False), [], []
    for number in range(len(rows.prepared)):
        ids, labels = (torch.tensor(part, dtype=torch.long) for part in rows.prepared.row(number))
        logp = reference_logits(spec, ids[None], torch.arange(len(ids))[None])[:-1].log_softmax(-1)
        trained = labels[1:] != IGNORE
        sums.append(logp.gather(1, ids[1:, None])[:, 0][trained].sum())
        counts.append(trained.sum())
    return torch.stack(sums), torch.stack(counts).double()


def watched(trainer: Any, seen: list[int]) -> Any:
    """Notes the tokens of every micro-batch."""
    collate: CollateAnswers = trainer.data_collator

    class Noting(CollateAnswers):
        def __call__(self, items: Any) -> Any:
            batch = super().__call__(items)
            seen.append(batch["layout"].real)
            return batch

    trainer.data_collator = Noting(collate.pad_id, flat=collate.flat)
    return trainer


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gemma3_text", "mistral"])
def test_families_by_their_own_forward(family: str, checkpointing: bool) -> None:
    """Windows, caps and gradient checkpointing, in float32, against prompts that are computed twice."""
    numbers = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64, "head_dim": 8}
    numbers |= {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 4}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **numbers)).train()
    before = model.config._attn_implementation
    dataset, collate = AnswerDataset(rows_of(6)), CollateAnswers()
    wanted, logp = gradients_of(copy.deepcopy(model), None)
    if checkpointing:
        model.gradient_checkpointing_enable()
    with sharing_prompts(model, [dataset], collate):
        assert is_told(model) and collate.flat and dataset.share
        found, got = gradients_of(model, collate([dataset[number] for number in range(len(dataset))]))
    assert model.config._attn_implementation == before
    assert (got - logp).abs().max() < 1e-4
    assert difference(found, wanted) < 1e-4


def test_float32_weights_under_autocast() -> None:
    """Rotated heads are float32 there, values bfloat16, as torch's own attention takes them too."""
    numbers = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64, "head_dim": 8}
    numbers |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **numbers)).train()
    dataset, collate = AnswerDataset(rows_of(6)), CollateAnswers()
    _, wanted = gradients_of(copy.deepcopy(model), None)
    with sharing_prompts(model, [dataset], collate), torch.autocast("cpu", torch.bfloat16):
        found, got = gradients_of(model, collate([dataset[number] for number in range(len(dataset))]))
    assert 0 < (got - wanted).abs().max() < 0.05
    assert found and all(torch.isfinite(gradient).all() for gradient in found.values())


def gradients_of(model: Any, batch: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Of a sum of log-probabilities with weights; without a batch one text after the other."""
    from contextlib import nullcontext

    from whet.train.forward import Forward

    if batch is not None:
        logp_N = Forward(model, model, None, None, nullcontext, True).logprobs(batch)
    else:
        parts, rows = [], rows_of(6).prepared
        for number in range(len(rows)):
            ids, labels = (torch.tensor(part).long() for part in rows.row(number))
            logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
            parts.append(logits.log_softmax(-1).gather(1, ids[1:, None])[:, 0][labels[1:] != IGNORE])
        logp_N = torch.cat(parts)
    (logp_N * torch.linspace(-1, 2, len(logp_N))).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, logp_N.detach()


def rows_of(count: int) -> AnswerRows:
    from whet.data.prepare import prepare
    from whet.text.encode import Encoded

    generator = torch.Generator().manual_seed(5)
    documents = []
    for number in range(count):
        prompt = torch.randint(3, 60, (4 + 3 * number,), generator=generator).tolist()
        for size in (3 + number, 9 - number):
            answer = torch.randint(3, 60, (size,), generator=generator).tolist()
            documents.append(Encoded([*prompt, *answer], ((len(prompt), len(prompt) + size),)))
    return AnswerRows(prepare(documents, 64), 2)


def test_a_model_that_cannot_says_why(
    make_model: Callable[..., Any], make_trainer: Callable[..., Any], pairs: AnswerRows, capsys: Any
) -> None:
    console.forget_notices()
    model = make_model("full own")
    model.config.attention_dropout = 0.1
    trainer = make_trainer(model, pairs, Dpo(0.1), accumulate=8)
    seen: list[int] = []
    _, line = step_of(watched(trainer, seen))
    assert "prompts are computed twice, once for each answer: its attention_dropout is 0.1" in capsys.readouterr().err
    assert sum(seen[-8:]) == pairs.prepared.stats.tokens
    assert math.isfinite(line["loss"]) and not is_told(model)
    assert not trainer.train_dataset.share and not trainer.eval_dataset.share


def test_an_evaluation_after_the_training_shares_too(
    make_model: Callable[..., Any], make_trainer: Callable[..., Any], pairs: AnswerRows
) -> None:
    """The engine is gone then: the model's own forward gives the same figures."""
    trainer = make_trainer(make_model("lora"), pairs, Dpo(0.3), micro=8, flat=True, learning_rate=0.0)
    before = trainer.evaluate()
    trainer.train()
    assert trainer.engine is None
    after = trainer.evaluate()
    assert after["eval_loss"] == pytest.approx(before["eval_loss"], rel=1e-5)
