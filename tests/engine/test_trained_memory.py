"""The bytes and seconds of a step in which the weights themselves are trained, by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.engine.memory import POLICIES, Work, activation_peak, fixed_bytes, layer_bytes
from whet.engine.plan import Works, choose, choose_merged, step_seconds
from whet.engine.rates import H200, head_seconds
from whet.engine.shape import FAMILIES, FullTraining, Shape, shape_of_config
from whet.engine.trained_head import slice_width
from whet.train.full_plan import BUCKET_BYTES, full_training

GIB = 2**30
QWEN_3B = {
    "model_type": "qwen2",
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
ADAMW = FullTraining()


def shape_of(config: dict[str, Any] = QWEN_3B, full: FullTraining = ADAMW, **changes: Any) -> Shape:
    found = shape_of_config({**config, **changes}, rank=0, full=full)
    assert isinstance(found, Shape)
    return found


def work_of(tokens: int, passes: int = 1, length: int = 2048) -> Work:
    return Work(tokens, tokens, tokens * float(length), passes, equal=True)


@pytest.mark.parametrize(("width", "bytes_each"), [(2, 2 + 2 + 8), (4, 4 + 8)])
@pytest.mark.parametrize("tied", [True, False])
def test_what_parameters_take_all_the_time(width: int, bytes_each: int, tied: bool) -> None:
    shape = replace(shape_of(tie_word_embeddings=tied), width=width)
    fixed = fixed_bytes(shape, 1)
    parts = ("weights", "embedding and head", "lower half of masters", "moments", "gradients")
    found = sum(fixed[name] for name in parts)
    assert abs(found - shape.parameters * bytes_each) <= shape.hidden * 2
    assert fixed_bytes(shape, 1, passes=2)["gradients"] == 4 * shape.parameters
    assert fixed_bytes(shape, 1, passes=2)["gradients before a pass"] == 0


@pytest.mark.parametrize("full", [None, ADAMW])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_that_scores_has_no_head_for_words(full: FullTraining | None, tied: bool) -> None:
    """One table, no logits, no gradient of a head."""
    words = replace(shape_of(tie_word_embeddings=tied), full=full)
    scores, policies = replace(words, scores=True), ("none",) * words.layers
    table, work = words.vocab * words.hidden * words.width, Work(4096, 8, 0.0)
    assert fixed_bytes(scores, 4096)["embedding and head"] == table
    assert scores.parameters == words.layers * words.layer_parameters + words.vocab * words.hidden + 2 * words.hidden
    assert activation_peak(scores, work, policies, 1024) <= activation_peak(words, work, policies, 1024)
    assert head_seconds(scores, work, H200) == 0 < head_seconds(words, work, H200)
    if full is not None:
        few = Work(1, 1, 0.0)
        gradients = scores.parameters * 2  # all of them at the end
        assert gradients <= activation_peak(scores, few, policies, 1024) <= 1.001 * gradients


@settings(max_examples=80, deadline=None)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    tied=st.booleans(),
    vocab=st.sampled_from([10, 3000]),
    tokens=st.integers(1, 5000),
    passes=st.sampled_from([1, 2, 5]),
    policies=st.lists(st.sampled_from(POLICIES), min_size=1, max_size=6),
    chunk=st.sampled_from([64, 5000]),
    data=st.data(),
)
def test_the_highest_point_of_any_shape(
    family: str,
    tied: bool,
    vocab: int,
    tokens: int,
    passes: int,
    policies: list[str],
    chunk: int,
    data: st.DataObject,
) -> None:
    """Every layer at its own place, with the gradients that are there by then."""
    config = {
        "model_type": family,
        "hidden_size": 24,
        "num_attention_heads": 2,
        "intermediate_size": 70,
        "num_hidden_layers": len(policies),
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
    }
    shape = shape_of(config, full=FullTraining(beside=1000))
    labelled = data.draw(st.integers(0, tokens))
    layers = [layer_bytes(shape, policy, tokens) for policy in policies[:-1]]
    layers += [layer_bytes(shape, policies[-1], tokens, labelled)]
    table, x, one = vocab * 24 * 2, tokens * 24 * 2, 1 if passes == 1 else 0
    all_kept = sum(layer.kept for layer in layers)
    points = [shape.parameters * 2 * one + 1000]
    for number, layer in enumerate(layers):
        below = sum(lower.kept for lower in layers[:number])
        points += [below + x + layer.forward]
        above = (len(layers) - 1 - number) * shape.layer_parameters * 2 * one
        points += [below + layer.kept + layer.backward + above + (table if tied else one * table)]
    rows = labelled * 24
    columns = slice_width(labelled, vocab, chunk)
    slices = labelled * columns * 2 + max(rows * 2, rows * 4 if columns < vocab else 0)
    points += [all_kept + 2 * rows * 2 + labelled * 4 + rows * 4 + rows * 2 + table + slices]
    gathered = len(layers) * shape.layer_parameters * 2 * one
    sums = 2 * x if tokens > 3072 else 0
    points += [x + gathered + table + (max(2 * table, table + sums) if tied else one * table + sums)]
    assert activation_peak(shape, Work(tokens, labelled, 0.0, passes), policies, chunk) == max(points)


def test_an_embedding_whose_moments_are_exact() -> None:
    eight = full_training(shape_of(), "paged_adamw_8bit", on_gpu=True)
    assert (eight.moment, eight.embedding) == (2, 8)
    plain, exact = (fixed_bytes(shape_of(full=each), 1)["moments"] for each in (FullTraining(2), eight))
    assert exact - plain == 6 * QWEN_3B["vocab_size"] * QWEN_3B["hidden_size"]
    for name in ("adamw_torch", "adamw_torch_8bit", "paged_adamw_32bit"):
        assert full_training(shape_of(), name, on_gpu=True).embedding is None


@pytest.mark.parametrize(("name", "width", "on_gpu"), [("adamw_torch", 2, True), ("adamw_torch_fused", 4, True)])
def test_one_kernel_s_step_takes_nothing_beside(name: str, width: int, on_gpu: bool) -> None:
    assert full_training(replace(shape_of(), width=width), name, on_gpu).beside == 0


def test_a_library_s_step_takes_masters_or_roots() -> None:
    narrow, wide = shape_of(), replace(shape_of(), width=4)
    for name, on_gpu in (("sgd", True), ("adamw_torch", False)):
        assert full_training(narrow, name, on_gpu).beside == BUCKET_BYTES
    assert full_training(wide, "adamw_torch", on_gpu=True).beside == 4 * wide.parameters
    assert full_training(wide, "adamw_torch", on_gpu=False).beside == 0
    few = Work(1, 1, 0.0)
    all_of_it = [
        activation_peak(replace(narrow, full=FullTraining(8, b)), few, ("full",) * 36, 1024) for b in (0, 2 * GIB)
    ]
    assert all_of_it[1] == narrow.parameters * 2 + 2 * GIB > all_of_it[0]


def test_a_layer_s_gradients_are_there_when_its_backward_ends() -> None:
    """Few tokens: the weights' gradients are all that counts."""
    shape = shape_of()
    frozen, trained = (layer_bytes(each, "none", 1) for each in (replace(shape, full=None), shape))
    assert trained.kept == frozen.kept and trained.forward == frozen.forward
    gradients = 2 * (shape.layer_weights + shape.size("qkv")[0]) + 4 * shape.norms
    assert -frozen.kept <= trained.backward - gradients <= frozen.backward


def test_one_pass_takes_less_than_several() -> None:
    """2 bytes of gradients instead of 4; where only that fits, micro-batches go through together."""
    shape, tokens = shape_of(), 512
    works = {times: Works(work_of(times * tokens, 4 // times), work_of(times * tokens, 4 // times)) for times in (1, 4)}
    alone = choose(shape, works[1].largest, 80 * GIB, H200)
    together = choose(shape, works[4].largest, 80 * GIB, H200)
    assert alone.peak_bytes > together.peak_bytes
    between = (alone.reserved_bytes + together.reserved_bytes) // 2
    found = choose_merged(shape, works, between, H200)
    assert found.fits and found.at_once == 4
    assert not choose_merged(shape, {1: works[1]}, between, H200).fits
    assert choose_merged(shape, works, 80 * GIB, replace(H200, layer_host=0.0)).at_once == 1  # a CPU


@pytest.mark.parametrize("gib", [5.05, 5.3, 5.9, 6.2])
@pytest.mark.parametrize("passes", [1, 3])
def test_the_choice_is_the_fastest_of_all(gib: float, passes: int) -> None:
    """Against every assignment of policies to layers, in any order."""
    shape, work = replace(shape_of(), layers=4, vocab=4096), work_of(8192, passes)
    plan = choose(shape, work, int(gib * GIB), H200)
    fitting = []
    for policies in product(POLICIES, repeat=4):
        peak = sum(fixed_bytes(shape, work.tokens, passes=passes).values())
        peak += activation_peak(shape, work, policies, 1024)
        if int(peak * H200.reserved) <= int(gib * GIB):
            fitting.append(step_seconds(shape, work, H200, policies))
    assert plan.fits == bool(fitting) or plan.chunk_rows < 1024
    assert not fitting or plan.step_seconds <= min(fitting) + 1e-12


def test_tiles_are_not_for_trained_weights() -> None:
    shape, long = shape_of(), work_of(65536)
    for goal in ("smallest", "fastest"):
        tight = choose(shape, long, 30 * GIB, H200, goal)
        assert tight.tile is None and not tight.fits


def test_time_of_the_weights_own_gradients() -> None:
    """Products of a step: forward, two in the backward, one of each layer's halves again; four of the head."""
    shape, work = replace(shape_of(), layers=8), work_of(16384)
    for policy, again in (("none", 0), ("full", 1)):
        trained = step_seconds(shape, work, H200, (policy,) * 8)
        frozen = step_seconds(replace(shape, full=None), work, H200, (policy,) * 8)
        weights = 8 * shape.layer_weights + 2 * shape.vocab * shape.hidden
        more = 2 * 16384 * weights / H200.matmul
        update = 28 * shape.parameters / H200.copy
        assert trained - frozen == pytest.approx(more + update + 2 * 16384 * 151936 * 2 / H200.copy, rel=1e-6), again


def test_sums_of_several_passes_take_time() -> None:
    shape = shape_of()
    one, four = (step_seconds(shape, work_of(4096, passes), H200, ("none",) * 36) for passes in (1, 4))
    update = 28 * shape.parameters / H200.copy
    moved = (3 * (2 + 8) + 2 * 2) * shape.parameters / H200.copy  # three sums; update and norm read 4 bytes, not 2
    forward_backward = one - update - H200.step_host
    assert four == pytest.approx(4 * forward_backward + update + moved + H200.step_host)


def test_the_loss_alone_costs_the_same_of_a_trained_head() -> None:
    shape, work = shape_of(), work_of(1024)
    frozen = replace(shape, full=None)
    assert head_seconds(shape, work, H200, backward=False) == head_seconds(frozen, work, H200, backward=False)
    assert head_seconds(frozen, work, H200) == 2 * head_seconds(frozen, work, H200, backward=False)
    assert 1.9 < head_seconds(shape, work, H200) / head_seconds(frozen, work, H200) < 2


def test_a_library_s_step_moves_more() -> None:
    kernel, library = shape_of(), shape_of(full=FullTraining(beside=GIB))
    work, policies = work_of(1024), ("none",) * 36
    assert step_seconds(library, work, H200, policies) > step_seconds(kernel, work, H200, policies)
