"""Projections that read the same input, as one matrix with their LoRA columns inside it.

The buffer of a group is (N + R) x (K + R):

            columns 0..K    columns K..K+R
    rows 0..N      W, frozen       s * B, block diagonal
    rows N..N+R    A               unused

    forward   y  = [x | x Aᵀ] · buffer[:N]ᵀ          one product, no further pass over y
    dgrad     dx = [dy | dy (s B)] · buffer[:, :K]   one product, no further pass over dx
    wgrad     dA = (dy s B)ᵀ x     dB = s dyᵀ (x Aᵀ)

Where the weights themselves are trained there are no LoRA columns, and wgrad is dW = dyᵀ x, one product for the group.

Measured on one H200, Llama-3-8B, 16,384 tokens, r = 16: this costs 4% over the frozen products alone, separate LoRA
products 10% (docs/experiments.md).

T tokens, K/N inputs/outputs of the group, R its LoRA columns: the sum of its ranks, padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch

from whet.engine.kernels.scatter import Copy, Scatter
from whet.engine.lora import Lora, base_of, lora_of
from whet.engine.storage import Dense, Nf4, Storage, StorageName, lend
from whet.engine.streamed import Streamed

PAD = {"cpu": 8, "cuda": 64}  # 64 columns are one K-tile of a bfloat16 product on the GPU; less was not faster


class Group:
    """One of qkv, o, gate_up, down of a layer: forward, gradient of the input, gradients of what is trained.

    Args:
        modules: linear layers or PEFT's wrappers of them, in the order of their outputs; all with K inputs.
        dtype: of the products; activations have it too.
        storage: "dense" holds the weights in the buffer; "nf4" dequantises them into a buffer that all groups of this
            shape share; "streamed" keeps them in main memory (``streamed.py``).
        shared: the shared buffers by shape; hand the same dict to every group of a model.
        resident: with "nf4", keep a dense copy of this group's weights.
        device: of the products; None: where the weights are.

    Attributes:
        K, N, R: inputs, outputs, LoRA columns (0 without adapters).
        widths: outputs of each module.
        trained: the weights themselves are trained, biases included.
        parameters: A_0, B_0, A_1, B_1 ... of the modules that have an adapter; of trained weights each and its bias.
        bias: (N,) or None, in ``dtype``; the modules' biases are views of it, unless they have another dtype.

    Raises:
        ValueError: modules with different inputs, an adapter that cannot be read, a weight that is not as ``storage``
            says, weights of which only some are trained, or trained ones of another dtype.
    """

    def __init__(
        self,
        modules: Sequence[Any],
        dtype: torch.dtype,
        storage: StorageName = "dense",
        shared: dict[Any, Any] | None = None,
        *,
        resident: bool = False,
        device: torch.device | None = None,
    ) -> None:
        bases = [base_of(module) for module in modules]
        loras = [lora_of(module) for module in modules]
        sizes = [_size(base) for base in bases]
        if len({inputs for _, inputs in sizes}) != 1:
            raise ValueError(f"the projections of a group read inputs of different width: {sizes}")
        self.dtype = dtype
        self.widths = tuple(outputs for outputs, _ in sizes)
        self.N, self.K = sum(self.widths), sizes[0][1]
        device = _device(bases[0]) if device is None else device
        self.R = _padded(sum(lora.A.shape[0] for lora in loras if lora), PAD.get(device.type, PAD["cuda"]))
        self.trained = _trained(bases, loras, dtype)
        self._own = list(zip(bases, _slices(self.widths), strict=True)) if self.trained else []
        self.parameters = [parameter for lora in loras if lora for parameter in (lora.A, lora.B)]
        self.parameters += [parameter for base, _ in self._own for parameter in _parameters(base)]
        self.bias = _bias(bases, self.widths, dtype, device)
        self._biases = _places(bases, self.widths, self.bias)
        self._blocks = _blocks(loras, self.widths)
        shape = (self.N, self.K, self.R)
        self.storage: Storage
        if storage == "nf4":
            self.storage = Nf4(bases, shape, dtype, device, {} if shared is None else shared, resident=resident)
        elif storage == "streamed":
            self.storage = Streamed(bases, shape, dtype, device, {} if shared is None else shared)
        else:
            self.storage = Dense(bases, shape, dtype, device)
        self._lend_bias()
        self.refresh()

    def refresh(self) -> None:
        """Copies A and s * B into the operands; after every optimizer step. For a whole model: ``Refresh``."""
        Refresh([self]).run()

    def switch_off(self) -> None:
        """Zeroes the operand s * B until the next refresh: the group computes as without its adapters."""
        self.storage.b_NR.zero_()
        self.storage.touched()

    def copies(self) -> list[Copy]:
        """What ``refresh`` copies, as (operand, parameter, factor)."""
        a_RK, b_NR = self.storage.a_RK, self.storage.b_NR
        out: list[Copy] = []
        for lora, rows, columns in self._blocks:
            out += [(a_RK[columns], lora.A, 1.0), (b_NR[rows, columns], lora.B, lora.scale)]
        return out

    def prepare(self) -> None:
        """Makes the buffer hold this group's weights. ``forward`` and ``dgrad`` call it; cheap where it holds them."""
        self.storage.prepare()

    def forward(
        self, xa: torch.Tensor, add: torch.Tensor | None = None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """y = x Wᵀ + s x Aᵀ Bᵀ + bias + add.

        Args:
            xa: (T, K + R), x in the first K columns; P = x Aᵀ is written into the last R. Rows may be strided.
            add: (T, N), for instance the residual.
            out: (T, N), may be a view of wider rows; may be ``add`` itself.

        Returns:
            y (T, N); ``out`` if it was given.
        """
        self.prepare()
        if self.R:
            torch.mm(xa[:, : self.K], self.storage.a_RK.t(), out=xa[:, self.K :])
        weight = self.storage.buffer[: self.N].t()
        first = add if add is not None else self.bias
        out_args = {} if out is None else {"out": out}
        y = torch.mm(xa, weight, **out_args) if first is None else torch.addmm(first, xa, weight, **out_args)
        if add is not None and self.bias is not None:
            y += self.bias
        return y

    def project(self, x_TK: torch.Tensor, out_TR: torch.Tensor) -> torch.Tensor:
        """P = x Aᵀ alone, (T, R): for an input that the backward has made again."""
        return torch.mm(x_TK, self.storage.a_RK.t(), out=out_TR)

    def dgrad(self, dya: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """dx = dy W + s dy B A.

        Args:
            dya: (T, N + R), dy in the first N columns; Q = s dy B is written into the last R. Rows may be strided.
            out: (T, K), may be a view of wider rows.

        Returns:
            dx (T, K); ``out`` if it was given.
        """
        self.prepare()
        if self.R:
            torch.mm(dya[:, : self.N], self.storage.b_NR, out=dya[:, self.N :])
        weight = self.storage.buffer[:, : self.K]
        return torch.mm(dya, weight) if out is None else torch.mm(dya, weight, out=out)

    def wgrad(self, dya: torch.Tensor, x_TK: torch.Tensor, p_TR: torch.Tensor) -> list[torch.Tensor]:
        """Gradients of ``parameters``, in their order: of adapters in float32 (float64 for float64), of weights in
        their own dtype, summed in float32 and rounded once.

        Args:
            dya: (T, N + R) after ``dgrad``, its last R columns filled.
            x_TK: the group's input; p_TR: the P that ``forward`` left, or ``project``'s.
        """
        if self.trained:
            return self._weight_grads(dya, x_TK)
        if not self.R:
            return []
        da_RK = wide_mm(dya[:, self.N :].t(), x_TK)
        out: list[torch.Tensor] = []
        for lora, rows, columns in self._blocks:
            db_Nr = wide_mm(dya[:, rows].t(), p_TR[:, columns])
            out += [da_RK[columns], db_Nr.mul_(lora.scale)]
        return out

    def _weight_grads(self, dy_TN: torch.Tensor, x_TK: torch.Tensor) -> list[torch.Tensor]:
        """Views of one dW_NK, and of one db_N where there are biases."""
        dw_NK = torch.mm(dy_TN.t(), x_TK)
        db_N = dy_TN.sum(0) if self.bias is not None else None
        out = []
        for base, rows in self._own:
            out.append(dw_NK[rows])
            if db_N is not None and base.bias is not None:
                out.append(db_N[rows])
        return out

    def follow(self) -> None:
        """Take back weights that something has moved out of the buffers.

        Raises:
            ValueError: they are of another dtype or on another device now.
        """
        if self.trained:
            self.storage.follow()
            self._lend_bias()

    def _lend_bias(self) -> None:
        """The modules' biases become views of ``bias``."""
        for own, view in self._biases:
            lend(own, view)

    def bytes(self) -> dict[str, int]:
        """What the group holds in memory, see ``Storage.bytes``; ``bias`` are the biases."""
        bias = 0 if self.bias is None else self.bias.numel() * self.bias.element_size()
        return {**self.storage.bytes(), "bias": bias}

    def release(self) -> None:
        """Gives the modules weights of their own again, in place of views; the group is of no more use."""
        self.storage.release()
        for own, _ in self._biases:
            own.data = own.data.clone()
        self._own, self._biases = [], []


class Refresh:
    """``refresh`` of many groups as one kernel: make it once, run it after every optimizer step.

    The parameters may be given other memory in between; the groups' buffers stay where they are.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = list(groups)
        self._scatter = Scatter([copy for group in groups for copy in group.copies()])

    def run(self) -> None:
        """Copies the adapters of all groups into their operands."""
        self._scatter.run()
        for group in self._groups:
            group.storage.touched()

    def release(self) -> None:
        """Lets go of the groups and of the views of their buffers."""
        self._groups, self._scatter = [], Scatter([])


def wide_mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a · b, kept in float32 where the operands are shorter."""
    if a.dtype in (torch.float32, torch.float64):
        return a @ b
    if a.is_cuda:  # accumulated in float32 anyway: do not round the sum
        return torch.mm(a, b, out_dtype=torch.float32)
    return (a @ b).float()


def _blocks(loras: Sequence[Lora | None], widths: Sequence[int]) -> list[tuple[Lora, slice, slice]]:
    """Each adapter with its rows of the outputs and its columns of R."""
    out: list[tuple[Lora, slice, slice]] = []
    column = 0
    for lora, rows in zip(loras, _slices(widths), strict=True):
        if lora is not None:
            rank = lora.A.shape[0]
            out.append((lora, rows, slice(column, column + rank)))
            column += rank
    return out


def _slices(widths: Sequence[int]) -> list[slice]:
    """Rows of each module among the group's outputs."""
    return [slice(end - width, end) for end, width in zip(accumulate(widths), widths, strict=True)]


def _parameters(base: Any) -> list[torch.nn.Parameter]:
    """A linear layer's weight and bias."""
    return [base.weight] if base.bias is None else [base.weight, base.bias]


def _trained(bases: Sequence[Any], loras: Sequence[Lora | None], dtype: torch.dtype) -> bool:
    """Whether the weights themselves are trained."""
    own = [tensor for base in bases for tensor in (base.weight, getattr(base, "bias", None)) if tensor is not None]
    trained = [tensor for tensor in own if tensor.requires_grad]
    if not trained:
        return False
    if len(trained) < len(own) or any(lora is not None for lora in loras):
        raise ValueError("of the weights of a group only some are trained, or they have adapters as well")
    if other := {tensor.dtype for tensor in own} - {dtype}:
        raise ValueError(f"weights of {other.pop()} are trained beside others of {dtype}")
    return True


def _padded(rank: int, multiple: int) -> int:
    return -(-rank // multiple) * multiple


def _size(base: Any) -> tuple[int, int]:
    """Outputs and inputs, as torch.nn.Linear and bitsandbytes name them."""
    return int(base.out_features), int(base.in_features)


def _device(base: Any) -> torch.device:
    device: torch.device = base.weight.device
    return device


def _bias(bases: Sequence[Any], widths: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
    found = [getattr(base, "bias", None) for base in bases]
    if all(bias is None for bias in found):
        return None
    parts = [
        torch.zeros(width, dtype=dtype, device=device) if bias is None else bias.detach().to(dtype)
        for bias, width in zip(found, widths, strict=True)
    ]
    return torch.cat(parts)


def _places(
    bases: Sequence[Any], widths: Sequence[int], bias: torch.Tensor | None
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The modules' biases and their places in the group's, of the same dtype and device."""
    if bias is None:
        return []
    own = [(getattr(base, "bias", None), bias[rows]) for base, rows in zip(bases, _slices(widths), strict=True)]
    return [(b, view) for b, view in own if b is not None and (b.dtype, b.device) == (view.dtype, view.device)]
