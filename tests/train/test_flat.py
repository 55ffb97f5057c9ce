"""Parameters as views of one buffer: what detaches them is seen, and the model stays an ordinary PEFT model."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from whet.console import forget_notices
from whet.errors import TrainingError
from whet.train.flat import ALIGN, FlatAdapters

SHAPES = [(3, 5), (7,), (1,), (4, 33)]  # none is a multiple of the padding


def parameters(dtype: torch.dtype = torch.float64, seed: int = 0) -> list[torch.nn.Parameter]:
    made = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=made, dtype=dtype)) for shape in SHAPES]


def inside(tensor: torch.Tensor | None, buffer: torch.Tensor) -> bool:
    return tensor is not None and tensor.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()


@pytest.fixture
def peft_model() -> PeftModel:
    torch.manual_seed(1)
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
    lora = LoraConfig(r=3, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(base, lora)


def trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def backward(model: Any, seed: int = 3) -> None:
    ids = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(seed))
    model(input_ids=ids, labels=ids).loss.backward()


def test_values_stay_and_lie_in_the_buffer() -> None:
    plain, owned = parameters(), parameters()
    flat = FlatAdapters(owned)
    for i, (before, after) in enumerate(zip(plain, owned, strict=True)):
        assert torch.equal(before, after) and inside(after, flat.values) and after.is_leaf and after.requires_grad
        assert after.data_ptr() == flat.values.data_ptr() + flat.starts[i] * 8 and flat.starts[i] % ALIGN == 0
    assert flat.values.count_nonzero() == sum(parameter.numel() for parameter in plain), "gaps are zero"


def test_gradients_of_before_are_kept() -> None:
    owned = parameters()
    owned[1].grad = torch.ones(7, dtype=torch.float64)
    flat = FlatAdapters(owned)
    assert flat.gather() == [0, 2, 3]
    assert inside(owned[1].grad, flat.gradients) and flat.gradients.sum() == 7


def test_backward_adds_in_place_once_attached(peft_model: PeftModel) -> None:
    other = copy.deepcopy(peft_model)
    flat = FlatAdapters(trained(peft_model))
    for seed in (3, 4):
        flat.attach()
        views = [parameter.grad for parameter in flat.parameters]
        backward(peft_model, seed)
        backward(other, seed)
        assert all(parameter.grad is view for parameter, view in zip(flat.parameters, views, strict=True))
    for mine, theirs in zip(trained(peft_model), trained(other), strict=True):
        assert inside(mine.grad, flat.gradients) and torch.equal(mine.grad, theirs.grad)
    peft_model.zero_grad()
    assert all(parameter.grad is None for parameter in flat.parameters)
    flat.attach()
    assert not flat.gradients.any() and all(inside(parameter.grad, flat.gradients) for parameter in flat.parameters)


def test_gradients_that_autograd_made_are_copied_in(peft_model: PeftModel) -> None:
    flat = FlatAdapters(trained(peft_model))
    flat.attach()
    flat.gradients.fill_(torch.nan)  # what an earlier step left
    peft_model.zero_grad()
    backward(peft_model)
    made = [parameter.grad.clone() for parameter in flat.parameters]
    assert not any(inside(parameter.grad, flat.gradients) for parameter in flat.parameters)
    assert flat.gather() == []
    for parameter, gradient in zip(flat.parameters, made, strict=True):
        assert inside(parameter.grad, flat.gradients) and torch.equal(parameter.grad, gradient)


def test_missing_gradients_are_zero_in_the_buffer() -> None:
    owned = parameters()
    flat = FlatAdapters(owned)
    flat.attach()
    for parameter in owned:
        parameter.grad.fill_(5)
    owned[0].grad = None
    owned[2].grad = torch.full((1,), 2.0, dtype=torch.float64)
    assert flat.gather() == [0]
    assert flat.gradients.sum() == 5 * 7 + 2 + 5 * 4 * 33


def test_frozen_parameters_get_no_gradient() -> None:
    owned = parameters()
    owned[1].requires_grad_(False)
    FlatAdapters(owned).attach()
    assert owned[1].grad is None and owned[0].grad is not None


@pytest.mark.parametrize("max_norm", [0.5, 1.0, 1e6, float("inf")])
def test_clipping_is_torchs(max_norm: float) -> None:
    plain, owned = parameters(), parameters()
    for one, other in zip(plain, owned, strict=True):
        one.grad = torch.randn_like(one)
        other.grad = one.grad.clone()
    plain[2].grad = owned[2].grad = None
    flat = FlatAdapters(owned)
    expected = torch.nn.utils.clip_grad_norm_(plain, max_norm)
    torch.testing.assert_close(flat.clip_(max_norm), expected, rtol=1e-14, atol=0)
    for one, other in zip(plain, owned, strict=True):
        assert one.grad is None or torch.allclose(one.grad, other.grad, rtol=1e-14, atol=0)


def test_clipping_lets_nan_through() -> None:
    owned = parameters()
    flat = FlatAdapters(owned)
    flat.attach()
    owned[0].grad[0, 0] = torch.nan
    assert flat.clip_(1.0).isnan() and owned[3].grad.isnan().all()


def test_a_new_data_tensor_is_taken_back_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    forget_notices()
    owned = parameters()
    flat = FlatAdapters(owned)
    flat.attach()
    owned[0].grad.fill_(3)
    owned[3].data = torch.ones(4, 33, dtype=torch.float64)
    flat.check()
    assert inside(owned[3], flat.values) and (flat.view(flat.values, 3) == 1).all()
    assert inside(owned[0].grad, flat.gradients) and (owned[0].grad == 3).all()
    assert "moved the adapters' memory" in capsys.readouterr().err
    owned[1].grad.data = torch.full((7,), 4.0, dtype=torch.float64)  # the same object, elsewhere: what .to() does
    flat.gather()
    assert inside(owned[1].grad, flat.gradients) and (flat.view(flat.gradients, 1) == 4).all()


def test_model_to_and_back_is_taken_back(peft_model: PeftModel) -> None:
    flat = FlatAdapters(trained(peft_model))
    flat.attach()
    backward(peft_model)
    values, gradients = flat.values.clone(), flat.gradients.clone()
    peft_model.double().float()  # .to() gives parameters new memory, and the gradients under the same objects
    assert not inside(flat.parameters[0], flat.values)
    assert flat.gather() == []
    assert torch.equal(flat.values, values) and torch.equal(flat.gradients, gradients)
    assert all(inside(p, flat.values) and inside(p.grad, flat.gradients) for p in flat.parameters)
    peft_model.to("cpu")  # where it is: nothing moves
    assert inside(flat.parameters[0], flat.values)


def test_another_dtype_or_shape_is_refused(peft_model: PeftModel) -> None:
    flat = FlatAdapters(trained(peft_model))
    peft_model.bfloat16()
    with pytest.raises(TrainingError, match="bfloat16"):
        flat.gather()
    owned = parameters()
    flat = FlatAdapters(owned)
    owned[0].data = torch.zeros(2, 2, dtype=torch.float64)
    with pytest.raises(TrainingError, match="shape"):
        flat.gather()


def test_what_cannot_be_one_buffer() -> None:
    one = parameters()[0]
    for wrong in ([], [one, one], [one, parameters(torch.float32)[0]], parameters(torch.bfloat16)):
        with pytest.raises(TrainingError):
            FlatAdapters(wrong)


def test_two_owners_take_turns() -> None:
    """A second trainer on the same model; then the first goes on."""
    owned = parameters()
    first = FlatAdapters(owned)
    second = FlatAdapters(owned)
    second.values.mul_(2)
    doubled = owned[0].clone()
    first.gather()
    assert inside(owned[0], first.values) and torch.equal(owned[0], doubled)
    second.gather()
    assert inside(owned[0], second.values) and torch.equal(owned[0], doubled)


def test_copies_are_models_of_their_own(peft_model: PeftModel) -> None:
    flat = FlatAdapters(trained(peft_model))
    flat.attach()
    saved = io.BytesIO()
    torch.save(peft_model.state_dict(), saved)
    saved.seek(0)
    copies = [copy.deepcopy(peft_model), pickle.loads(pickle.dumps(peft_model))]
    before = flat.values.clone()
    for other in copies:
        for mine, theirs in zip(trained(peft_model), trained(other), strict=True):
            assert torch.equal(mine, theirs) and not inside(theirs, flat.values)
            theirs.data.zero_()
    assert torch.equal(flat.values, before)
    flat.check()
    assert inside(flat.parameters[0], flat.values), "the original is still attached"
    for name, value in torch.load(saved).items():
        assert torch.equal(value, peft_model.state_dict()[name])


def test_replaced_parameters_are_named(peft_model: PeftModel) -> None:
    flat = FlatAdapters(trained(peft_model))
    assert flat.strangers(peft_model) == []
    peft_model.load_state_dict(copy.deepcopy(peft_model.state_dict()), assign=True)
    assert len(flat.strangers(peft_model)) == len(flat.parameters)


def test_peft_saves_and_loads(peft_model: PeftModel, tmp_path: Path) -> None:
    flat = FlatAdapters(trained(peft_model))
    flat.values.add_(1)
    peft_model.save_pretrained(tmp_path)
    written = load_file(tmp_path / "adapter_model.safetensors")
    now = {name.replace(".default", ""): p for name, p in peft_model.named_parameters() if p.requires_grad}
    assert written.keys() == now.keys() and all(torch.equal(written[name], now[name]) for name in now)
    flat.values.zero_()
    peft_model.load_adapter(tmp_path, "default", is_trainable=True)
    flat.check()
    for i, (name, parameter) in enumerate(now.items()):
        assert torch.equal(flat.view(flat.values, i), written[name]) and inside(parameter, flat.values)
    assert flat.strangers(peft_model) == []


@pytest.mark.gpu
def test_a_model_sent_to_the_gpu_takes_its_buffers_along(peft_model: PeftModel) -> None:
    flat = FlatAdapters(trained(peft_model))
    values = flat.values.clone()
    peft_model.to("cuda")
    flat.check()
    assert flat.values.is_cuda and torch.equal(flat.values.cpu(), values)
    assert all(inside(parameter, flat.values) for parameter in flat.parameters)
