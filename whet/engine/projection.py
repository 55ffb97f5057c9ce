"""The projections of a layer as inference uses them: the model's own weights where they lie, adapters beside them.

Nothing is merged and no weight is copied: PEFT's A and B are read at every call, so a trained adapter is seen at once.
Few rows go through ``kernels/gemv.py``; many rows are one product for each weight.

M rows, K inputs, N outputs, R the sum of the adapters' ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from whet.engine.kernels.dispatch import wide
from whet.engine.kernels.gemv import MOST_ROWS, Weight, dense, down, fits, project
from whet.engine.kernels.nf4 import Nf4Weight
from whet.engine.lora import Lora, base_of, lora_of
from whet.engine.quantised import read_nf4


class Projection:
    """Linear layers that read one input; their outputs stand side by side.

    Args:
        modules: linear layers or PEFT's wrappers of them; one to three.

    Attributes:
        N: outputs of all.
    """

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        self._bases = [base_of(module) for module in modules]
        self._packed = [_nf4(base) for base in self._bases]
        self._loras = [lora_of(module, training=False) for module in modules]
        self.N = sum(int(base.out_features) for base in self._bases)  # type: ignore[arg-type]
        self._rank = sum(lora.A.shape[0] for lora in self._loras if lora is not None)

    def __call__(
        self, x_MK: torch.Tensor, add_MN: torch.Tensor | None = None, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """y_MN, with ``add_MN`` added before it is rounded; of x's dtype, or the one asked for."""
        weights = self._weights()
        out_MN = x_MK.new_empty(len(x_MK), self.N, dtype=dtype or x_MK.dtype)
        if x_MK.is_cuda and (len(x_MK) > MOST_ROWS or not fits(weights, x_MK.dtype)):
            return self._products(x_MK, weights, out_MN, add_MN)
        p_MR = None
        if self._rank:
            p_MR = x_MK.new_empty(len(x_MK), self._rank, dtype=wide(x_MK.dtype))
            down(x_MK, [lora.A.detach() for lora in self._loras if lora is not None], p_MR)
        return project(x_MK, weights, out_MN, p_MR, add_MN)

    def pointers(self) -> list[int]:
        """Addresses of everything that a captured graph reads."""
        tensors = [base.weight for base in self._bases]
        tensors += [weight for lora in self._loras if lora is not None for weight in (lora.A, lora.B)]
        return [tensor.data_ptr() for tensor in tensors]  # type: ignore[operator,union-attr]

    def _weights(self) -> list[Weight]:
        out, column = [], 0
        for base, packed, lora in zip(self._bases, self._packed, self._loras, strict=True):
            weight: Any = base.weight.detach() if packed is None else packed  # type: ignore[operator,union-attr]
            bias: Any = None if base.bias is None else base.bias.detach()  # type: ignore[operator,union-attr]
            if lora is None:
                out.append(Weight(weight, bias))
                continue
            out.append(Weight(weight, bias, lora.B.detach(), lora.scale, column))
            column += lora.A.shape[0]
        return out

    def _products(
        self, x_MK: torch.Tensor, weights: Sequence[Weight], out_MN: torch.Tensor, add_MN: torch.Tensor | None
    ) -> torch.Tensor:
        start = 0
        for weight, lora in zip(weights, self._loras, strict=True):
            columns = slice(start, start + weight.shape[0])
            y_MN = x_MK @ dense(weight.w_NK, x_MK.dtype).t()
            if lora is not None:
                p_Mr = x_MK @ lora.A.detach().to(x_MK.dtype).t()
                y_MN.addmm_(p_Mr, lora.B.detach().to(x_MK.dtype).t(), alpha=lora.scale)
            if weight.bias_N is not None:
                y_MN += weight.bias_N
            out_MN[:, columns] = y_MN if add_MN is None else y_MN.add_(add_MN[:, columns])
            start += weight.shape[0]
        return out_MN


def state_of(module: torch.nn.Module) -> tuple[Any, ...]:
    """What has to stay the same while a ``Projection`` of this layer is in use."""
    base: Any = base_of(module)
    names = tuple(getattr(module, "active_adapters", ())) if hasattr(module, "lora_A") else ()
    return (
        base.weight.data_ptr(),
        base.weight.dtype,
        names,
        bool(getattr(module, "merged", False)),
        bool(getattr(module, "disable_adapters", False)),
        tuple(module.lora_A[name].weight.data_ptr() for name in names if name in module.lora_A),  # type: ignore[operator,index,union-attr]
    )


def _nf4(base: torch.nn.Module) -> Nf4Weight | None:
    packed = read_nf4(base)
    return None if isinstance(packed, str) else packed


__all__ = ["Lora", "Projection", "state_of"]
