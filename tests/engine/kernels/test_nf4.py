"""NF4 weights as bitsandbytes stores them: bit by bit what its dequantize_4bit gives, stored here and live."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from whet.engine.kernels.nf4 import NF4, NestedAbsmax, Nf4Weight, dequantise_nf4
from whet.engine.quantised import quantise_nf4, read_nf4

# A ramp of three blocks, quantised by bitsandbytes 0.50.2.
PACKED = bytes.fromhex(
    "0148ce0248ce0259df126adf136bef147be0148ce0259ce125adf136adf137be"
    "9df126adf136bef147be0148ce0259ce125adf136adf137be0148ce0248ce025"
    "147be0148ce0259ce125adf136adf137be0148ce0248ce0259df126adf136bef"
)
ABSMAX = [0.984375, 1.96875, 2.953125]
ABSMAX_8BIT = [0, 131, 255]


def ramp() -> torch.Tensor:
    return torch.tensor([[((i * 37 + j * 11) % 64 - 31.5) / 32 * (1 + i) for j in range(64)] for i in range(3)])


def made(shape: tuple[int, int], dtype: torch.dtype, block: int, double: bool) -> Nf4Weight:
    """A weight from integer arithmetic alone, the same on every machine."""
    count = shape[0] * shape[1]
    blocks = -(-count // block)
    i = torch.arange(count + 1)
    packed = ((i * 37 + i * i % 101) % 256)[: (count + 1) // 2].to(torch.uint8)
    if not double:
        return Nf4Weight(packed, ((i % 97 + 1) / 311)[:blocks], shape, dtype, block)
    second = ((i * 29 % 64 + 1) / 1024)[: -(-blocks // 256)]
    code = quantise_nf4(ramp(), double=True).nested.code
    nested = NestedAbsmax(code, second, torch.tensor(0.0731))
    return Nf4Weight(packed, ((i * 91 + 5) % 256)[:blocks].to(torch.uint8), shape, dtype, block, nested)


def dequantised(weight: Nf4Weight, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Through a view of a poisoned, wider buffer, whose rest must stay as it was."""
    N, K = weight.shape
    buffer = torch.full((N + 2, K + 9), float("nan"), dtype=dtype or weight.dtype)
    dequantise_nf4(weight, buffer[1:-1, 4 : 4 + K])
    assert int(buffer.isnan().sum()) == buffer.numel() - N * K
    return buffer[1:-1, 4 : 4 + K].contiguous()


def digest(values: torch.Tensor) -> str:
    return hashlib.sha256(values.view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


# SHA-256 of what bitsandbytes 0.50.2 makes of the weights of ``made``, on the CPU.
MADE = [
    ((40, 640), torch.bfloat16, 64, True, "b4c564203cf295aa"),
    ((40, 640), torch.float16, 64, True, "9d297697888c4085"),
    ((40, 640), torch.float32, 64, True, "cf59a3a10aa3fc2d"),
    ((40, 640), torch.bfloat16, 64, False, "9b3055bb5ebfad95"),
    ((31, 96), torch.float32, 64, False, "b43bcff6d5240578"),  # blocks that run over the end of a row
    ((7, 50), torch.bfloat16, 32, True, "88efdfa543b63995"),
    ((5, 33), torch.float32, 64, False, "f840089f4491f7b5"),  # an odd number of values
]


@pytest.mark.parametrize(("shape", "dtype", "block", "double", "expected"), MADE)
def test_the_values_are_those_of_bitsandbytes(shape, dtype, block, double, expected) -> None:
    assert digest(dequantised(made(shape, dtype, block, double))) == expected


def test_a_ramp_is_quantised_as_bitsandbytes_does() -> None:
    plain, double = quantise_nf4(ramp()), quantise_nf4(ramp().bfloat16(), double=True)
    assert bytes(plain.packed.tolist()) == PACKED == bytes(double.packed.tolist())
    assert plain.absmax.tolist() == ABSMAX
    assert double.absmax.tolist() == [0, 127, 255]  # the nearest; bitsandbytes' search ends near it
    assert double.nested.absmax.tolist() == [0.984375] and double.nested.offset == 1.96875
    assert digest(dequantised(plain)) == "96575f01b5e4445b"
    stored = replace(double, absmax=torch.tensor(ABSMAX_8BIT, dtype=torch.uint8))
    assert digest(dequantised(stored)) == "162b5f4bd43192ad"


@pytest.mark.parametrize("shape", [(1, 64), (9, 192), (7, 50)])
@pytest.mark.parametrize("double", [False, True])
def test_no_other_value_of_the_table_is_nearer(shape: tuple[int, int], double: bool) -> None:
    w_NK = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = dequantised(quantise_nf4(w_NK))
    absmax = quantise_nf4(w_NK).absmax.repeat_interleave(64)[: w_NK.numel()].view(shape)
    nearest = (torch.tensor(NF4) * absmax[..., None] - w_NK[..., None]).abs().amin(-1)
    assert ((found - w_NK).abs() <= nearest + 1e-6).all()
    again = dequantised(quantise_nf4(w_NK, double=double))
    assert (again - w_NK).abs().max() <= (0.18 if double else 0.16) * absmax.max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_are_rounded_to_the_weights_dtype_first(dtype: torch.dtype) -> None:
    weight = made((4, 128), torch.float16, 64, True)
    assert torch.equal(dequantised(weight, dtype), dequantised(weight).to(dtype))


def test_many_rows_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = made((40, 640), torch.float32, 64, True)
    whole = dequantised(weight)
    monkeypatch.setattr("whet.engine.kernels.nf4._CHUNK", 3 * 640)
    assert torch.equal(dequantised(weight), whole)


@pytest.mark.parametrize("out", [torch.empty(4, 64), torch.empty(128, 4).t()], ids=["shape", "stride"])
def test_an_output_that_does_not_fit_is_refused(out: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="needed"):
        dequantise_nf4(made((4, 128), torch.float32, 64, False), out)


def state_of(weight: Nf4Weight, **changes: object) -> SimpleNamespace:
    """What bitsandbytes' QuantState holds of a weight."""
    second, nested = None, weight.nested
    if nested is not None:
        second = SimpleNamespace(absmax=nested.absmax, code=nested.code, blocksize=nested.block, dtype=torch.float32)
    fields = {"absmax": weight.absmax, "shape": torch.Size(weight.shape), "dtype": weight.dtype, "quant_type": "nf4"}
    fields |= {"blocksize": weight.block, "state2": second, "offset": nested.offset if nested else None}
    return SimpleNamespace(**(fields | changes))


def parameter(weight: Nf4Weight, state: object, storage: torch.dtype = torch.uint8) -> torch.nn.Parameter:
    data = weight.packed.view(storage)[:, None]
    found = torch.nn.Parameter(data, requires_grad=False)
    found.quant_state = state
    return found


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16])
def test_reading_copies_nothing(double: bool, storage: torch.dtype) -> None:
    weight = made((40, 640), torch.bfloat16, 64, double)
    stored = parameter(weight, state_of(weight), storage)
    for holder in (stored, SimpleNamespace(weight=stored)):
        read = read_nf4(holder)
        assert isinstance(read, Nf4Weight)
        assert (read.shape, read.dtype, read.block) == (weight.shape, weight.dtype, weight.block)
        for ours, theirs in zip(read.tensors(), weight.tensors(), strict=True):
            assert ours.data_ptr() == theirs.data_ptr() and torch.equal(ours, theirs)
        assert torch.equal(dequantised(read), dequantised(weight))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"quant_type": "fp4"}, "fp4"),
        ({"shape": torch.Size([3, 4, 5])}, "two dimensions"),
        ({"shape": None}, "two dimensions"),
        ({"shape": torch.Size([400, 640])}, "sharded"),
        ({"dtype": torch.float64}, "float64"),
        ({"blocksize": 48}, "48"),
        ({"packing_format_for_cpu": True}, "packed anew"),
        ({"state2": SimpleNamespace(absmax=torch.zeros(1), dtype=torch.bfloat16)}, "not float32"),
    ],
)
def test_what_cannot_be_read_says_why(changes: dict[str, object], reason: str) -> None:
    weight = made((40, 640), torch.bfloat16, 64, True)
    answer = read_nf4(parameter(weight, state_of(weight, **changes)))
    assert isinstance(answer, str) and reason in answer


def test_other_weights_say_why() -> None:
    assert "not bitsandbytes" in str(read_nf4(torch.nn.Linear(3, 4)))
    later = SimpleNamespace(weight=SimpleNamespace(quant_state=None, bnb_quantized=False))
    assert "not quantised yet" in str(read_nf4(later))


LIVE = list(product([(48, 192), (7, 50), (300, 64)], [torch.float32, torch.bfloat16, torch.float16], [False, True]))


@pytest.mark.parametrize(("shape", "dtype", "double"), LIVE)
def test_against_bitsandbytes_itself(shape: tuple[int, int], dtype: torch.dtype, double: bool) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    w_NK = torch.randn(shape, generator=torch.Generator().manual_seed(shape[0])).to(dtype)
    packed, state = functional.quantize_4bit(w_NK, blocksize=64, quant_type="nf4", compress_statistics=double)
    stored = torch.nn.Parameter(packed, requires_grad=False)
    stored.quant_state = state
    read = read_nf4(stored)
    assert isinstance(read, Nf4Weight)
    assert torch.equal(dequantised(read), functional.dequantize_4bit(packed, state))
    assert torch.equal(quantise_nf4(w_NK).packed, packed.flatten())


@pytest.mark.parametrize("double", [False, True])
def test_a_layer_of_bitsandbytes_is_read(double: bool) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layer = bitsandbytes.nn.Linear4bit(128, 96, bias=False, quant_type="nf4", compress_statistics=double)
    assert "not quantised yet" in str(read_nf4(layer))
    layer = layer.to("cpu")
    read = read_nf4(layer)
    assert isinstance(read, Nf4Weight)
    expected = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert torch.equal(dequantised(read), expected)
