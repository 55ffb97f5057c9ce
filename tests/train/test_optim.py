"""FlatAdamW is torch.optim.AdamW: the numbers, the checkpoints, and all that Trainer and accelerate do with it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, get_scheduler

from whet.errors import TrainingError
from whet.train.flat import FlatAdapters
from whet.train.optim import FlatAdamW, adapter_optimizer

RATE, BETAS, EPS, DECAY = 1e-2, (0.8, 0.95), 1e-7, 0.1
SHAPES = [(3, 5), (7,), (4, 33), (2,), (8, 8)]
BIASES = (1, 4)  # matrices 0, 2 and 3: one alone and two neighbours in the buffer


class Pair:
    """The same parameters twice: under torch's AdamW and under FlatAdamW."""

    def __init__(self, dtype: torch.dtype = torch.float64, flat_rate: float = RATE) -> None:
        self.made = torch.Generator().manual_seed(0)
        self.dtype = dtype
        self.plain = [torch.nn.Parameter(self.noise(shape)) for shape in SHAPES]
        self.owned = copy.deepcopy(self.plain)
        matrices = [self.plain[i] for i in range(len(SHAPES)) if i not in BIASES]
        groups = [
            {"params": matrices, "weight_decay": DECAY},
            {"params": [self.plain[i] for i in BIASES], "weight_decay": 0.0},
        ]
        self.torchs = torch.optim.AdamW(groups, lr=RATE, betas=BETAS, eps=EPS)
        self.flats = FlatAdamW(
            FlatAdapters(self.owned), flat_rate, BETAS, EPS, DECAY, undecayed=[self.owned[i] for i in BIASES]
        )

    def noise(self, shape: Any) -> torch.Tensor:
        return torch.randn(shape, generator=self.made, dtype=self.dtype)

    def step(self, without: tuple[int, ...] = ()) -> None:
        for i, (one, other) in enumerate(zip(self.plain, self.owned, strict=True)):
            one.grad = None if i in without else self.noise(one.shape)
            other.grad = None if i in without else one.grad.clone()
        self.torchs.step()
        self.flats.step()

    def difference(self) -> float:
        return max(float((a - b).detach().abs().max()) for a, b in zip(self.plain, self.owned, strict=True))


def test_fifty_steps_are_torchs() -> None:
    pair = Pair()
    for _ in range(50):
        pair.step()
    assert pair.difference() <= 1e-12
    for one, other in zip(pair.plain, pair.owned, strict=True):
        for key, value in pair.torchs.state[one].items():
            torch.testing.assert_close(pair.flats.state[other][key], value, rtol=1e-12, atol=1e-15)


def test_in_float32_it_is_torchs_fused_kernel_to_the_bit() -> None:
    pair = Pair(torch.float32)
    for group in pair.torchs.param_groups:
        group["fused"] = True
    for _ in range(20):
        pair.step()
    assert pair.difference() == 0


def test_parameters_without_gradient_are_left_alone() -> None:
    """Their own step counts too: whoever joins later is corrected as a beginner."""
    pair = Pair()
    for without in ((), (0,), (0, 1), (), (3, 4), (), tuple(range(5)), ()):
        pair.step(without)
    assert pair.difference() <= 1e-14
    assert [int(pair.flats.state[p]["step"]) for p in pair.owned] == [5, 6, 7, 6, 6]


def test_no_step_without_any_gradient() -> None:
    pair = Pair()
    before = pair.flats.flat.values.clone()
    pair.flats.step()
    assert torch.equal(pair.flats.flat.values, before)


def test_updates_count_as_changes_in_place() -> None:
    """The engine renews its copies of adapters whose version has grown; autograd refuses what it saved before."""
    pair = Pair()
    before = [p._version for p in pair.owned]
    pair.step(without=(2,))
    assert [p._version > old for p, old in zip(pair.owned, before, strict=True)] == [True, True, False, True, True]
    weight = pair.owned[0]
    loss = (weight**2).sum()
    pair.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_zero_grad_keeps_the_views() -> None:
    pair = Pair()
    pair.step()
    for set_to_none in (True, False):
        pair.owned[0].grad = torch.ones(3, 5, dtype=torch.float64)
        pair.flats.zero_grad(set_to_none=set_to_none)
        storage = pair.flats.flat.gradients.untyped_storage().data_ptr()
        assert all(p.grad.untyped_storage().data_ptr() == storage and not p.grad.any() for p in pair.owned)


def test_closures() -> None:
    pair = Pair()

    def closure() -> torch.Tensor:
        pair.flats.zero_grad()
        loss = sum((p**2).sum() for p in pair.owned)
        loss.backward()
        return loss

    first = float(pair.flats.step(closure).detach())
    assert float(pair.flats.step(closure).detach()) < first


def test_hooks_after_the_step_see_new_values() -> None:
    """The engine's copies of the adapters are renewed from such a hook."""
    pair, seen = Pair(), []
    before = pair.flats.flat.values.clone()
    pair.flats.register_step_post_hook(lambda optimizer, *_: seen.append(optimizer.flat.values.clone()))
    pair.step()
    assert len(seen) == 1 and not torch.equal(seen[0], before) and torch.equal(seen[0], pair.flats.flat.values)


@pytest.mark.parametrize("name", ["linear", "cosine", "constant_with_warmup", "cosine_with_restarts", "polynomial"])
def test_schedulers_of_transformers(name: str) -> None:
    pair = Pair()
    schedules = [
        get_scheduler(name, one, num_warmup_steps=3, num_training_steps=15) for one in (pair.torchs, pair.flats)
    ]
    rates = []
    for _ in range(15):
        pair.step()
        for schedule in schedules:
            schedule.step()
        rates.append(pair.flats.param_groups[0]["lr"])
        assert rates[-1] == pair.torchs.param_groups[0]["lr"] == pair.flats.param_groups[1]["lr"]
    assert len(set(rates)) > 2 and pair.difference() <= 1e-13


@pytest.mark.parametrize(("source", "target"), [("flats", "flats"), ("torchs", "flats"), ("flats", "torchs")])
def test_checkpoints_go_both_ways(source: str, target: str, tmp_path: Path) -> None:
    pair = Pair(flat_rate=RATE)
    for without in ((), (0,), ()):
        pair.step(without)
    torch.save(getattr(pair, source).state_dict(), tmp_path / "optimizer.pt")
    fresh = Pair(flat_rate=5.0)  # the rate comes from the checkpoint
    loaded = torch.load(tmp_path / "optimizer.pt", weights_only=True)
    goal = getattr(fresh, target)
    goal.load_state_dict(loaded)
    mine = fresh.owned if target == "flats" else fresh.plain
    with torch.no_grad():
        for ours, now in zip(mine, pair.owned, strict=True):
            ours.copy_(now)
    for _ in range(5):
        pair.step()
        for ours, theirs in zip(mine, pair.owned, strict=True):
            ours.grad = theirs.grad.clone()
        goal.step()
    limit = 0 if target == source else 1e-13
    assert max(float((a - b).detach().abs().max()) for a, b in zip(mine, pair.owned, strict=True)) <= limit
    assert goal.param_groups[0]["lr"] == RATE


def test_a_saved_state_holds_each_number_once(tmp_path: Path) -> None:
    pair = Pair()
    pair.step()
    torch.save(pair.flats.state_dict(), tmp_path / "optimizer.pt")
    assert (tmp_path / "optimizer.pt").stat().st_size < 2 * 8 * pair.flats.flat.values.numel() + 8000


def test_states_of_others_are_refused() -> None:
    pair = Pair()
    other = torch.optim.AdamW(pair.plain, amsgrad=True)
    pair.step()
    with pytest.raises(TrainingError, match="another optimizer"):
        pair.flats.load_state_dict(other.state_dict())
    momentum = torch.optim.SGD(pair.plain, momentum=0.9)
    momentum.step()
    with pytest.raises(TrainingError, match="another optimizer"):
        pair.flats.load_state_dict(momentum.state_dict())


def test_deep_copies_go_on_by_themselves() -> None:
    pair = Pair()
    pair.step()
    owned, flats = copy.deepcopy((pair.owned, pair.flats))
    assert flats.flat.values.data_ptr() != pair.flats.flat.values.data_ptr()
    pair.step()
    for mine, theirs in zip(owned, pair.owned, strict=True):
        mine.grad = theirs.grad.clone()
    flats.step()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(owned, pair.owned, strict=True))


def test_groups_from_outside_are_refused() -> None:
    pair = Pair()
    with pytest.raises(TrainingError, match="outside the flat buffer"):
        pair.flats.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))]})
    assert len(pair.flats.param_groups) == 2


def test_accelerates_wrapper() -> None:
    pair = Pair(torch.float32)
    wrapped = Accelerator(cpu=True).prepare(pair.flats)
    assert isinstance(wrapped, AcceleratedOptimizer)
    for _ in range(3):
        for one, other in zip(pair.plain, pair.owned, strict=True):
            one.grad = pair.noise(one.shape)
            other.grad = one.grad.clone()
        pair.torchs.step()
        wrapped.step()
        wrapped.zero_grad()
    assert pair.difference() <= 1e-6 and not wrapped.step_was_skipped


def test_gradients_scaled_for_fp16_are_unscaled() -> None:
    pair = Pair(torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    loss = sum((p**2).sum() for p in pair.owned)
    scaler.scale(loss).backward()
    scaler.unscale_(pair.flats)
    expected = 2 * torch.cat([p.detach().flatten() for p in pair.plain]).norm()
    torch.testing.assert_close(pair.flats.flat.clip_(1e9), expected)
    scaler.step(pair.flats)
    assert pair.difference() > 0


# Through transformers' Trainer.


class FlatTrainer(Trainer):
    """How a trainer makes the optimizer, clips, and attaches the gradients."""

    def create_optimizer(self, model: Any = None) -> Any:
        if self.optimizer is None:
            self.optimizer = adapter_optimizer(self.model, self.args, self.get_decay_parameter_names(self.model))
        return super().create_optimizer(model)

    def _clip_grad_norm(self, model: Any) -> torch.Tensor:
        self.accelerator.unscale_gradients()
        return self.optimizer.optimizer.flat.clip_(self.args.max_grad_norm)

    def compute_loss(self, model: Any, inputs: Any, **kwargs: Any) -> Any:
        self.optimizer.optimizer.flat.attach()
        return super().compute_loss(model, inputs, **kwargs)


def lora_model(bias: bool = False) -> Any:
    torch.manual_seed(5)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )
    targets = ["q_proj", "v_proj", "down_proj"]
    return get_peft_model(base, LoraConfig(r=4, target_modules=targets, lora_bias=bias, task_type="CAUSAL_LM"))


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    keys = {
        "output_dir": str(folder),
        "max_steps": 6,
        "save_steps": 3,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 5e-2,
        "weight_decay": 0.1,
        "warmup_steps": 2,
        "max_grad_norm": 0.05,
        "logging_steps": 1,
        "optim": "adamw_torch",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(**{**keys, **changes})


def rows() -> list[dict[str, list[int]]]:
    ids = torch.randint(64, (24, 9), generator=torch.Generator().manual_seed(9)).tolist()
    return [{"input_ids": row, "labels": row} for row in ids]


def run(kind: type[Trainer], folder: Path, resume: Path | None = None, bias: bool = False) -> tuple[Any, Trainer]:
    model = lora_model(bias)
    trainer = kind(model=model, args=arguments(folder), train_dataset=rows())  # type: ignore[arg-type]
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return model, trainer


def adapters(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.fixture(scope="module")
def flat_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Trainer]:
    folder = tmp_path_factory.mktemp("flat")
    return folder, *run(FlatTrainer, folder, bias=True)


def test_trainer_trains_as_with_torchs_adamw(flat_run: tuple[Path, Any, Trainer], tmp_path: Path) -> None:
    folder, model, trainer = flat_run
    assert isinstance(trainer.optimizer.optimizer, FlatAdamW)
    stock, stocks = run(Trainer, tmp_path, bias=True)
    for name, value in adapters(stock).items():
        torch.testing.assert_close(adapters(model)[name], value, rtol=2e-4, atol=2e-6)
    for mine, theirs in zip(trainer.state.log_history, stocks.state.log_history, strict=True):
        assert mine.get("grad_norm", 0) == pytest.approx(theirs.get("grad_norm", 0), rel=1e-3)
        assert mine.get("learning_rate") == theirs.get("learning_rate")
    assert [len(g["params"]) for g in trainer.optimizer.param_groups] == [12, 6], "LoRA's biases have no decay"
    written = load_file(folder / "checkpoint-6" / "adapter_model.safetensors")
    for name, value in adapters(model).items():
        assert torch.equal(written[name.replace(".default", "")], value)


def test_trainer_resumes_exactly(flat_run: tuple[Path, Any, Trainer], tmp_path: Path) -> None:
    folder, model, trainer = flat_run
    again, resumed = run(FlatTrainer, tmp_path, resume=folder / "checkpoint-3", bias=True)
    for name, value in adapters(model).items():
        assert torch.equal(adapters(again)[name], value)
    for key in ("_mean", "_square", "_steps_P"):
        assert torch.equal(getattr(resumed.optimizer.optimizer, key), getattr(trainer.optimizer.optimizer, key))


def test_a_checkpoint_of_torchs_adamw_is_continued(tmp_path: Path) -> None:
    stock, _ = run(Trainer, tmp_path / "stock")
    model, _ = run(FlatTrainer, tmp_path / "flat", resume=tmp_path / "stock" / "checkpoint-3")
    for name, value in adapters(stock).items():
        torch.testing.assert_close(adapters(model)[name], value, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("change", ["optim", "norm trained", "bfloat16", "nothing trained"])
def test_what_stays_transformers(change: str, tmp_path: Path) -> None:
    model = lora_model()
    args = arguments(tmp_path, optim="adafactor" if change == "optim" else "adamw_torch_fused")
    if change == "norm trained":
        model.get_base_model().model.norm.weight.requires_grad_(True)
    elif change == "bfloat16":
        model.bfloat16()
    elif change == "nothing trained":
        model.requires_grad_(False)
    before = [p.data_ptr() for p in model.parameters()]
    assert adapter_optimizer(model, args, ()) is None
    assert [p.data_ptr() for p in model.parameters()] == before
    if change == "optim":
        args.optim = "adamw_torch_fused"
        assert isinstance(adapter_optimizer(model, args, ()), FlatAdamW)


@pytest.mark.gpu
def test_steps_on_the_gpu_after_the_model_moved_there() -> None:
    """An optimizer made on the CPU takes its moments along."""
    pair = Pair(torch.float32)
    pair.step()
    for parameter in pair.owned:
        parameter.data, parameter.grad = parameter.data.cuda(), None
    for _ in range(3):
        for one, other in zip(pair.plain, pair.owned, strict=True):
            one.grad = pair.noise(one.shape)
            other.grad = one.grad.cuda()
        pair.torchs.step()
        pair.flats.step()
    assert pair.flats.flat.values.is_cuda
    for one, other in zip(pair.plain, pair.owned, strict=True):
        torch.testing.assert_close(one, other.cpu(), rtol=1e-5, atol=1e-6)
