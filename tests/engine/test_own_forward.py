"""The model stays a plain transformers + PEFT model while an engine holds its weights, and afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from families import lora_model, packed
from live_bytes import LiveBytes

from whet.engine.forward import Engine
from whet.engine.spec import Unsupported


def engine_of(model: Any) -> Engine:
    engine = Engine.attach(model)
    assert not isinstance(engine, Unsupported), engine
    return engine


def own_step(model: Any, ids_1T: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients as TRL's trainer asks for them: labels go to the model's own forward."""
    model.zero_grad()
    loss = model(input_ids=ids_1T, labels=ids_1T, use_cache=False).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("nf4", [False, True], ids=["dense", "nf4"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["llama_biases", "gemma3", "phi3"])
def test_its_own_loss_and_gradients_are_what_they_were(family: str, dtype: torch.dtype, nf4: bool) -> None:
    """Attached, between two of the engine's steps, and released: the same to the last bits of a product's order."""
    model = lora_model(family, dtype, nf4=nf4)
    ids_1T, positions_1T = packed((23,))
    loss, grads = own_step(model, ids_1T)
    near = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]

    def same() -> None:
        again, found = own_step(model, ids_1T)
        assert found.keys() == grads.keys() and abs(again - loss) <= near * abs(loss)
        assert all((found[name] - value).norm() <= near * value.norm() for name, value in grads.items())

    engine = engine_of(model)
    same()
    ours = [engine.loss_sum(ids_1T, positions_1T, ids_1T) for _ in range(2)]
    ours[0].backward()
    same()
    ours[1].backward()
    assert torch.equal(ours[0], ours[1])
    engine.release()
    same()


def test_weights_are_given_back_one_group_at_a_time() -> None:
    """At the end of training the model and the engine's buffers are never both there as a whole."""
    model = lora_model("llama")
    engine = engine_of(model)
    buffers = [group.storage.buffer for layer in engine.layers for group in layer.groups]
    largest = max(buffer.numel() * buffer.element_size() for buffer in buffers)
    with LiveBytes(buffers) as live:
        del buffers
        engine.release()
    weights = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad and p.dim() == 2)
    assert 0 < live.highest <= largest < weights / 4


def test_both_forwards_follow_one_optimizer() -> None:
    """A step through the model's own forward is seen by the engine, and the other way round."""
    models = [lora_model("llama"), lora_model("llama")]
    ids_1T, positions_1T = packed((23,))
    optimizers = [torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=1e-2) for m in models]
    engine = engine_of(models[1])
    for step in range(4):
        losses = [own_step(models[0], ids_1T)[0]]
        if step % 2:
            losses.append(own_step(models[1], ids_1T)[0])
        else:
            models[1].zero_grad()
            loss = engine.loss_sum(ids_1T, positions_1T, ids_1T) / 22
            loss.backward()
            losses.append(loss.detach())
        for optimizer in optimizers:
            optimizer.step()
        assert abs(losses[0] - losses[1]) <= 1e-5 * losses[0]


@pytest.mark.parametrize("fused", [False, True], ids=["foreach", "fused"])
def test_the_engine_follows_any_optimizer(fused: bool) -> None:
    """torch's fused AdamW, which transformers takes by default, does not count the parameters' versions up."""
    model = lora_model("llama", torch.float32)
    ids_1T, positions_1T = packed((23,))
    engine = engine_of(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, fused=fused)
    for _ in range(3):
        loss = engine.loss_sum(ids_1T, positions_1T, ids_1T) / 22
        assert abs(loss - own_step(model, ids_1T)[0]) <= 1e-5 * loss
        optimizer.step()
    assert engine.loss_sum(ids_1T, positions_1T, ids_1T) / 22 < loss - 0.01


def trl_losses(folder: Path, attached: bool) -> list[float]:
    import trl
    from datasets import Dataset

    from whet.models.adapters import add_lora
    from whet.models.load import load_model
    from whet.sample import train_rows

    model, tokenizer = load_model("starter", dtype=torch.float32)
    model = add_lora(model.float(), rank=8, alpha=16)
    engine = engine_of(model) if attached else None
    args = trl.SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        max_steps=3,
        learning_rate=1e-3,
        max_length=128,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    rows = [{"prompt": row.question + "\n", "completion": row.sql} for row in train_rows()[:8]]
    trainer = trl.SFTTrainer(model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    found = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    if engine is not None:  # it sees what TRL's optimizer has changed
        ids_1T = torch.arange(20, 52)[None]
        own, _ = own_step(model, ids_1T)
        assert abs(engine.loss_sum(ids_1T, torch.arange(32)[None], ids_1T) / 31 - own) <= 1e-5 * own
    return found


def test_the_trainer_of_trl_trains_the_same(tmp_path: Path) -> None:
    """In a process of its own: TRL's loss is a Triton kernel where Triton is installed, so the CPU interprets it."""
    pytest.importorskip("trl")
    variables = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr[-3000:]
    plain, attached = json.loads(done.stdout.splitlines()[-1])
    assert len(plain) == 3 and len(set(plain)) == 3
    assert attached == pytest.approx(plain, rel=1e-4)


if __name__ == "__main__":
    print(json.dumps([trl_losses(Path(sys.argv[1]) / str(attached), attached) for attached in (False, True)]))
