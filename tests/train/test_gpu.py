"""The same training on a GPU: bfloat16 weights, float32 adapters, autocast. Run with: pytest -m gpu"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


def _rows(count: int) -> list[dict[str, str]]:
    from whet.sample import train_rows

    head = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    return [{"prompt": head.format(row.question), "completion": row.sql} for row in train_rows()[:count]]


def _train(folder: Path, packing: bool, **settings: object) -> tuple[object, object, object]:
    from whet import FastLanguageModel, SFTConfig, SFTTrainer

    model, tokenizer = FastLanguageModel.from_pretrained("starter", max_seq_length=512, load_in_4bit=False)
    model = FastLanguageModel.get_peft_model(model, r=16, lora_alpha=32)
    args = SFTConfig(
        output_dir=str(folder), learning_rate=4e-3, logging_steps=5, save_strategy="no", report_to="none", **settings
    )
    trainer = SFTTrainer(model, tokenizer, args=args, train_dataset=_rows(400), packing=packing)
    return model, tokenizer, trainer


@pytest.mark.parametrize("packing", [True, False])
def test_loss_falls_in_bf16(tmp_path: Path, packing: bool) -> None:
    import torch

    model, _, trainer = _train(
        tmp_path, packing, bf16=True, max_steps=60, per_device_train_batch_size=4 if packing else 16
    )
    frozen = {p.dtype for n, p in model.named_parameters() if not p.requires_grad}
    adapted = {p.dtype for n, p in model.named_parameters() if p.requires_grad}
    assert (frozen, adapted) == ({torch.bfloat16}, {torch.float32})
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < 0.5 * losses[0], losses


def test_packed_documents_do_not_see_each_other(tmp_path: Path) -> None:
    """Loss of packed rows equals the loss of the same rows one by one, within bfloat16."""
    import torch
    from torch.utils.data import DataLoader

    from whet.data.loader import PackedDataset, PaddedDataset, collate, collate_padded

    model, tokenizer, trainer = _train(tmp_path, True, bf16=True, max_steps=1)
    model.eval()

    def total(dataset: object, gather: object, size: int) -> tuple[float, int]:
        loss, count = 0.0, 0
        for batch in DataLoader(dataset, batch_size=size, collate_fn=partial(gather, pad_id=tokenizer.pad_token_id)):
            inputs = trainer._prepare_inputs(batch)
            with torch.no_grad():
                loss += float(trainer._loss_sum(trainer.model, inputs))
            count += int((batch["labels"][:, 1:] != -100).sum())
        return loss / count, count

    packed, n_packed = total(PackedDataset(trainer.prepared, 512), collate, 4)
    single, n_single = total(PaddedDataset(trainer.prepared), collate_padded, 1)
    assert n_packed == n_single
    assert packed == pytest.approx(single, rel=5e-3)


def test_the_plan_keeps_to_the_memory_that_was_given(tmp_path: Path) -> None:
    """Half way between all and least: probed before the first step, below the limit to the end, same loss."""
    import gc

    import torch

    from whet.train.memory_plan import Wish

    settings = {"bf16": True, "max_steps": 8, "per_device_train_batch_size": 24}
    roomy = _train(tmp_path, True, **settings)[2]
    roomy.train()
    plan = roomy.memory.planner.plan
    least = min(choice.reserved_bytes for choice in plan.alternatives)
    limit = (plan.reserved_bytes + least) // 2
    losses = [line["loss"] for line in roomy.state.log_history if "loss" in line]
    del roomy
    gc.collect()
    tight = _train(tmp_path, True, **settings)[2]
    tight.wish = Wish(max_memory=limit)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    tight.train()
    planner = tight.memory.planner
    assert set(planner.plan.policies) != {"none"} and planner.measured is not None
    assert torch.cuda.max_memory_reserved() <= limit
    predicted = planner.plan.peak_bytes  # less than is measured of a small model; the benchmark has real sizes
    assert 0.99 * predicted <= planner.measured <= predicted + planner.missing <= limit
    assert [line["loss"] for line in tight.state.log_history if "loss" in line] == pytest.approx(losses, rel=1e-3)


def test_greedy_answer_survives_saving(tmp_path: Path) -> None:
    from whet.evaluate.generate import greedy_answers
    from whet.models.load import load_for_inference

    model, tokenizer, trainer = _train(tmp_path, True, bf16=True, max_steps=30, per_device_train_batch_size=4)
    trainer.train()
    asked = [[{"role": "user", "content": "How many orders were placed in May 2022?"}]]
    before = greedy_answers(model, tokenizer, asked, max_new_tokens=48)
    model.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    again, tokenizer = load_for_inference(str(tmp_path / "adapter"))
    assert greedy_answers(again, tokenizer, asked, max_new_tokens=48) == before


def test_small_micro_batches_go_through_at_once(tmp_path: Path) -> None:
    """As many steps, nearly the same losses: bfloat16 rounds otherwise in other shapes."""
    from whet.train.memory_plan import Wish

    settings = {"bf16": True, "max_steps": 20, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    found = []
    for wish in (Wish("none"), Wish()):
        trainer = _train(tmp_path, True, **settings)[2]
        trainer.wish = wish
        trainer.train()
        assert trainer.state.global_step == 20
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        found.append((trainer.memory.at_once, trainer.meter.tokens, losses))
    (one, tokens, alone), (several, again, merged) = found
    assert (one, several) == (1, 8) and tokens == again
    assert merged == pytest.approx(alone, rel=0.1)
