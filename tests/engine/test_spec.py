"""What ``read_model`` finds in each family, and what it refuses with which words."""

from __future__ import annotations

import pytest
import torch
from families import CONFIGS, FAMILIES, SIZES, WINDOW, lora_model, plain_model
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Llama4TextConfig,
    Ministral3Config,
    MixtralConfig,
    Olmo2Config,
    OlmoConfig,
    SmolLM3Config,
)

from whet.engine.lora import base_of, lora_of
from whet.engine.probe import activation_of, norm_of
from whet.engine.read import read_model
from whet.engine.spec import GROUPS, ModelSpec, Unsupported


def spec_of(model) -> ModelSpec:
    spec = read_model(model)
    assert isinstance(spec, ModelSpec), spec
    return spec


def reason(model) -> str:
    found = read_model(model)
    assert isinstance(found, Unsupported)
    return found.reason


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_are_those_of_the_modules(family):
    model = lora_model(family)
    spec = spec_of(model)
    assert spec.embed is model.get_base_model().model.embed_tokens
    assert spec.head is model.get_base_model().lm_head
    assert (spec.vocab, spec.hidden) == tuple(spec.head.weight.shape)
    assert len(spec.layers) == model.config.num_hidden_layers
    for layer, parts in spec.layers:
        for name in GROUPS:
            bases = [base_of(module) for module in parts.groups[name]]
            assert sum(base.weight.shape[0] for base in bases) == layer.sizes(name)[0]
            assert {base.weight.shape[1] for base in bases} == {layer.sizes(name)[1]}


@pytest.mark.parametrize("family", ["llama_biases", "phi3"])
def test_four_bit_weights_have_the_numbers_of_the_dense_ones(family):
    dense, packed = spec_of(lora_model(family)), spec_of(lora_model(family, nf4=True))
    assert [layer for layer, _ in dense.layers] == [layer for layer, _ in packed.layers]


def numbers(family: str) -> list:
    return [layer for layer, _ in spec_of(plain_model(family)).layers]


def test_windows_by_layer():
    windows = {family: [layer.window for layer in numbers(family)] for family in FAMILIES}
    assert windows == {
        "llama": [None, None],
        "llama_biases": [None, None],
        "mistral": [WINDOW, WINDOW],
        "qwen2": [None, None],
        "qwen2_window": [None, WINDOW],
        "qwen3": [None, None],
        "gemma2": [WINDOW, None, WINDOW],
        "gemma3": [WINDOW, None, WINDOW],
        "phi3": [WINDOW, WINDOW],
        "phi3_partial": [None, None],
        "smollm": [None, None],
    }


def test_a_window_that_the_models_class_does_not_know_is_none():
    assert [layer.window for layer, _ in spec_of(plain_model("llama", sliding_window=4)).layers] == [None, None]


def test_gemma_2():
    spec = spec_of(plain_model("gemma2"))
    layer, parts = spec.layers[0]
    assert (layer.norm_offset, layer.post_norms, layer.qk_norm, layer.softcap) == (1, True, False, 2.0)
    assert (layer.activation, layer.scale, spec.logit_softcap) == ("gelu_tanh", 12**-0.5, 3.0)
    assert (spec.final_norm_offset, spec.embed_scale) == (1, pytest.approx(24**0.5, rel=1e-7))
    assert parts.post_mlp_norm is not None and parts.q_norm is None
    assert spec_of(plain_model("gemma2", torch.bfloat16)).embed_scale == float(torch.tensor(24**0.5).bfloat16())


def test_gemma_3_has_two_rotations():
    spec = spec_of(plain_model("gemma3"))
    assert [layer.rope for layer, _ in spec.layers] == ["local", "global", "local"]
    assert all(layer.qk_norm and layer.post_norms for layer, _ in spec.layers)
    tables = spec.rotary(torch.arange(6)[None], torch.float32)
    assert set(tables) == {"global", "local"}
    assert not torch.equal(tables["global"][0], tables["local"][0])


def test_phi_3_is_fused_and_may_rotate_a_part():
    spec = spec_of(lora_model("phi3_partial"))
    layer, parts = spec.layers[0]
    assert (layer.head_dim, layer.rotary_dim) == (8, 4)
    assert [len(parts.groups[name]) for name in GROUPS] == [1, 1, 1, 1]


def test_tables_hold_each_angle_once():
    spec = spec_of(plain_model("qwen2"))
    cos_TC, sin_TC = spec.rotary(torch.tensor([[0, 1, 2], [0, 0, 1]]), torch.float32)["global"]
    assert cos_TC.shape == sin_TC.shape == (6, 3) and cos_TC.is_contiguous()
    angles_TC = torch.tensor([0, 1, 2, 0, 0, 1.0])[:, None] / 10000.0 ** (torch.arange(3) / 3)
    assert torch.allclose(cos_TC, angles_TC.cos(), atol=1e-6) and torch.allclose(sin_TC, angles_TC.sin(), atol=1e-6)
    assert spec.rotary(torch.zeros(1, 2, dtype=torch.long), torch.bfloat16)["global"][0].dtype == torch.bfloat16


def test_adapters_are_peft_s_own_parameters():
    model = lora_model("llama", use_rslora=True, target_modules=["q_proj", "v_proj"])
    parts = spec_of(model).layers[0][1]
    q, k, v = (lora_of(module) for module in parts.groups["qkv"])
    assert k is None and q is not None and v is not None
    assert q.A is parts.groups["qkv"][0].lora_A["default"].weight
    assert q.scale == pytest.approx(6 / 3**0.5)
    assert lora_of(parts.groups["down"][0]) is None


def test_a_frozen_plain_model_and_a_trained_head_are_read():
    assert spec_of(plain_model("llama")).layers[0][1].groups["o"]
    assert spec_of(lora_model("llama", target_modules=["q_proj", "lm_head"])).head is not None
    assert spec_of(lora_model("llama", modules_to_save=["embed_tokens", "lm_head"])).vocab == SIZES["vocab_size"]


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"lora_dropout": 0.1}, "LoRA dropout is 0.1"),
        ({"lora_bias": True, "target_modules": ["q_proj"]}, "LoRA with a bias"),
        ({"bias": "all", "target_modules": ["q_proj"]}, "q_proj.base_layer.bias is trained"),
        ({"modules_to_save": ["k_proj"], "target_modules": ["q_proj"]}, "k_proj: a layer is trained as a whole"),
        ({"modules_to_save": ["input_layernorm"]}, "input_layernorm: a layer is trained as a whole"),
    ],
)
def test_adapters_that_are_more_than_lora(lora, words):
    assert words in reason(lora_model("llama_biases", torch.float32, **lora))


def test_states_of_adapters():
    model = lora_model("llama")
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"]))
    spec_of(model)
    model.base_model.set_adapter(["default", "second"])
    assert "several adapters" in reason(model)
    model.base_model.set_adapter("default")
    with model.disable_adapter():
        assert "switched off" in reason(model)
    model.merge_adapter()
    assert "merged" in reason(model)


def test_trained_weights_below_the_adapters():
    model = lora_model("llama")
    weight = model.get_base_model().model.layers[1].mlp.up_proj.base_layer.weight
    weight.requires_grad_(True)
    words = "is trained, and its projection has adapters or frozen weights as well"
    assert reason(model) == f"layer 1: mlp.up_proj.base_layer.weight {words}"


def test_weights_that_are_trained_themselves():
    model = plain_model("qwen2").requires_grad_(True)
    spec_of(model)
    model.model.layers[0].self_attn.k_proj.bias.requires_grad_(False)
    assert reason(model).startswith("layer 0: self_attn.q_proj.weight is trained, and its projection has")
    model.model.layers[0].self_attn.k_proj.bias.requires_grad_(True)
    spec_of(model)
    other = "weights of torch.float32 are trained, and its embedding is torch.float64"
    bias = model.model.layers[0].self_attn.k_proj.bias
    bias.data = bias.data.float()
    assert reason(model) == other
    bias.data = bias.data.double()
    model.model.layers[1].mlp.float()
    assert reason(model) == other


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (Olmo2Config, "its parts are"),
        (OlmoConfig, "OlmoLayerNorm"),
        (MixtralConfig, "a part gate, which is not known"),
        (CohereConfig, "neighbours, not halves"),
        (SmolLM3Config, "no rotation"),
        (Ministral3Config, "scales queries by their position"),
        (Llama4TextConfig, "gives no cosines and sines"),
    ],
)
def test_other_families(config, words):
    extra = {"no_rope_layers": [1, 0]} if config is SmolLM3Config else {}
    model = AutoModelForCausalLM.from_config(config(**{**SIZES, **extra})).eval().requires_grad_(False)
    assert words in reason(model)


def test_settings_of_known_families():
    assert "attention dropout is 0.1" in reason(plain_model("llama", attention_dropout=0.1))
    assert "dropout resid_attn_dropout is 0.2" in reason(plain_model("phi3", resid_pdrop=0.2))
    assert "neither SiLU" in reason(plain_model("llama", hidden_act="gelu"))
    assert "not causal" in reason(plain_model("gemma3", use_bidirectional_attention=True))
    assert "Linear has no model.embed_tokens" in reason(torch.nn.Linear(2, 2))
    sinks = plain_model("llama")
    sinks.model.layers[0].self_attn.sinks = torch.nn.Parameter(torch.ones(4), requires_grad=False)
    assert "weights sinks" in reason(sinks)


def test_weights_that_are_not_there_or_packed_in_an_unknown_way():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIGS["llama"][0](**SIZES)).requires_grad_(False)
    assert "not loaded" in reason(model)
    packed = plain_model("llama")
    packed.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.int8), False)
    mixed = plain_model("qwen2", nf4=True)
    mixed.model.layers[1].self_attn.v_proj = plain_model("qwen2").model.layers[1].self_attn.v_proj
    assert reason(mixed) == "layer 1: of q_proj, k_proj, v_proj some are quantised and some are not"
    assert "up_proj: a weight is not bitsandbytes' 4-bit kind (Linear, torch.int8)" in reason(packed)


def test_reading_touches_no_random_state_and_no_weight():
    model = lora_model("gemma3")
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    spec_of(model)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_norms_are_told_apart_in_every_dtype(dtype):
    llama, gemma = plain_model("llama", dtype), plain_model("gemma2", dtype)
    assert norm_of(llama.model.norm) == (0, 1e-6)
    assert norm_of(gemma.model.norm) == (1, 1e-6)
    assert norm_of(torch.nn.LayerNorm(8).to(dtype)) is None
    assert norm_of(torch.nn.LayerNorm(8, bias=False).to(dtype)) is None


def test_activations():
    assert activation_of(torch.nn.SiLU()) == "silu"
    assert activation_of(torch.nn.GELU(approximate="tanh")) == "gelu_tanh"
    assert activation_of(torch.nn.GELU()) is None and activation_of(torch.nn.ReLU()) is None
    assert activation_of(None) is None


def test_peft_s_outer_wrapper_changes_nothing():
    plain = plain_model("qwen3")
    numbers_before = [layer for layer, _ in spec_of(plain).layers]
    wrapped = get_peft_model(plain, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert [layer for layer, _ in spec_of(wrapped).layers] == numbers_before
