"""A checkpoint in bitsandbytes' NF4 (names end in ``-bnb-4bit``), read without bitsandbytes.

Beside a packed ``weight`` lie ``weight.absmax``, ``weight.quant_map``, with double quantisation
``weight.nested_absmax`` and ``weight.nested_quant_map``, and ``weight.quant_state.bitsandbytes__nf4``: the bytes of a
JSON text with shape, block sizes, dtype and offset (bitsandbytes 0.50, functional.py, ``QuantState.as_dict``).
"""

from __future__ import annotations

import json
from typing import Any

import torch

from whet.engine.kernels.nf4 import BLOCK, NESTED_BLOCK, NestedAbsmax, Nf4Weight, dequantise_nf4_plain, table
from whet.errors import ExportError

NF4_STATE = ".quant_state.bitsandbytes__nf4"
FP4_STATE = ".quant_state.bitsandbytes__fp4"
PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", NF4_STATE)
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def is_four_bit(config: dict[str, Any]) -> bool:
    """Whether a config.json speaks of bitsandbytes' 4-bit weights."""
    method = config.get("quantization_config") or {}
    return method.get("quant_method") == "bitsandbytes" and bool(
        method.get("load_in_4bit") or method.get("_load_in_4bit")
    )


class FourBitSource:
    """The values that an NF4 checkpoint stands for, as bitsandbytes computes with them, in float32.

    Args:
        stored: the checkpoint's tensors as they lie in the files; ``stored.config`` is its config.json.

    Raises:
        ExportError: FP4 weights, or a weight with a part missing.
    """

    def __init__(self, stored: Any) -> None:
        self._stored = stored
        self.folder = stored.folder
        self.config = {key: value for key, value in stored.config.items() if key != "quantization_config"}
        names = stored.names()
        self._all = set(names)
        other = next((name for name in names if name.endswith(FP4_STATE)), None)
        if other is not None:
            raise ExportError(f"{self.folder} holds FP4 weights", "NF4, or 16 bit", "name the 16-bit model as base")
        self._states = {name.removesuffix(NF4_STATE): name for name in names if name.endswith(NF4_STATE)}
        packed = {weight + part for weight in self._states for part in PARTS}
        self._names = [name for name in names if name not in packed]
        missing = next((w for w in self._states if not {w, w + ".absmax"} <= self._all), None)
        if missing is not None:
            raise ExportError(f"{self.folder}: a part of {missing} is missing", "a complete NF4 checkpoint")

    def names(self) -> list[str]:
        return list(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._state(name)["shape"]) if name in self._states else self._stored.shape(name)

    def get(self, name: str) -> torch.Tensor:
        if name not in self._states:
            return self._stored.get(name)
        weight = self._weight(name)
        out_NK = torch.empty(weight.shape, dtype=torch.float32)
        dequantise_nf4_plain(weight, out_NK)
        return out_NK

    def _state(self, name: str) -> dict[str, Any]:
        text = self._stored.raw(self._states[name]).numpy().tobytes()
        return json.loads(text)

    def _weight(self, name: str) -> Nf4Weight:
        state, raw = self._state(name), self._stored.raw
        if not torch.equal(raw(name + ".quant_map").float(), table(torch.device("cpu"))):
            raise ExportError(f"{self.folder}: {name} has another table of values than NF4's", "NF4")
        nested = None
        if name + ".nested_absmax" in self._all:
            nested = NestedAbsmax(
                raw(name + ".nested_quant_map").float(),
                raw(name + ".nested_absmax").float(),
                torch.tensor(state["nested_offset"], dtype=torch.float32),
                state.get("nested_blocksize", NESTED_BLOCK),
            )
        absmax = raw(name + ".absmax").reshape(-1)
        rows, columns = state["shape"]
        return Nf4Weight(
            raw(name).contiguous().view(torch.uint8).reshape(-1),
            absmax if nested else absmax.float(),
            (rows, columns),
            _DTYPES[state["dtype"]],
            state.get("blocksize", BLOCK),
            nested,
        )
