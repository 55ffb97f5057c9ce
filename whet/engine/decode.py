"""The decoder: prompts into the cache, then one token for every sequence at a time, over the model's own weights.

A second forward like the training engine's, made for few tokens: the weights are read where they lie, adapters are
applied beside them, a quantised base stays quantised. ``Decoder.attach`` compares it with the model's own forward
first (``check.py``).

T tokens of prompts, S slots of the cache, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from whet.engine.attention import attention
from whet.engine.cache import Cache
from whet.engine.check import self_check
from whet.engine.documents import Documents, Scores, documents_of
from whet.engine.kernels.available import triton_problem
from whet.engine.kernels.decode_attention import attend, place
from whet.engine.kernels.dispatch import wide
from whet.engine.kernels.glu import glu
from whet.engine.kernels.norm import rms_norm
from whet.engine.kernels.rope import rope_
from whet.engine.lora import base_of, lora_problem
from whet.engine.projection import Projection, state_of
from whet.engine.read import read_model
from whet.engine.spec import GROUPS, LayerSpec, ModelSpec, Tables, Unsupported

# Rows of a product on a CPU are a multiple of this: then MKL makes a row's sums in one order, whatever the other rows
# and their number (tests/engine/test_generate.py notices where that does not hold).
CPU_ROWS = 4
TABLE_ROWS = 512  # positions of the rotation are made so many at a time
COMPARED = 64  # positions at which the rotation has to be the same for long texts as for short ones

STEPPED = 40  # tokens of the comparison of a step
# Of the logits' deviation; a wrong step is off by about 1. Longer dtypes: 1e-3.
STEP_BARS = {torch.bfloat16: 0.15, torch.float16: 0.03}

Attend = Callable[[int, LayerSpec, torch.Tensor], torch.Tensor]  # (layer, its numbers, qkv_TNE) -> o_THE


class Decoder:
    """Inference of one model.

    Args:
        spec: from ``read_model(model, training=False)``.

    Attributes:
        device, dtype: of the activations and the cache.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        weight: Any = base_of(spec.embed).weight
        self.device, self.dtype = weight.device, weight.dtype
        self._projections = [{name: Projection(parts.groups[name]) for name in GROUPS} for _, parts in spec.layers]
        self._head = Projection([spec.head]) if lora_problem(spec.head, training=False) == "" else None
        self._tables: Tables = {}
        self.kept: object = None  # the state of the last batch, for the next one like it (generate.py)
        self._state = self._states()

    @classmethod
    def attach(cls, model: Any) -> Decoder | Unsupported:
        """A decoder for a loaded model in eval mode, plain or with PEFT's adapters; or why there is none."""
        spec = read_model(model, training=False)
        if isinstance(spec, Unsupported):
            return spec
        decoder = cls(spec)
        if decoder.device.type not in ("cpu", "cuda"):
            return Unsupported(f"the model is on {decoder.device}")
        if decoder.device.type == "cuda" and triton_problem():
            return Unsupported(triton_problem())
        if decoder.device.type == "cuda" and decoder.dtype == torch.float64:
            return Unsupported("float64 on a GPU")
        with torch.no_grad(), torch.autocast(decoder.device.type, enabled=False):
            try:
                problem = self_check(spec, decoder.run_layer, model) or decoder.step_problem()
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever Triton's compiler or the driver say
                if decoder.device.type == "cpu":
                    raise
                first_line = str(error).strip().partition("\n")[0]
                problem = f"its kernels do not run here: {type(error).__name__}: {first_line}"
        return Unsupported(problem) if problem else decoder

    def still_fits(self) -> bool:
        """Whether the model's weights and active adapters are those that this decoder was made for."""
        return self._states() == self._state

    def step_problem(self) -> str:
        """How one step differs from reading its token with the prompt; "" where it does not, but for rounding.

        For one sequence and for two: on a GPU those are different kernels.
        """
        ids = [(7919 * n + 13) % self.spec.vocab for n in range(STEPPED)]
        for slots in (CPU_ROWS,) if self.device.type == "cpu" else (1, 2):
            cache = self.cache(slots, STEPPED)
            wanted_V = self.prefill([ids], [slots - 1], cache)[0]
            self.prefill([ids[:-1]], [slots - 1], cache)
            last_S, where_S = (torch.full((slots,), n, device=self.device) for n in (ids[-1], STEPPED - 1))
            found_V = self.step(last_S, where_S, cache)[-1]
            far = float((found_V - wanted_V).square().mean().sqrt() / wanted_V.std().clamp_min(1e-30))
            if not far <= STEP_BARS.get(self.dtype, 1e-3):  # not a number is too far as well
                return f"a step of {slots} sequences is off by {far:.3g} of the logits' deviation"
        return ""

    def length_problem(self, positions: int) -> str:
        """Why sequences of so many tokens cannot be continued; "" if they can.

        Some rotations (LongRoPE, dynamic NTK) change beyond a length: keys in the cache would have to change too.
        """
        few = self.spec.rotary(torch.arange(COMPARED, device=self.device)[None], self.dtype)
        whole = self.tables(positions)
        pairs = [(few[name][i], whole[name][i][:COMPARED]) for name in few for i in (0, 1)]
        same = all(torch.equal(first, second) for first, second in pairs)
        return "" if same else f"its rotation is another one for {positions:,} tokens than for short texts"

    def pointers(self) -> list[int]:
        """Addresses that a captured graph reads."""
        found = [pointer for layer in self._projections for group in layer.values() for pointer in group.pointers()]
        embed: Any = base_of(self.spec.embed).weight
        head = self._head.pointers() if self._head is not None else []
        return [*found, *head, embed.data_ptr(), self.spec.final_norm.data_ptr()]

    def cache(self, slots: int, positions: int) -> Cache:
        """Room for ``slots`` sequences of ``positions`` tokens; see ``Cache``."""
        return Cache([numbers for numbers, _ in self.spec.layers], slots, positions, self.dtype, self.device)

    def prefill(self, prompts: Sequence[Sequence[int]], slots: Sequence[int], cache: Cache) -> torch.Tensor:
        """Reads prompts, packed one after the other without padding, into slots of the cache.

        Returns:
            The logits after each prompt, float32: (prompts, V).
        """
        lengths = [len(prompt) for prompt in prompts]
        flat = [token for prompt in prompts for token in prompt]
        of = [slot for slot, length in zip(slots, lengths, strict=True) for _ in range(length)]
        at = [position for length in lengths for position in range(length)]
        ids_T, slots_T, positions_T = torch.tensor([flat, of, at], device=self.device)
        documents = Documents.of(lengths, self.device)
        tables = self._rows(positions_T, max(lengths))

        def attended(number: int, numbers: LayerSpec, qkv_TNE: torch.Tensor) -> torch.Tensor:
            q, k, v = _rotated(qkv_TNE, numbers, tables)
            cache.put(number, k, v, slots_T, positions_T)
            return _attention(q, k, v, documents, numbers)

        x_TD = self._layers(self._embed(ids_T), attended)
        return self._logits(x_TD[(documents.cu[1:] - 1).long()])

    def step(
        self, ids_S: torch.Tensor, positions_S: torch.Tensor, cache: Cache, used: int | None = None
    ) -> torch.Tensor:
        """One token of every slot: its keys and values go into the cache.

        Args:
            positions_S: where each token stands in its sequence; int64.
            used: positions of the cache that any slot looks at, where the host knows it; None: all may be.

        Returns:
            The logits after it, float32: (S, V).
        """
        tables = self.tables(cache.positions)

        def attended(number: int, numbers: LayerSpec, qkv_SNE: torch.Tensor) -> torch.Tensor:
            q_SHE = place(qkv_SNE, *cache.layers[number], *tables[numbers.rope], positions_S)
            return attend(q_SHE, *cache.front(number, used), positions_S, _scores(numbers))

        return self._logits(self._layers(self._embed(ids_S), attended))

    def run_layer(self, number: int, x_TD: torch.Tensor, positions_1T: torch.Tensor) -> torch.Tensor:
        """The output of one layer (for ``check.py``)."""
        documents = documents_of(positions_1T)
        tables = self.spec.rotary(positions_1T, x_TD.dtype)

        def attended(_: int, numbers: LayerSpec, qkv_TNE: torch.Tensor) -> torch.Tensor:
            return _attention(*_rotated(qkv_TNE, numbers, tables), documents, numbers)

        return self._layer(number, x_TD, attended)

    # --- parts ---

    def _embed(self, ids_T: torch.Tensor) -> torch.Tensor:
        x_TD: torch.Tensor = self.spec.embed(ids_T)
        return x_TD

    def _layers(self, x_TD: torch.Tensor, attended: Attend) -> torch.Tensor:
        for number in range(len(self.spec.layers)):
            x_TD = self._layer(number, x_TD, attended)
        return x_TD

    def _layer(self, number: int, x_TD: torch.Tensor, attended: Attend) -> torch.Tensor:
        (numbers, parts), groups = self.spec.layers[number], self._projections[number]
        n1_TD = _norm(x_TD, parts.input_norm, numbers)
        qkv_TNE = groups["qkv"](n1_TD).unflatten(1, (-1, numbers.head_dim))
        if numbers.qk_norm:
            q, k, _ = _split(qkv_TNE, numbers)
            _norm(q, parts.q_norm, numbers, out=q)
            _norm(k, parts.k_norm, numbers, out=k)
        o_TA = attended(number, numbers, qkv_TNE).flatten(1)
        if numbers.post_norms:
            x2_TD = _norm(groups["o"](o_TA), parts.post_attention_norm, numbers).add_(x_TD)
        else:
            x2_TD = groups["o"](o_TA, x_TD)
        gu_T2F = groups["gate_up"](_norm(x2_TD, parts.pre_mlp_norm, numbers))
        h_TF = gu_T2F.new_empty(len(gu_T2F), numbers.mlp)
        glu(gu_T2F, h_TF, numbers.activation)
        if numbers.post_norms:
            return _norm(groups["down"](h_TF), parts.post_mlp_norm, numbers).add_(x2_TD)
        return groups["down"](h_TF, x2_TD)

    def _logits(self, x_ND: torch.Tensor) -> torch.Tensor:
        spec = self.spec
        x_ND, _ = rms_norm(x_ND, spec.final_norm, spec.final_norm_eps, spec.final_norm_offset)
        dtype = wide(x_ND.dtype)
        logits_NV = spec.head(x_ND).to(dtype) if self._head is None else self._head(x_ND, dtype=dtype)
        cap = spec.logit_softcap
        return logits_NV if cap is None else logits_NV.div_(cap).tanh_().mul_(cap)

    # --- the rotation's tables ---

    def tables(self, positions: int) -> Tables:
        """Rows for the positions 0, 1, ... ``positions`` - 1, or more."""
        have = min((len(cos) for cos, _ in self._tables.values()), default=0)
        if have < positions:
            count = -(-positions // TABLE_ROWS) * TABLE_ROWS
            with torch.no_grad():
                self._tables = self.spec.rotary(torch.arange(count, device=self.device)[None], self.dtype)
        return self._tables

    def _rows(self, positions_T: torch.Tensor, longest: int) -> Tables:
        whole = self.tables(longest)
        return {name: (cos[positions_T], sin[positions_T]) for name, (cos, sin) in whole.items()}

    def _states(self) -> list[Any]:
        states = [state_of(module) for _, parts in self.spec.layers for name in GROUPS for module in parts.groups[name]]
        embed: Any = base_of(self.spec.embed).weight
        return [*states, state_of(self.spec.head), embed.data_ptr(), embed.dtype]


def _rotated(
    qkv_TNE: torch.Tensor, numbers: LayerSpec, tables: Tables
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rope_(qkv_TNE[:, : numbers.heads + numbers.kv_heads], *tables[numbers.rope])
    return _split(qkv_TNE, numbers)


def _split(qkv_TNE: torch.Tensor, numbers: LayerSpec) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    q, k, v = qkv_TNE.split([numbers.heads, numbers.kv_heads, numbers.kv_heads], dim=1)
    return q, k, v


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: Documents, numbers: LayerSpec
) -> torch.Tensor:
    scores = _scores(numbers)
    return attention(q, k, v, documents, scale=scores.scale, softcap=scores.softcap, window=scores.window)[0]


def _scores(numbers: LayerSpec) -> Scores:
    return Scores(numbers.scale, numbers.softcap, numbers.window)


def _norm(
    x: torch.Tensor, weight: torch.Tensor | None, numbers: LayerSpec, out: torch.Tensor | None = None
) -> torch.Tensor:
    assert weight is not None
    return rms_norm(x, weight, numbers.eps, numbers.norm_offset, out=out)[0]
