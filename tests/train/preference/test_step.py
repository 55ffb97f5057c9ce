"""The step: against the plain computation, at step 0, and under every way of cutting it into micro-batches."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from whet.data.answer_loader import AnswerDataset, collate_answers
from whet.data.answer_rows import AnswerRows
from whet.models.adapters import add_lora
from whet.text.encode import IGNORE
from whet.train.preference.answers import Answers
from whet.train.preference.dpo import Dpo
from whet.train.preference.kto import Kto
from whet.train.preference.orpo import Orpo
from whet.train.preference.simpo import Simpo

METHODS = [Dpo(0.3), Dpo(0.3, "ipo"), Orpo(0.4), Simpo()]
Logprobs = Callable[[Any, AnswerRows], tuple[torch.Tensor, torch.Tensor]]  # of each answer: their sum, their number
KINDS = ["lora", "lora own", "full", "full own"]


class Capture(TrainerCallback):
    """Gradients before the optimizer."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def step_of(trainer: Any) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    capture = Capture()
    trainer.add_callback(capture)
    trainer.train()
    return capture.gradients, next(line for line in trainer.state.log_history if "loss" in line)


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first and first.keys() == second.keys()
    return max(((first[n] - second[n]).norm() / second[n].norm().clamp_min(1e-9)).item() for n in first)


def plain_tokens(model: Any, documents: Any) -> list[torch.Tensor]:
    """Of each document the log-probabilities of its trained tokens: one document at a time through the model's own
    forward with all logits, the specification."""
    found = []
    for number in range(len(documents)):
        ids, labels = (torch.tensor(part, dtype=torch.long) for part in documents.row(number))
        logp = model(input_ids=ids[None]).logits[0, :-1].double().log_softmax(-1)
        found.append(logp.gather(1, ids[1:, None])[:, 0][labels[1:] != IGNORE])
    return found


def plain_logprobs(model: Any, rows: AnswerRows) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of each document, and the number of its trained tokens."""
    found = plain_tokens(model, rows.prepared)
    return torch.stack([logp.sum() for logp in found]), torch.tensor(list(map(len, found))).double()


def plain_step(
    model: Any, base: Any, rows: AnswerRows, method: Any, logprobs: Logprobs = plain_logprobs
) -> tuple[dict[str, torch.Tensor], float]:
    model = copy.deepcopy(model).train()
    policy, counts = logprobs(model, rows)
    with torch.no_grad():
        reference, _ = logprobs(base, rows)
    pairs = [Answers(policy[i::2], counts[i::2], reference[i::2]) for i in (0, 1)]
    loss = method(*pairs).loss_P.mean()
    loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, loss.item()


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__ + getattr(m, "loss", ""))
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_plain_computation(
    make_model: Callable[..., Any], make_trainer: Callable[..., Any], pairs: AnswerRows, method: Any, kind: str
) -> None:
    model = make_model(kind)
    expected, loss = plain_step(model, make_model("full"), pairs, method)
    trainer = make_trainer(model, pairs, method, micro=3, accumulate=3)
    assert (trainer.engine is None) == kind.endswith("own")
    found, line = step_of(trainer)
    assert line["loss"] == pytest.approx(loss, rel=1e-5)
    assert difference(found, expected) < 2e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_kto_step_is_the_plain_computation(
    make_model: Callable[..., Any], make_trainer: Callable[..., Any], judged: AnswerRows, kind: str
) -> None:
    """Under the reference of another model, whose divergence is above 0."""
    method, model, other = Kto(0.3, bad_weight=1.2), make_model(kind), make_model("lora")
    plain, others, places = copy.deepcopy(model).train(), judged.others, judged.other_of
    assert others is not None and places is not None and judged.good is not None
    with torch.no_grad():
        reference = [plain_tokens(other, documents) for documents in (judged.prepared, others)]
        now = plain_tokens(plain, others)
    for logp in reference[1]:
        logp -= 0.05  # of all other answers
    ratios = [(now[place] - reference[1][place]).sum() for place in places.tolist() if place >= 0]
    z = torch.stack(ratios).mean()
    assert z > 0.05
    policy, counts = plain_logprobs(plain, judged)
    answers = Answers(policy, counts, torch.stack([logp.sum() for logp in reference[0]]))
    loss = method(answers, torch.tensor(judged.good), z).loss_P.mean()
    loss.backward()
    expected = {n: p.grad for n, p in plain.named_parameters() if p.grad is not None}
    trainer = make_trainer(model, judged, method, micro=4, accumulate=3)
    assert (trainer.engine is None) == kind.endswith("own")
    trainer.train_dataset.reference = [logp.float() for logp in (*reference[0], *reference[1])]
    found, line = step_of(trainer)
    assert line["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert line["kl_estimate"] == pytest.approx(z.item(), rel=1e-4)
    assert difference(found, expected) < 2e-4


@pytest.mark.parametrize("kind", ["fresh", "fresh own", "full", "full own"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_step_0_has_no_margin(
    make_model: Callable[..., Any], make_trainer: Callable[..., Any], pairs: AnswerRows, kind: str, dtype: torch.dtype
) -> None:
    trainer = make_trainer(make_model(kind, dtype), pairs, Dpo(0.1), accumulate=8)
    assert (trainer.engine is None) == kind.endswith("own")
    _, line = step_of(trainer)
    assert line["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert line["rewards/margins"] == 0 and line["rewards/chosen"] == 0 and line["kl"] == 0


@pytest.mark.parametrize("kind", ["full", "full own"])
def test_the_reference_of_full_fine_tuning(
    make_model: Callable[..., Any], make_trainer: Callable[..., Any], pairs: AnswerRows, kind: str
) -> None:
    """Of all pairs at once, computed before the first step."""
    trainer = make_trainer(make_model(kind), pairs, Dpo(0.1), micro=8)
    _, line = step_of(trainer)
    assert line["loss"] == pytest.approx(math.log(2), abs=1e-5) and abs(line["rewards/margins"]) < 1e-5


@pytest.mark.parametrize("own", ["", " own"])
@pytest.mark.parametrize("copied", [["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]])
def test_the_reference_has_no_whole_copies(
    make_model: Callable[..., Any], make_trainer: Callable[..., Any], pairs: AnswerRows, own: str, copied: list[str]
) -> None:
    """Embedding and head that are trained as a whole beside adapters: the reference has those of before."""
    base = make_model("full")
    model = add_lora(
        copy.deepcopy(base), rank=4, init_lora_weights=False, modules_to_save=copied, dropout=1e-9 if own else 0.0
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "modules_to_save" in name:
                weight.add_(0.1 * torch.randn_like(weight))
    trainer = make_trainer(model, pairs, Dpo(0.3))
    assert (trainer.engine is None) == bool(own)
    with trainer._sharing(trainer.train_dataset):
        batch = trainer.data_collator([trainer.train_dataset[item] for item in range(2)])
        forward = trainer._forward(trainer.model)
        with forward.reference():
            found = forward.logprobs(batch)
    with torch.no_grad():
        wanted = torch.cat(plain_tokens(base.eval(), pairs.prepared)[: 2 * 2])
    assert (found - wanted).abs().max() <= 1e-4


@pytest.mark.parametrize("method", [*METHODS, Kto(0.3)], ids=lambda m: type(m).__name__ + getattr(m, "loss", ""))
@pytest.mark.parametrize("kind", ["lora", "full", "full own"])
@pytest.mark.usefixtures("apart")
def test_batches_do_not_change_a_step(
    make_model: Callable[..., Any],
    make_trainer: Callable[..., Any],
    pairs: AnswerRows,
    judged: AnswerRows,
    method: Any,
    kind: str,
) -> None:
    model, rows = make_model(kind), judged if method.judged else pairs
    found = []
    for micro, accumulate, flat in ((1, len(rows), False), (len(rows), 1, False), (3, len(rows), True)):
        trainer = make_trainer(copy.deepcopy(model), rows, method, micro=micro, accumulate=accumulate, flat=flat)
        found.append(step_of(trainer))
    for gradients, line in found[1:]:
        assert line["loss"] == pytest.approx(found[0][1]["loss"], rel=1e-5)
        assert line["rewards/margins"] == pytest.approx(found[0][1]["rewards/margins"], abs=1e-5)
        assert difference(gradients, found[0][0]) < 1e-4


def test_training_raises_the_margin(
    make_model: Callable[..., Any], make_trainer: Callable[..., Any], pairs: AnswerRows
) -> None:
    trainer = make_trainer(make_model("fresh"), pairs, Dpo(0.5), micro=8, max_steps=12, learning_rate=1e-2)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert before["eval_rewards/margins"] == 0 and before["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert after["eval_rewards/margins"] > 0.1 and after["eval_rewards/accuracies"] > 0.9
    assert after["eval_loss"] < before["eval_loss"] and after["eval_kl"] > 0


def test_kto_separates_good_from_bad(
    make_model: Callable[..., Any], make_trainer: Callable[..., Any], judged: AnswerRows
) -> None:
    trainer = make_trainer(make_model("fresh"), judged, Kto(0.5), micro=12, max_steps=12, learning_rate=1e-2)
    trainer.train()
    assert trainer.evaluate()["eval_rewards/margins"] > 0.1


@pytest.mark.parametrize("flat", [False, True])
def test_batches_know_their_answers(pairs: AnswerRows, flat: bool) -> None:
    dataset = AnswerDataset(pairs)
    batch = collate_answers([dataset[5], dataset[1]], pad_id=3, flat=flat)
    assert len(batch["input_ids"]) == (1 if flat else 2)
    layout = batch["answers"]
    assert layout.documents == (10, 11, 2, 3) and layout.examples == 2
    assert sum(layout.tokens) == len(batch["rows"]) == batch["layout"].labelled
    targets = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE).flatten()[batch["rows"]]
    for part, number in zip(targets.split(layout.tokens), layout.documents, strict=True):
        labels = pairs.prepared.row(number)[1]
        assert part.tolist() == labels[labels != IGNORE].tolist()


@pytest.mark.parametrize("kind", ["lora", "full", "full own"])
def test_nothing_holds_a_model_after_its_training(
    make_model: Callable[..., Any], make_trainer: Callable[..., Any], pairs: AnswerRows, kind: str
) -> None:
    """Gradients of several micro-batches are added by hooks on the weights."""
    model = make_model(kind, torch.bfloat16)
    weights = [weakref.ref(parameter) for parameter in model.parameters()]
    make_trainer(model, pairs, Dpo(0.1), micro=2, accumulate=4).train()
    del model
    gc.collect()
    assert not any(weight() is not None for weight in weights)


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_validation_after_the_training_computes_as_one_in_it(
    make_model: Callable[..., Any], make_trainer: Callable[..., Any], pairs: AnswerRows, kind: str, dtype: torch.dtype
) -> None:
    """With a learning rate of 0 no margin either: its reference was computed by the engine."""
    trainer = make_trainer(make_model(kind, dtype), pairs, Dpo(0.1), learning_rate=0.0)
    during = trainer.evaluate()
    trainer.train()
    assert trainer.engine is None and trainer.forward == "engine"
    after = trainer.evaluate()
    assert trainer.engine is None and trainer.forward == "engine"
    assert after["eval_loss"] == during["eval_loss"] and after["eval_logps/chosen"] == during["eval_logps/chosen"]
    assert kind == "lora" or after["eval_rewards/margins"] == 0
    places = {weight.untyped_storage().data_ptr() for weight in trainer.model.parameters()}
    assert len(places) == len(list(trainer.model.parameters())) or kind == "lora"
