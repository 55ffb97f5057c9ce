"""The kernels that are compiled ahead are those that the engine launches in a step, no fewer and no more."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from families import FAMILIES, lora_model, packed, plain_model
from transformers import GPT2Config

from whet.engine.ahead import kinds_of, kinds_of_config, launches_of
from whet.engine.forward import Engine
from whet.engine.kernels.launch import Launch, compiled, distinct, launch, noted, variant
from whet.engine.layer import Policy
from whet.engine.read import read_model
from whet.engine.spec import ModelSpec

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

LENGTHS = (7, 1, 13, 4)  # 25 tokens, 17 labels: no multiples of 16, for which Triton would compile once more
IGNORE = -100


def spec_of(family: str, **options: object) -> ModelSpec:
    spec = read_model(lora_model(family, torch.bfloat16, r=16, **options))
    assert isinstance(spec, ModelSpec), spec
    return spec


def step(spec: ModelSpec, policy: Policy, tile: int | None = None, chunk_rows: int = 1024) -> None:
    """Forward and backward of the engine itself. Its kernels are noted, so that the numbers are of no use."""
    ids, positions = packed(LENGTHS)
    labels = ids.clone()
    labels[:, ::3] = IGNORE
    engine = Engine(spec, policy)
    engine.tile, engine.chunk_rows = tile, chunk_rows
    engine.loss_sum(ids, positions, labels).backward()
    engine.release()


@pytest.mark.parametrize("nf4", [False, True], ids=["dense", "nf4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_compiled_ahead_is_what_a_step_launches(family: str, nf4: bool) -> None:
    spec = spec_of(family, nf4=nf4)
    ahead = {variant(launched) for launched in launches_of(kinds_of(spec))}
    with noted() as launches:
        for policy, tile in (("none", None), ("mlp", 8), ("full", None)):
            step(spec, policy, tile)
    launched = {variant(one) for one in launches}
    assert len(launched) >= 9
    assert launched - ahead == set(), "compiled only when the step comes"
    assert ahead - launched == set(), "compiled for nothing"


@pytest.mark.parametrize("vocab", [97, 130, 144])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_trained_heads_kernels_are_compiled_ahead(family: str, vocab: int) -> None:
    """A vocabulary that is one slice, one of two whose last is narrow, and one of two that are alike to Triton."""
    spec = read_model(plain_model(family, torch.bfloat16, vocab_size=vocab))
    assert isinstance(spec, ModelSpec), spec
    spec.head.weight.requires_grad_()
    with noted() as launches:
        step(spec, "none", chunk_rows=8)
    ahead, launched = (
        {kind for kind in map(variant, some) if kind[0].endswith("cross_entropy_triton")}
        for some in (launches_of(kinds_of(spec)), launches)
    )
    assert {kind[1] for kind in launched} == {"_rows", "_slice"}
    assert launched - ahead == set(), "compiled only when the step comes"
    assert ahead - launched == set(), "compiled for nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_and_where_the_weights_themselves_are_trained(family: str) -> None:
    spec = read_model(plain_model(family, torch.bfloat16).requires_grad_(True))
    assert isinstance(spec, ModelSpec), spec
    ahead = {variant(launched) for launched in launches_of(kinds_of(spec))}
    with noted() as launches:
        for policy in ("none", "mlp", "full"):
            step(spec, policy)
    launched = {variant(one) for one in launches}
    assert any(name == "_backward_trained" for _, name, *_ in launched)
    assert launched - ahead == set(), "compiled only when the step comes"
    assert ahead - launched == set(), "compiled for nothing"


@pytest.mark.parametrize("nf4", [False, True], ids=["dense", "nf4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_says_as_much_as_a_loaded_model(family: str, nf4: bool) -> None:
    """But for the absmax: bitsandbytes has it in 8 bits, the families' four-bit layers in float32."""
    model = lora_model(family, torch.bfloat16, r=16, nf4=nf4)
    spec = read_model(model)
    assert isinstance(spec, ModelSpec)
    kinds = kinds_of_config(model.config, torch.bfloat16, four_bit=nf4)
    assert kinds is not None
    kinds = replace(kinds, packed=tuple(replace(w, absmax=w.absmax.float(), nested=None) for w in kinds.packed))
    early = {variant(launched) for launched in launches_of(kinds)}
    late = {variant(launched) for launched in launches_of(replace(kinds_of(spec), adapters=kinds.adapters))}
    assert early == late


def test_a_config_of_an_unknown_kind_says_nothing() -> None:
    config = lora_model("llama").config
    assert kinds_of_config(config, torch.bfloat16, four_bit=False) is not None
    config.hidden_act = "relu"
    assert kinds_of_config(config, torch.bfloat16, four_bit=False) is None
    assert kinds_of_config(GPT2Config(), torch.bfloat16, four_bit=False) is None


def test_a_head_with_an_adapter_has_no_loss_kernel() -> None:
    spec = spec_of("llama", target_modules=["q_proj", "lm_head"])
    names = {variant(launched)[1] for launched in launches_of(kinds_of(spec))}
    assert "_rows" not in names
    assert "_rows" in {variant(launched)[1] for launched in launches_of(kinds_of(spec_of("llama")))}


def test_one_launch_of_each_variant_is_enough() -> None:
    from whet.engine.kernels.copy import copy_rows

    wide, narrow = torch.empty(32, 64), torch.empty(32, 40)
    with noted() as launches:
        for rows in (32, 16, 7, 1):
            copy_rows(wide[:rows, :48], wide[:rows, :48].clone())
        copy_rows(narrow, narrow.clone())  # rows that begin at no multiple of 16
        copy_rows(wide.double()[:, :48], wide[:, :48])  # float64 has no kernel
    assert len(launches) == 5
    assert len(distinct(launches)) == 2


def test_outside_of_noting_a_launch_runs() -> None:
    ran: list[tuple[object, ...]] = []

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]):
            return lambda *arguments, **constants: ran.append((grid, arguments, constants))

    launch(Kernel(), (3,), 1, 2.0, BLOCK=4)
    assert ran == [((3,), (1, 2.0), {"BLOCK": 4})]
    with noted() as launches:
        launch(Kernel(), (3,), 1, 2.0, BLOCK=4)
    assert len(ran) == len(launches) == 1


class Hopper:
    """What Triton asks of a driver before it compiles, for a GPU that is not here; its number keeps caches apart."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 63

    def get_current_stream(self, device: int) -> int:
        return 0


def test_triton_compiles_nothing_at_the_launches_themselves(tmp_path, monkeypatch) -> None:
    """By Triton's own compiler and keys: what ``variant`` calls the same is the same to it."""
    from triton import knobs
    from triton.runtime import driver

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    names: list[str] = []
    monkeypatch.setattr(knobs.compilation, "listener", lambda src, **_: names.append(src.name))
    spec = spec_of("gemma3", nf4=True)
    ahead = launches_of(kinds_of(spec))
    with noted() as launches:
        step(spec, "none")
    monkeypatch.setattr(driver, "_active", Hopper())  # reset_active fails where there is no GPU to go back to
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(compiled, ahead))
    assert len(names) == len(ahead)
    for launched in launches:
        compiled(launched)
    assert len(names) == len(ahead)


def test_a_source_that_another_thread_disturbed_is_parsed_again() -> None:
    class Disturbed:
        calls = 0

        def warmup(self, *_, grid) -> str:
            self.calls += 1
            if self.calls < 3:
                raise SystemError("AST constructor recursion depth mismatch (before=42, after=37)")
            return f"compiled at {grid}"

    kernel = Disturbed()
    assert compiled(Launch(kernel, (1,), (), {})) == "compiled at (1,)" and kernel.calls == 3
    kernel.calls = -10
    with pytest.raises(SystemError, match="mismatch"):
        compiled(Launch(kernel, (1,), (), {}))
