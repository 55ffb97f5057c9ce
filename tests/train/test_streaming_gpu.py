"""Weights that stay in main memory, on a GPU: losses, memory and the model's own forward. Run with: pytest -m gpu"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import metrics_of, question
from transformers import AutoModelForCausalLM

from whet import FastLanguageModel, SFTConfig, SFTTrainer, api
from whet.engine.check import self_check
from whet.engine.forward import Engine
from whet.engine.streamed import Streamed
from whet.models.adapters import add_lora
from whet.runtime import device
from whet.train.streaming import keep_in_main_memory

pytestmark = pytest.mark.gpu

LAYERS = 12


@pytest.fixture(scope="module", autouse=True)
def cuda() -> Iterator[None]:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    yield
    gc.collect()
    torch.cuda.empty_cache()


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in metrics_of(run) if "loss" in line]


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_the_losses_of_weights_on_the_device(tmp_path: Path, write_config: Callable[..., Path], method: str) -> None:
    """The first step to the last bits; later ones follow the order of sums in attention's backward."""
    changes: dict[str, Any] = {"bf16": True}
    if method == "dpo":
        rows = [question(a, b) for a in range(6) for b in range(2, 6)]
        pairs = [{"prompt": r["prompt"], "chosen": r["completion"], "rejected": f"no {r['completion']}"} for r in rows]
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        changes |= {"rl": "dpo", "datasets": [{"path": str(tmp_path / "pairs.jsonl")}]}
    found = []
    for streamed in (False, True):
        out = str(tmp_path / f"run{streamed}")
        run = api.train(write_config(tmp_path, **changes, stream_weights=streamed, output_dir=out))
        assert json.loads((run / "manifest.json").read_text())["forward"] == "engine"
        found.append(losses(run))
    dense, streamed_losses = found
    assert streamed_losses[0] == pytest.approx(dense[0], rel=1e-6)
    assert streamed_losses == pytest.approx(dense, rel=2e-3)


def places(model: Any) -> tuple[set[str], set[str]]:
    """Devices of the projections' frozen weights, and of everything else."""
    named = list(model.named_parameters())
    projections = {p.device.type for name, p in named if "base_layer.weight" in name}
    others = {p.device.type for name, p in named if "base_layer.weight" not in name}
    return projections, others | {buffer.device.type for buffer in model.buffers()}


def test_in_a_notebook_the_models_own_forward_works_after_training(tmp_path: Path) -> None:
    model, tokenizer = FastLanguageModel.from_pretrained("starter", max_seq_length=256, stream_weights=True)
    assert {weight.device.type for weight in model.parameters()} == {"cpu"}
    model = FastLanguageModel.get_peft_model(model, r=4)
    assert places(model) == ({"cpu"}, {"cuda"})
    args = SFTConfig(
        output_dir=str(tmp_path), max_steps=4, save_strategy="no", report_to="none", logging_steps=1, bf16=True
    )
    rows = [question(a, b) for a in range(4) for b in range(2, 6)]
    trainer = SFTTrainer(model, tokenizer, args=args, train_dataset=rows)
    assert trainer.is_model_parallel is False and places(model) == ({"cpu"}, {"cuda"})
    storages = [group.storage for layer in trainer.engine.layers for group in layer.groups]
    assert all(isinstance(storage, Streamed) and storage.host.is_pinned() for storage in storages)
    trainer.train()
    assert places(model) == ({"cpu"}, {"cuda"})
    ids_BT = tokenizer("How many orders were placed?", return_tensors="pt").input_ids.cuda()
    model.eval()

    def outputs() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            made = model.generate(input_ids=ids_BT, max_new_tokens=8, do_sample=False)
            return model(input_ids=ids_BT).logits, made

    found = outputs()
    model.save_pretrained_merged(tmp_path / "merged", tokenizer)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).cuda()
    assert merged(input_ids=ids_BT).logits.argmax(-1).eq(found[0].argmax(-1)).float().mean() > 0.8
    model.to("cuda")  # the hooks have nothing to bring now
    wanted = outputs()
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])


def wide_model(streamed: bool) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 512, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": LAYERS}
    config = LlamaConfig(**sizes, num_attention_heads=8, num_key_value_heads=2)
    model = add_lora(LlamaForCausalLM(config).to(torch.bfloat16), rank=8).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    if not streamed:
        return model.cuda()
    keep_in_main_memory(model, device())
    return model


@pytest.mark.parametrize("policy", ["none", "full"])
def test_the_same_gradients_in_less_memory(policy: str) -> None:
    """Three passes, so that each ring turns. Two layers of twelve are on the device, and ten are saved."""
    ids_BT = torch.randint(0, 512, (1, 300), generator=torch.Generator().manual_seed(1)).cuda()
    positions_BT = torch.cat([torch.arange(170), torch.arange(130)])[None].cuda()
    found, peaks, layer = [], [], 0
    for streamed in (False, True):
        gc.collect()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        model = wide_model(streamed)
        layer = sum(p.nbytes for p in model.get_base_model().model.layers[0].parameters() if not p.requires_grad)
        engine = Engine.attach(model, policy)
        assert isinstance(engine, Engine)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        values = []
        for _ in range(3):
            model.zero_grad()
            loss = engine.loss_sum(ids_BT, positions_BT, ids_BT)
            loss.backward()
            values.append(float(loss))
        torch.cuda.synchronize()
        peaks.append(torch.cuda.max_memory_allocated() - before)
        grads = {name: p.grad.float().cpu() for name, p in model.named_parameters() if p.grad is not None}
        found.append((values, grads))
        engine.release()
        del model, engine, loss
    (dense, wanted), (losses_found, grads) = found
    assert losses_found == dense and len(set(dense)) == 1
    assert grads.keys() == wanted.keys() and grads
    for name, gradient in grads.items():
        assert (gradient - wanted[name]).norm() <= 1e-2 * wanted[name].norm(), name
    assert peaks[1] < peaks[0] - (LAYERS - 3) * layer


def test_the_engine_is_checked_through_the_hooks() -> None:
    model = wide_model(streamed=True)
    engine = Engine.attach(model)
    assert isinstance(engine, Engine)
    assert self_check(engine.spec, engine.run_layer, model) == ""
    engine.release()
    assert places(model) == ({"cpu"}, {"cuda"})
