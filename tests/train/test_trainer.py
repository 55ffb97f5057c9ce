"""The trainer's arithmetic: what a step's gradient is divided by, and that batches never change it."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import question
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    TrainerCallback,
    TrainingArguments,
)

from whet.data.loader import PackedDataset, PaddedDataset, Prepared, collate, collate_padded, prepare
from whet.data.records import PairRecord
from whet.data.tokens import encode_records
from whet.errors import OutputError
from whet.models.adapters import add_lora
from whet.text.encode import IGNORE
from whet.train.trainer import WhetTrainer

LENGTH = 96


@pytest.fixture(scope="module")
def tokenizer(tiny_llama_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_llama_dir)


@pytest.fixture(scope="module")
def prepared(tokenizer: Any) -> Prepared:
    """Four rows of different lengths, with different numbers of trained tokens."""
    rows = [question(a, b) for a, b in ((1, 2), (7, 4), (2, 9), (3, 5))]
    found = prepare(encode_records(tokenizer, [PairRecord(r["prompt"], r["completion"]) for r in rows]), LENGTH)
    trained = [int((found.row(i)[1] != IGNORE).sum()) for i in range(4)]
    assert len(set(trained)) > 2 and len(set(found.lengths.tolist())) > 2
    return found


@pytest.fixture(params=["lora", "full"])
def model(request: pytest.FixtureRequest, tiny_llama_dir: Path) -> Any:
    """Frozen head or trained head: the two ways of the loss."""
    base = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)
    return add_lora(base, rank=4, init_lora_weights=False) if request.param == "lora" else base


class CaptureGradients(TrainerCallback):
    """Gradients of the first step, before the optimizer."""

    def __init__(self) -> None:
        self.gradients: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def trainer_of(
    model: Any,
    prepared: Prepared,
    folder: Path,
    micro: int = 1,
    accumulate: int = 1,
    packed: bool = False,
    callbacks: list[Any] | None = None,
    **changes: Any,
) -> WhetTrainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=accumulate,
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=False,
        **{"max_steps": 1, "max_grad_norm": 0, "learning_rate": 1e-6, "save_strategy": "no", **changes},
    )
    dataset = PackedDataset(prepared, LENGTH) if packed else PaddedDataset(prepared)
    return WhetTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        eval_dataset=dataset,
        collate=partial(collate if packed else collate_padded, pad_id=3),
        tokenizer=None,
        callbacks=callbacks,
    )


def step_of(model: Any, prepared: Prepared, folder: Path, **options: Any) -> tuple[dict[str, torch.Tensor], float]:
    """Gradients and loss of one optimizer step over all rows."""
    capture = CaptureGradients()
    trainer = trainer_of(copy.deepcopy(model), prepared, folder, callbacks=[capture], logging_steps=1, **options)
    trainer.train()
    return capture.gradients, next(line["loss"] for line in trainer.state.log_history if "loss" in line)


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Largest relative difference of a gradient, over all parameters."""
    assert first and first.keys() == second.keys()
    return max(((first[n] - second[n]).norm() / second[n].norm().clamp_min(1e-12)).item() for n in first)


def plain_step(model: Any, prepared: Prepared) -> tuple[dict[str, torch.Tensor], float]:
    """The specification: transformers' own loss of each row, weighted by its trained tokens."""
    reference = copy.deepcopy(model).train()
    total = 0.0
    for i in range(len(prepared)):
        ids, labels = (torch.tensor(part, dtype=torch.long)[None] for part in prepared.row(i))
        share = int((labels[:, 1:] != IGNORE).sum()) / prepared.stats.trained_tokens
        loss = reference(input_ids=ids, labels=labels).loss * share
        loss.backward()
        total += loss.item()
    return {n: p.grad for n, p in reference.named_parameters() if p.grad is not None}, total


@pytest.mark.parametrize(
    ("micro", "accumulate", "packed"),
    [(4, 1, False), (1, 4, False), (2, 2, False), (3, 2, False), (4, 1, True), (1, 4, True)],
)
def test_every_way_of_batching_gives_the_gradient_of_the_mean_over_tokens(
    model: Any, prepared: Prepared, tmp_path: Path, micro: int, accumulate: int, packed: bool
) -> None:
    expected, loss = plain_step(model, prepared)
    found, found_loss = step_of(model, prepared, tmp_path, micro=micro, accumulate=accumulate, packed=packed)
    assert difference(found, expected) <= 2e-5  # float32, sums in another order
    assert found_loss == pytest.approx(loss, rel=1e-5)


def test_packing_really_packs(prepared: Prepared) -> None:
    assert len(PackedDataset(prepared, LENGTH)) < len(prepared)


def test_averaging_over_micro_batches_would_be_another_gradient(model: Any, prepared: Prepared) -> None:
    """What the test above would miss if all rows had the same number of trained tokens."""
    averaged = copy.deepcopy(model).train()
    for i in range(len(prepared)):
        ids, labels = (torch.tensor(part, dtype=torch.long)[None] for part in prepared.row(i))
        (averaged(input_ids=ids, labels=labels).loss / len(prepared)).backward()
    wrong = {n: p.grad for n, p in averaged.named_parameters() if p.grad is not None}
    assert difference(wrong, plain_step(model, prepared)[0]) > 1e-2


def test_the_loss_of_one_row_is_transformers_own(model: Any, prepared: Prepared, tmp_path: Path) -> None:
    trainer = trainer_of(model, prepared, tmp_path)
    for i in range(len(prepared)):
        batch = collate_padded([PaddedDataset(prepared)[i]])
        expected = model(input_ids=batch["input_ids"], labels=batch["labels"]).loss
        assert trainer.compute_loss(model, batch).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("micro", [1, 3])
def test_validation_is_the_mean_over_tokens(
    model: Any, prepared: Prepared, tmp_path: Path, packed: bool, micro: int
) -> None:
    trainer = trainer_of(model, prepared, tmp_path, micro=micro, packed=packed)
    model.train()
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(plain_step(model, prepared)[1], rel=1e-5)
    assert metrics["eval_tokens"] == prepared.stats.trained_tokens
    assert model.training and all(p.grad is None for p in model.parameters())


def test_a_model_that_caps_its_logits_runs_on_its_own_forward(prepared: Prepared, tmp_path: Path) -> None:
    torch.manual_seed(4)
    config = Gemma2Config(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=0.05,
        attn_implementation="eager",
    )
    model = Gemma2ForCausalLM(config)
    expected, loss = plain_step(model, prepared)
    found, found_loss = step_of(model, prepared, tmp_path, micro=2, accumulate=2)
    assert trainer_of(model, prepared, tmp_path).halves is None
    assert difference(found, expected) <= 2e-5  # float32, sums in another order
    assert found_loss == pytest.approx(loss, rel=1e-5)


def test_the_model_s_own_halves_are_not_run_where_the_engine_is(model: Any, prepared: Prepared, tmp_path: Path) -> None:
    """Finding them takes two forwards of the whole model; after the training, its own forward needs them."""
    trainer = trainer_of(model, prepared, tmp_path)
    assert ("halves" in vars(trainer)) == (trainer.forward != "engine")
    assert trainer.halves is not None


def test_the_meter_counts_real_tokens(model: Any, prepared: Prepared, tmp_path: Path, tokenizer: Any) -> None:
    """Padding is not counted, whatever the batch."""
    trainer = trainer_of(model, prepared, tmp_path, micro=4)
    trainer.processing_class = tokenizer
    trainer.train()
    assert trainer.meter.tokens == prepared.stats.tokens
    assert trainer.meter.trained == prepared.stats.trained_tokens


def test_gradient_checkpointing_changes_nothing(model: Any, prepared: Prepared, tmp_path: Path) -> None:
    plain, loss = step_of(model, prepared, tmp_path, micro=4)
    switch = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    again, loss_again = step_of(model, prepared, tmp_path, micro=4, **switch)
    assert difference(again, plain) <= 1e-6 and loss_again == pytest.approx(loss, rel=1e-6)


def test_a_place_that_cannot_be_written_is_an_output_error(model: Any, prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    trainer = trainer_of(model, prepared, tmp_path / "run", save_strategy="steps", save_steps=1)
    trainer.args.output_dir = str(tmp_path / "file" / "run")
    with pytest.raises(OutputError):
        trainer.train()


def test_the_trained_model_is_merged_and_saved_as_usual(model: Any, prepared: Prepared, tmp_path: Path) -> None:
    """The engine holds the weights in its buffers while it trains, and gives them back."""
    if not hasattr(model, "merge_and_unload"):
        pytest.skip("a model without adapters")
    step_of(model, prepared, tmp_path, micro=2, accumulate=1, packed=False)
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    merged = copy.deepcopy(model).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    assert list((tmp_path / "merged").glob("*.safetensors"))
