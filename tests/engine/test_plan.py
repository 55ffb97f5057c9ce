"""The plan: the cost model against whole measured steps, the choice against trying everything."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

from whet.engine.memory import POLICIES, Work, activation_peak, fixed_bytes
from whet.engine.plan import TILES, Plan, choose, policy_for, step_seconds
from whet.engine.rates import H200, card_of, measure
from whet.engine.shape import Shape, shape_of_config

GIB = 2**30
LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
BATCH = Work(16384, 16384, 16384 * 2048.0, equal=True)


def llama(**changes: Any) -> Shape:
    shape = shape_of_config(LLAMA_8B, **{"rank": 16, **changes})
    assert isinstance(shape, Shape)
    return shape


def small(layers: int = 4, **changes: Any) -> Shape:
    return replace(llama(**changes), layers=layers, vocab=4096)


@pytest.mark.parametrize(
    ("storage", "policy", "milliseconds"),
    [
        ("dense", "none", 941),
        ("dense", "mlp", 1143),
        ("dense", "full", 1244),
        ("nf4", "none", 954),
        ("nf4", "mlp", 1157),
    ],
)
def test_steps_of_the_prototype(storage: str, policy: str, milliseconds: float) -> None:
    """One H200, 8 x 2,048 tokens, forward + backward + AdamW."""
    predicted = 1000 * step_seconds(llama(storage=storage), BATCH, H200, (policy,) * 32)
    assert abs(predicted / milliseconds - 1) < 0.04


@pytest.mark.parametrize("storage", ["dense", "nf4"])
@pytest.mark.parametrize("gib", [4, 6, 8, 12, 20])
def test_the_choice_is_the_fastest_of_all(storage: str, gib: int) -> None:
    """Against every assignment of policies to layers, in any order, without dense copies of NF4 layers."""
    shape, budget = small(storage=storage), gib * GIB
    plan = choose(shape, BATCH, budget, H200)
    fitting = []
    for *policies, tile in product(POLICIES, POLICIES, POLICIES, POLICIES, TILES):
        peak = sum(fixed_bytes(shape, BATCH.tokens).values()) + activation_peak(shape, BATCH, policies, 1024, tile)
        if int(peak * H200.reserved) <= budget:
            fitting.append(step_seconds(shape, BATCH, H200, tuple(policies), tile=tile))
    if not fitting:
        assert not plan.fits or plan.chunk_rows < 1024
        return
    assert plan.fits and plan.reserved_bytes <= budget
    assert plan.step_seconds <= min(fitting) + 1e-12


def test_more_memory_is_never_slower() -> None:
    plans = [choose(llama(storage="nf4"), BATCH, gib * GIB, H200) for gib in (16, 20, 24, 32, 48, 64, 100)]
    assert all(plan.fits for plan in plans)
    assert [plan.step_seconds for plan in plans] == sorted((plan.step_seconds for plan in plans), reverse=True)
    assert set(plans[-1].policies) == {"none"} and all(plans[-1].resident)


def test_layers_that_keep_more_come_last() -> None:
    plan = choose(llama(), BATCH, 40 * GIB, H200)
    order = [POLICIES[::-1].index(policy) for policy in plan.policies]
    assert order == sorted(order) and len(set(order)) > 1
    assert str(plan).startswith(f"{plan.policies.count('full')} x full, ")


def test_what_does_not_fit_is_the_smallest() -> None:
    plan = choose(llama(), BATCH, GIB, H200)
    smallest = choose(llama(), BATCH, GIB, H200, "smallest")
    assert not plan.fits and plan.reserved_bytes > GIB
    assert plan.peak_bytes <= smallest.peak_bytes <= 1.01 * plan.peak_bytes
    assert smallest.step_seconds <= plan.step_seconds


def test_alternatives_are_the_other_goals() -> None:
    plan = choose(llama(), BATCH, 40 * GIB, H200)
    by_name = {choice.name: choice for choice in plan.alternatives}
    assert set(by_name) == {"smallest", "full", "mlp", "none"}
    assert by_name["none"].step_seconds < plan.step_seconds < by_name["full"].step_seconds
    assert not by_name["none"].fits and by_name["full"].fits


def test_memory_is_planned_for_the_largest_batch_and_time_for_the_mean() -> None:
    half = Work(8192, 8192, 8192 * 2048.0, equal=True)
    plan, mean = choose(llama(), BATCH, 30 * GIB, H200), choose(llama(), BATCH, 30 * GIB, H200, typical=half)
    assert mean.peak_bytes == plan.peak_bytes and mean.policies == plan.policies
    assert 0.45 < mean.step_seconds / plan.step_seconds < 0.55


def test_only_labelled_tokens_reach_the_head_and_the_last_mlp() -> None:
    few = BATCH._replace(labelled=1024)
    policies = ("none",) * 32
    head = 4 * (16384 - 1024) * 4096 * 128256 / H200.matmul
    saved = step_seconds(llama(), BATCH, H200, policies) - step_seconds(llama(), few, H200, policies)
    assert saved > head
    assert activation_peak(llama(), few, policies, 1024) < activation_peak(llama(), BATCH, policies, 1024)


def test_short_documents_cost_less_attention() -> None:
    short = BATCH._replace(squares=16384 * 256.0)
    policies = ("none",) * 32
    assert step_seconds(llama(), short, H200, policies) < step_seconds(llama(), BATCH, H200, policies)
    packed = BATCH._replace(equal=False)
    assert step_seconds(llama(), packed, H200, policies) > step_seconds(llama(), BATCH, H200, policies)


@pytest.mark.parametrize(
    ("asked", "goal"),
    [
        (True, "full"),
        (False, "none"),
        ("unsloth", "smallest"),
        ("auto", "fastest"),
        (None, "fastest"),
        ("mlp", "mlp"),
        ("smallest", "smallest"),
    ],
)
def test_what_gradient_checkpointing_means(asked: Any, goal: str) -> None:
    assert policy_for(asked) == goal


@pytest.mark.parametrize("asked", ["unslot", "", 1.5])
def test_other_words_for_checkpointing(asked: Any) -> None:
    with pytest.raises(ValueError, match="unsloth"):
        policy_for(asked)


def test_an_empty_batch_has_no_plan() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        choose(llama(), Work(0, 0, 0.0), GIB, H200)


def test_rates_of_this_machine() -> None:
    card = measure(torch.device("cpu"), "here", 8 * GIB, torch.float32)
    assert card.matmul > 1e9 and card.copy > 1e8 and card.reserved == 1.0 and card.link == math.inf
    known = card_of("NVIDIA H200", 100)
    assert known is not None and known.memory == 100 and known.matmul == H200.matmul
    assert card_of("NVIDIA GeForce RTX 4090", 100) is None and card_of("NVIDIA H100 PCIe", 100) is None
    near = card_of("NVIDIA H100 80GB HBM3", 100)
    assert near is not None and near.memory == 100 and "H100" in near.source


@pytest.mark.gpu
def test_the_link_of_a_gpu() -> None:
    card = measure(torch.device("cuda"), "here", 8 * GIB, torch.bfloat16)
    assert 1e9 < card.link < 1e12


def test_shapes_from_configs() -> None:
    assert "mixtral" in str(shape_of_config({"model_type": "mixtral"}, rank=8))
    some = llama(targets=["q_proj", "down_proj"])
    assert some.ranks == ((16, 0, 0), (0,), (0, 0), (16,)) and some.columns("gate_up") == 0
    assert llama(targets=r".*\.(k|up)_proj").ranks == ((0, 16, 0), (0,), (0, 16), (0,))
    phi = shape_of_config({**LLAMA_8B, "model_type": "phi3", "sliding_window": 512}, rank=16)
    assert isinstance(phi, Shape)
    assert phi.ranks == ((16,), (16,), (16,), (16,)) and (phi.window, phi.windowed) == (512, 32)
    text = {**LLAMA_8B, "model_type": "gemma3_text", "sliding_window": 512, "sliding_window_pattern": 6}
    gemma = shape_of_config({"model_type": "gemma3", "text_config": text}, rank=16)
    assert isinstance(gemma, Shape)
    assert gemma.tied and gemma.post_norms and gemma.qk_norm and gemma.windowed == 27


def test_a_plan_reads_as_runs_of_layers() -> None:
    plan = Plan(("full", "full", "none"), (True, False, False), 1024, None, 1, 1, 1.0, 1.0, True)
    assert str(plan) == "2 x full, 1 x none, 1 layers dequantised once"
    tiled = replace(plan, resident=(False,) * 3, tile=2048)
    assert str(tiled) == "2 x full, 1 x none, MLP in tiles of 2,048 tokens"


def test_tiles_are_for_what_does_not_fit_otherwise() -> None:
    """Long rows: the MLP's working space is the highest point of a layer that is made again."""
    shape, long = llama(storage="nf4"), Work(65536, 65536, 65536.0**2)
    roomy, tight = (choose(shape, long, gib * GIB, H200) for gib in (400, 30))
    assert roomy.tile is None and tight.tile is not None and tight.fits
    least = choose(shape, long, 30 * GIB, H200, "smallest")
    untiled = sum(fixed_bytes(shape, 65536).values()) + activation_peak(shape, long, ("full",) * 32, 256)
    assert int(untiled * H200.reserved) > 30 * GIB and least.peak_bytes < untiled - 2.5 * GIB
