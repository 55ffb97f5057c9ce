"""What a run will take: rows and steps counted, memory and time predicted. No weights are read."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from whet import runtime
from whet.config import RunConfig
from whet.config.sizes import format_size, parse_size
from whet.console import format_seconds, table
from whet.data.answer_loader import AnswerDataset
from whet.data.loader import PackedDataset, PaddedDataset
from whet.data.run_rows import Rows, prepare_rows
from whet.engine.memory import Work, main_memory_bytes
from whet.engine.plan import Alternative, Goal, Plan, choose_merged, policy_for
from whet.engine.rates import H200, CardRates, card_of, measure
from whet.engine.shape import Shape, Storage, shape_of_config
from whet.engine.trained import ParameterBytes, parameter_bytes
from whet.engine.weights import PAD
from whet.errors import WhetError
from whet.main_memory import free_main_memory
from whet.models.load import config_of
from whet.train.base import base_name, longest_row, tokenizer_for
from whet.train.batches import Batches, count_merged, works_of
from whet.train.fallback import weights_asked
from whet.train.full import ELEMENTWISE
from whet.train.full_plan import LESS_MEMORY, FullPlan, full_training, parameter_facts, plan_full
from whet.train.memory_plan import SPARE, check_main_memory, memory_budget
from whet.train.preference.plan import Pairs, forward_seconds, pairs_of
from whet.train.preference.reward import RewardDataset

GOALS = {"fastest": "fastest that fits", "smallest": "least memory"}
GOALS |= {"full": "all layers full", "mlp": "all layers mlp", "none": "all layers none"}
STORAGES: dict[Storage, str] = {
    "dense": "16-bit weights",
    "nf4": "4-bit weights",
    "streamed": "16-bit weights, streamed",
}


class Device(NamedTuple):
    """Where the run is planned for: ``budget`` bytes of ``card``; ``kind`` is cuda or another of torch's names;
    ``main_memory`` are the bytes of its machine that are free, None where that is not this one."""

    card: CardRates
    kind: str
    budget: int
    main_memory: int | None = None


@dataclass(frozen=True)
class Steps:
    """The optimizer steps of a run.

    Attributes:
        count: of the whole run.
        largest, typical: the largest and the mean micro-batch.
        fill: real tokens / tokens with padding.
        micro_batches: of one pass over the rows.
        merged: micro-batches by how many of a step's go through at once.
    """

    count: int
    largest: Work
    typical: Work
    fill: float
    micro_batches: int
    merged: dict[int, Batches]


@dataclass(frozen=True)
class RunPlan:
    """What a run will take.

    Attributes:
        plan: None where the engine does not run this model; ``reason`` then says why.
        others: plans with other storages of the weights, by name.
        full: of a full fine-tune by the model's own forward, in place of ``plan``; its time is not predicted.
        parameters: of a full fine-tune by the engine.
        pairs: of preference training.
        extra_seconds: that an optimizer step spends on a reference.
        ahead_seconds: of a reference pass before the first step.
        notes: what the figures do not hold for.
        storage: of the layers' weights.
        main_memory: page-locked bytes that streamed weights take.
    """

    config: RunConfig
    device: Device
    rows: Rows
    steps: Steps
    plan: Plan | None
    goal: Goal
    others: dict[str, Plan]
    reason: str = ""
    notes: tuple[str, ...] = ()
    full: FullPlan | None = None
    parameters: ParameterBytes | None = None
    pairs: Pairs | None = None
    extra_seconds: float = 0.0
    ahead_seconds: float = 0.0
    storage: Storage = "dense"
    main_memory: int = 0

    @property
    def seconds(self) -> float | None:
        """Of the whole run; None without a plan."""
        return None if self.plan is None else self._seconds(self.plan)

    def _seconds(self, choice: Plan | Alternative) -> float:
        return self.steps.count * (choice.step_seconds + self.extra_seconds) + self.ahead_seconds

    def print(self) -> None:
        """Show it on stdout."""
        table(["run", ""], [list(pair) for pair in self._facts().items()])
        if self.plan is not None:
            table(["plan", "peak memory", "tokens/s", "time", "fits"], self._choices())
        for note in self.notes:
            print(f"note: {note}")

    def check(self) -> None:
        """Raise where the run cannot be planned, or does not fit.

        Raises:
            WhetError: with what to change.
        """
        if self.full is not None:
            self.full.check()
            return
        if self.plan is None:
            raise WhetError(f"there is no plan of memory and time: {self.reason}", "LoRA or QLoRA of a known model")
        if not self.plan.fits:
            less = "lower micro_batch_size or sequence_len, use adapter: qlora, stream_weights: true or a smaller model"
            raise WhetError(
                f"the run takes {format_size(self.plan.reserved_bytes)}",
                f"at most {format_size(self.device.budget)}",
                less if self.parameters is None else LESS_MEMORY,
            )
        if self.device.main_memory is not None:
            check_main_memory(self.main_memory, self.device.main_memory)

    def _facts(self) -> dict[str, str]:
        card, stats, steps = self.device.card, self.rows.train.stats, self.steps
        facts = {
            "model": self.config.base_model,
            "device": f"{card.name}, {format_size(card.memory)} ({card.source})",
            "memory to use": format_size(self.device.budget),
            "rows": f"{len(self.rows.train):,}, {stats.tokens:,} tokens, {stats.trained_tokens:,} of them trained",
        }
        facts |= self.pairs.facts if self.pairs is not None else {}
        dropped = {**self.rows.left_out, **({} if self.pairs is not None else stats.dropped)}
        facts["rows left out"] = "; ".join(f"{count:,}: {why}" for why, count in dropped.items()) or "none"
        if stats.truncated:
            facts["rows cut"] = f"{stats.truncated:,}"
        batch = f"{steps.typical.micro_batches} x {round(steps.typical.tokens):,}"
        facts["steps"] = f"{steps.count:,}, each of {batch} tokens ({100 * steps.fill:.0f}% of them real)"
        if self.full is not None:
            return facts | self.full.facts()
        if self.plan is None:
            return facts | {"plan": f"none: {self.reason}"}
        facts |= parameter_facts(self.parameters) if self.parameters is not None else {}
        facts["layers keep"] = f"{self.plan} ({GOALS[self.goal]})"
        facts["peak memory"] = f"{format_size(self.plan.peak_bytes)}, {format_size(self.plan.reserved_bytes)} reserved"
        if self.main_memory:
            free = self.device.main_memory
            of_free = "" if free is None else f", of {format_size(free)} free"
            facts["main memory"] = f"{format_size(self.main_memory)} page-locked: the layers' weights{of_free}"
        facts["tokens/s"] = f"{self._speed(self.plan):,.0f}"
        facts["time"] = format_seconds(self._seconds(self.plan))
        return facts

    def _choices(self) -> list[list[str]]:
        assert self.plan is not None
        storage = STORAGES[self.storage] if self.others else ""
        found: list[tuple[str, Any]] = [(f"{GOALS[self.goal]} *", self.plan)]
        found += [(GOALS[choice.name], choice) for choice in self.plan.alternatives]
        found = [(f"{name}, {storage}" if storage else name, choice) for name, choice in found]
        return [self._choice(name, choice) for name, choice in [*found, *self.others.items()]]

    def _choice(self, name: str, choice: Any) -> list[str]:
        return [
            name,
            format_size(choice.reserved_bytes),
            f"{self._speed(choice):,.0f}",
            format_seconds(self._seconds(choice)),
            "yes" if choice.fits else "no",
        ]

    def _speed(self, choice: Plan | Alternative) -> float:
        """Real tokens a second."""
        trained = choice.step_seconds / (choice.step_seconds + self.extra_seconds)
        return choice.tokens_per_second * trained * self.steps.fill


def plan_run(config: RunConfig, max_memory: str | None = None, gpu: str | None = None) -> RunPlan:
    """Count the rows and steps of a run and predict its memory and time.

    Args:
        max_memory: a size such as "16GiB"; wins over the config's key. None: that key, else what is free.
        gpu: "h200", or the memory of a GPU such as "24GiB"; None: this machine.

    Raises:
        WhetError: a bad size, no rows, no such model.
    """
    device = _device(gpu, max_memory or config.max_memory, _weights(config))
    tokenizer = tokenizer_for(config)
    limit = longest_row(config)
    pairs = pairs_of(config, tokenizer, limit) if config.rl or config.reward_model else None
    rows = pairs.rows if pairs is not None else prepare_rows(config, tokenizer, limit)
    steps = count_steps(config, rows, limit, pairs.dataset if pairs is not None else None)
    model = config_of(base_name(config), revision=config.revision_of_model)
    goal = policy_for(config.gradient_checkpointing)
    storage = _storage(config, model, device)
    shape = _shape(config, model, device, storage)
    notes = tuple(_notes(config, device))
    if isinstance(shape, str):
        return RunPlan(config, device, rows, steps, None, goal, {}, shape, notes, pairs=pairs)
    if config.adapter is None:
        shape = replace(shape, full=full_training(shape, config.optimizer, device.kind == "cuda"))
        if not _by_engine(config, shape, device):
            return _by_own_forward(RunPlan(config, device, rows, steps, None, goal, {}, "", notes, pairs=pairs), shape)

    chosen = _planned(shape, steps, device, goal)
    others = _others(shape, steps, device, chosen)
    found = RunPlan(config, device, rows, steps, chosen, goal, others, "", notes, pairs=pairs, storage=storage)
    found = replace(found, main_memory=main_memory_bytes(shape))
    found = found if shape.full is None else _with_parameters(found, shape)
    return found if pairs is None else _with_reference(found, pairs, shape)


def _planned(shape: Shape, steps: Steps, device: Device, goal: Goal) -> Plan:
    return choose_merged(shape, works_of(steps.merged), device.budget, device.card, goal)


def _others(shape: Shape, steps: Steps, device: Device, chosen: Plan) -> dict[str, Plan]:
    """Plans with other storages of the weights, by name; of streamed weights only where 16-bit ones do not fit."""
    if device.kind != "cuda" or shape.full is not None:
        return {}
    names = ("fastest", "smallest")
    found: dict[Storage, dict[str, Plan]] = {}
    fits = shape.storage == "dense" and (chosen.fits or any(choice.fits for choice in chosen.alternatives))
    for storage in STORAGES:
        if storage == shape.storage or (storage == "streamed" and fits):
            continue
        other = replace(shape, storage=storage)
        found[storage] = {name: _planned(other, steps, device, policy_for(name)) for name in names}
        fits = fits or (storage == "dense" and any(plan.fits for plan in found[storage].values()))
    return {f"{GOALS[name]}, {STORAGES[kind]}": plan for kind, plans in found.items() for name, plan in plans.items()}


def _by_engine(config: RunConfig, shape: Shape, device: Device) -> bool:
    """Whether the engine trains a model's own weights: it makes products in their dtype."""
    if shape.width == 2:
        return config.optimizer in ELEMENTWISE  # others get float32 weights, and bfloat16 products
    return device.kind != "cuda" or not (config.bf16 or config.fp16)


def _by_own_forward(found: RunPlan, shape: Shape) -> RunPlan:
    """A full fine-tune by the model's own forward."""
    assert shape.full is not None
    work, device = found.steps.largest, found.device
    on_gpu, reserved = device.kind == "cuda", device.card.reserved
    return replace(found, full=plan_full(shape, work, shape.full, found.goal, device.budget, reserved, on_gpu))


def _with_parameters(found: RunPlan, shape: Shape) -> RunPlan:
    """What belongs to the parameters of a full fine-tune by the engine."""
    assert found.plan is not None and shape.full is not None
    passes = found.steps.merged[found.plan.at_once].largest.micro_batches
    return replace(found, parameters=parameter_bytes(shape, shape.full, passes))


def _with_reference(found: RunPlan, pairs: Pairs, shape: Shape) -> RunPlan:
    """The time of the passes without gradients."""
    at_once = found.plan.at_once if found.plan is not None else 1
    once = forward_seconds(shape, found.steps.merged[at_once].typical, found.device.card)
    epoch = math.ceil(found.steps.micro_batches / found.config.gradient_accumulation_steps)
    return replace(found, extra_seconds=pairs.passes * once, ahead_seconds=epoch * once if pairs.ahead else 0.0)


def count_steps(
    config: RunConfig, rows: Rows, limit: int, dataset: AnswerDataset | RewardDataset | None = None
) -> Steps:
    """Steps and micro-batches of a run, as training makes them of these rows.

    Args:
        limit: tokens of the longest row.
        dataset: of preference training, which packs in its own way.
    """
    items: Any = dataset
    if items is None:
        items = PackedDataset(rows.train, limit) if config.sample_packing else PaddedDataset(rows.train)
    accumulation = config.gradient_accumulation_steps
    merged = count_merged(items, config.micro_batch_size, accumulation, config.seed, accumulation)
    found = merged[1]
    per_epoch = math.ceil(found.number / accumulation)
    steps = config.max_steps or math.ceil(per_epoch * config.num_epochs)
    return Steps(steps, found.largest, found.typical, found.fill, found.number, merged)


def _weights(config: RunConfig) -> torch.dtype:
    """The format of frozen weights that the run would take on this machine."""
    return runtime.weight_dtype(weights_asked(config.bf16, frozen=config.adapter is not None), training=True).dtype


def _device(gpu: str | None, max_memory: str | None, weights: torch.dtype) -> Device:
    asked = parse_size(max_memory) if max_memory else None
    if max_memory and asked is None:
        raise WhetError(f"--max-memory {max_memory} is no size", "a size such as 16GiB")
    if gpu is not None:
        memory = H200.memory if gpu.lower() in ("h200", "nvidia h200") else parse_size(gpu)
        if memory is None:
            raise WhetError(f"--gpu {gpu} is not known", "h200, or the memory of a GPU such as 24GiB")
        card = H200 if memory == H200.memory else replace(H200, name="assumed GPU", memory=memory)
        source = H200.source if card is H200 else "assumed as fast as an H200: only the memory is yours"
        return Device(replace(card, source=source), "cuda", asked or memory - SPARE)
    here = runtime.device()
    if here.type == "cuda":
        total = torch.cuda.mem_get_info(here)[1]
        name = torch.cuda.get_device_name(here)
        found = card_of(name, total) or measure(here, name, total, weights)
        return Device(found, "cuda", memory_budget(here, asked), free_main_memory())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 * 2**30
    measured = measure(torch.device("cpu"), f"{runtime.cores()} cores", memory, weights)
    return Device(measured, here.type, memory_budget(here, asked))


def _storage(config: RunConfig, model: Any, device: Device) -> Storage:
    """As ``load_model`` would hold the weights: 4 bits and streaming need an NVIDIA GPU."""
    packed = (getattr(model, "quantization_config", None) or {}).get("load_in_4bit", False)
    if device.kind != "cuda":
        return "dense"
    if packed or config.load_in_4bit or config.adapter == "qlora":
        return "nf4"
    return "streamed" if config.stream_weights else "dense"


def _shape(config: RunConfig, model: Any, device: Device, storage: Storage) -> Shape | str:
    found = shape_of_config(
        model,
        rank=config.lora_r if config.adapter else 0,
        targets=config.lora_targets,
        storage=storage,
        width=_width(config, device),
        pad=PAD.get(device.kind, PAD["cpu"]),
    )
    return found if isinstance(found, str) else replace(found, scores=config.reward_model)


def _width(config: RunConfig, device: Device) -> int:
    """Bytes of a weight. ``--gpu`` plans for a GPU that computes in bfloat16."""
    if device.kind != "cuda" or runtime.device().type == "cuda":
        return _weights(config).itemsize
    return 2 if config.adapter is not None or config.bf16 else 4


def _notes(config: RunConfig, device: Device) -> list[str]:
    notes = []
    if config.lora_dropout or config.lora_modules_to_save:
        key = "lora_dropout" if config.lora_dropout else "lora_modules_to_save"
        notes.append(f"with {key} the model's own forward runs: it takes more memory and time than this")
    if device.kind == "cuda" and config.adapter is None and not config.bf16:
        notes.append("time is that of bfloat16; products in float32 take longer")
    if device.kind != "cuda":
        notes.append(
            "time on a CPU is rough: from one measured matrix product; --gpu h200 or --gpu 24GiB plans for a GPU"
        )
    if config.val_set_size or config.test_datasets:
        notes.append("validation is not counted")
    return notes
