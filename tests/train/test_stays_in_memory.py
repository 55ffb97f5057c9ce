"""A model whose projections stay in main memory: who moves, and what its own forward leaves behind.

The device is the CPU: weights are copied to it as to any other.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from whet import runtime
from whet.console import forget_notices
from whet.engine.check import self_check
from whet.engine.forward import Engine
from whet.engine.read import _check_streamed, _Unknown, read_model
from whet.engine.spec import ModelSpec
from whet.engine.streamed import Streamed
from whet.errors import ModelError
from whet.models.adapters import add_lora
from whet.models.load import load_model
from whet.train.streaming import Visit, keep_in_main_memory, stays_in_main_memory, streams_here

HERE = torch.device("cpu")
IDS_BT = torch.arange(1, 20)[None]


def model_with_lora(seed: int = 0, dtype: torch.dtype = torch.float32, **lora: object) -> torch.nn.Module:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = add_lora(LlamaForCausalLM(LlamaConfig(**sizes, **heads)).to(dtype), rank=3, **lora).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model


def bases(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if "base_layer.weight" in name}


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=IDS_BT, use_cache=False).logits


def test_the_forward_is_the_same_and_weights_are_back_after_it():
    model = model_with_lora()
    wanted = logits(model)
    keep_in_main_memory(model, HERE)
    homes = {name: weight.data_ptr() for name, weight in bases(model).items()}
    seen = []
    layer = model.get_base_model().model.layers[1]
    layer.mlp.register_forward_pre_hook(lambda *_: seen.append(layer.mlp.down_proj.base_layer.weight.data_ptr()))
    assert torch.equal(logits(model), wanted)
    assert seen and seen[0] not in homes.values()  # a copy was there meanwhile
    assert {name: weight.data_ptr() for name, weight in bases(model).items()} == homes


def test_weights_are_back_after_an_error():
    model = model_with_lora()
    keep_in_main_memory(model, HERE)
    homes = {name: weight.data_ptr() for name, weight in bases(model).items()}

    def fail(*_: object) -> None:
        raise ArithmeticError

    handle = model.get_base_model().model.layers[2].mlp.register_forward_pre_hook(fail)
    with pytest.raises(ArithmeticError):
        logits(model)
    assert {name: weight.data_ptr() for name, weight in bases(model).items()} == homes
    handle.remove()
    assert logits(model).isfinite().all()


def test_weights_are_no_tensors_of_inference_afterwards():
    model = model_with_lora()
    keep_in_main_memory(model, HERE)
    with torch.inference_mode():
        model(input_ids=IDS_BT, use_cache=False)
    assert not any(weight.is_inference() for weight in model.parameters())
    model(input_ids=IDS_BT, use_cache=False).logits.sum().backward()


def test_a_copy_of_the_model_brings_its_own_weights():
    model = model_with_lora()
    keep_in_main_memory(model, HERE)
    other = copy.deepcopy(model)
    for weight in bases(model).values():
        weight.data.fill_(torch.nan)
    assert logits(other).isfinite().all()


def test_adapters_are_saved_and_loaded_as_usual(tmp_path):
    model = model_with_lora()
    keep_in_main_memory(model, HERE)
    wanted = logits(model)
    model.save_pretrained(tmp_path)
    again = model_with_lora(init_lora_weights=True)
    keep_in_main_memory(again, HERE)
    again.load_adapter(str(tmp_path), "default", is_trainable=True)  # as the trainer does to go on from a checkpoint
    assert torch.equal(logits(again), wanted)
    assert stays_in_main_memory(again) and not hasattr(again.get_base_model(), "_hf_hook")


def test_trainer_and_accelerate_move_nothing():
    from accelerate import Accelerator
    from transformers import Trainer, TrainingArguments

    model = model_with_lora()
    keep_in_main_memory(model, HERE)
    moved = []
    model.to = lambda *args, **kwargs: moved.append(args) or model
    trainer = Trainer(model, TrainingArguments("unused", use_cpu=True, report_to="none"))
    trainer.accelerator.prepare_model(model)
    assert not moved and trainer.is_model_parallel is False
    assert Accelerator(cpu=True).unwrap_model(model) is model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_engine_is_checked_through_the_hooks_before_and_after(dtype):
    """Against weights that lie in the engine's pages, then against those that it gave back."""
    model = model_with_lora(dtype=dtype)
    wanted = logits(model)
    keep_in_main_memory(model, HERE)
    spec = read_model(model)
    assert isinstance(spec, ModelSpec)
    engine = Engine(spec, streamed=True)
    assert all(isinstance(group.storage, Streamed) for layer in engine.layers for group in layer.groups)
    assert self_check(spec, engine.run_layer, model) == ""
    assert torch.equal(logits(model), wanted)
    engine.release()
    assert torch.equal(logits(model), wanted)


def test_a_wrong_engine_is_found_through_the_hooks():
    model = model_with_lora()
    keep_in_main_memory(model, HERE)
    engine = Engine(read_model(model), streamed=True)
    for layer in engine.layers:
        layer.groups[1].storage.host.mul_(-1)
        for weight in layer.groups[1].storage._borrowed:
            weight.data = -weight.data
    assert "is off by" in self_check(engine.spec, engine.run_layer, model)


def test_only_weights_in_main_memory_come():
    base = torch.nn.Linear(3, 3, device="meta")
    weight = base.weight.data_ptr()
    visit = Visit([base])
    visit.come(layer_of(base, "meta"), ())
    assert visit._homes == [] and base.weight.data_ptr() == weight


def layer_of(base: torch.nn.Module, device: str) -> torch.nn.Module:
    return torch.nn.ModuleDict({"input_layernorm": torch.nn.RMSNorm(3, device=device), "base": base})


def test_weights_come_to_where_the_model_is_now():
    """It was on a GPU ("meta" here), and is moved to the CPU."""

    class Weight:
        data = torch.ones(3, 3)
        device = property(lambda self: self.data.device)

    visit = Visit([SimpleNamespace(weight=Weight())])
    (base,) = visit._bases
    for device in ("meta", "cpu"):
        layer = layer_of(torch.nn.Identity(), device)
        visit.come(layer, ())
        assert base.weight.device.type == device
        visit.go(layer, (), None)
        assert base.weight.device.type == "cpu"


def test_weights_that_ctrl_c_left_behind_go_home():
    """torch calls no hooks then."""
    model = model_with_lora()
    keep_in_main_memory(model, HERE)
    homes = {name: weight.data_ptr() for name, weight in bases(model).items()}

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    handle = model.get_base_model().model.layers[1].mlp.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        logits(model)
    handle.remove()
    assert logits(model).isfinite().all()
    assert {name: weight.data_ptr() for name, weight in bases(model).items()} == homes


def test_memory_that_a_file_is_mapped_into_is_counted_once(tiny_llama_dir, monkeypatch):
    """It counts as free: little of it belongs to the process itself."""
    model = add_lora(load_model(str(tiny_llama_dir), on_cpu=True, dtype=torch.float32)[0], rank=2)
    size = sum(weight.nbytes for weight in bases(model).values())
    asked = []
    monkeypatch.setattr("whet.train.streaming.check_main_memory", lambda *given: asked.append(given))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000 * size))
    for rss, given_back in ((10 * size, size), (3 * size + size // 2, size // 2), (2 * size, 0)):
        held = SimpleNamespace(memory_info=lambda rss=rss: SimpleNamespace(rss=rss, shared=3 * size))
        monkeypatch.setattr("psutil.Process", lambda held=held: held)
        keep_in_main_memory(model, HERE)
        assert asked.pop() == (size, 1000 * size + given_back)


def test_what_the_engine_cannot_take_is_refused():
    with pytest.raises(ModelError, match=r"dropout is 0\.1") as caught:
        keep_in_main_memory(model_with_lora(dropout=0.1), HERE)
    assert "load_in_4bit" in str(caught.value) and "stream_weights" in str(caught.value)
    plain = model_with_lora().unload().requires_grad_(True)
    with pytest.raises(ModelError, match="cannot be trained"):
        keep_in_main_memory(plain, HERE)


def test_only_frozen_projections_may_lie_apart():
    """The others are on "meta" here, in place of a GPU."""
    model = model_with_lora()
    spec = read_model(model)
    staying = {id(weight) for weight in bases(model).values()}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None and id(weight) not in staying:
                module._parameters[name] = torch.nn.Parameter(weight.to("meta"), requires_grad=weight.requires_grad)
    causal, there = model.get_base_model(), torch.device("meta")
    _check_streamed(causal, spec.layers, there)
    causal.model.layers[1].mlp.up_proj.base_layer.weight.requires_grad_(True)
    with pytest.raises(_Unknown, match=r"layers.1.mlp.up_proj.base_layer.weight is on cpu"):
        _check_streamed(causal, spec.layers, there)
    causal.model.layers[1].mlp.up_proj.base_layer.weight.requires_grad_(False)
    half = causal.model.layers[1].mlp.up_proj.base_layer
    half.weight.data = half.weight.data.bfloat16()
    with pytest.raises(_Unknown, match=r"up_proj.base_layer.weight is torch.bfloat16 in main memory"):
        _check_streamed(causal, spec.layers, there)
    half.weight.data = half.weight.data.float()
    causal.model.norm.weight = torch.nn.Parameter(torch.ones(24))
    with pytest.raises(_Unknown, match=r"model.norm.weight is on cpu, its embedding on meta"):
        _check_streamed(causal, spec.layers, there)


def test_without_a_gpu_one_note_says_that_nothing_is_streamed(capsys):
    if runtime.device().type == "cuda":
        pytest.skip("a machine with a GPU")
    forget_notices()
    assert not streams_here(False) and capsys.readouterr().err == ""
    assert not streams_here(True) and not streams_here(True)
    assert capsys.readouterr().err.count("stream_weights has no effect here") == 1


def test_a_model_may_stay_on_the_cpu(tiny_llama_dir):
    model, _ = load_model(str(tiny_llama_dir), on_cpu=True, training=True)
    assert {weight.device.type for weight in model.parameters()} == {"cpu"}
    assert next(model.parameters()).dtype == runtime.weight_dtype(training=True).dtype
