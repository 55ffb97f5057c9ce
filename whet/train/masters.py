"""Optimizers over bfloat16 weights that are trained: updates smaller than a step of bfloat16 are not lost.

A bfloat16 weight of 0.02 has steps of 1.2e-4: at a learning rate of 1e-6 nearly every update would round to nothing.
So each weight has a float32 master. Its upper 16 bits are the weight itself; only the lower 16 are kept beside it. A
master comes into being for the moment of its update, some million weights at a time, and with it its float32 gradient:
AdamW takes 2 bytes a parameter for the weight, 2 for the lower half, 2 for the gradient and 8 for the moments.

The update is another library's: torch's AdamW, bitsandbytes' or torchao's with 8-bit or paged moments. torch's AdamW is
done by a kernel on a GPU (``master_kernel.py``), for which no master and no float32 gradient comes into being.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.nn import Parameter

from whet.console import notice
from whet.engine.kernels.adamw import join, split_
from whet.engine.kernels.dispatch import uses_triton
from whet.errors import TrainingError
from whet.train.master_kernel import kernel_for

BUCKET = 1 << 25  # elements whose masters and float32 gradients exist at once: 0.5 GB with what the split takes
FORMAT = "whet masters 1"


def round_at_random(masters: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """To one of the two bfloat16 neighbours, up with the probability of what is left over: exact in the mean."""
    bits = masters.view(torch.int32)
    left = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, device=bits.device, generator=generator)
    rounded = ((bits + left) >> 16 << 16).view(torch.float32)
    return torch.where(masters.isfinite(), rounded, masters).bfloat16()


class Piece:
    """A stretch of one parameter, and the leaf under which the library's optimizer knows it.

    Args:
        parameter: bfloat16 (it gets masters) or float32 (it is its own master); contiguous.
        start, stop: of the stretch, in elements.
    """

    def __init__(self, parameter: Parameter, start: int, stop: int) -> None:
        self.parameter, self.part = parameter, slice(start, stop)
        self.nothing = torch.empty(0, dtype=torch.float32, device=parameter.device)
        self.leaf = Parameter(self.nothing)
        wide = parameter.dtype == torch.float32
        self.low = None if wide else torch.zeros(stop - start, dtype=torch.int16, device=parameter.device)

    def __len__(self) -> int:
        return int(self.part.stop - self.part.start)

    @property
    def weights(self) -> torch.Tensor:
        """The stretch as a view that shares the parameter's version counter."""
        return self.parameter.detach().view(-1)[self.part]

    def masters(self) -> torch.Tensor:
        """The stretch in float32: made anew, or the weights themselves."""
        return self.weights if self.low is None else join(self.weights, self.low)

    def open(self, gradient: torch.Tensor, factor: torch.Tensor | None) -> None:
        """Give the leaf its values, and the gradient of the stretch times ``factor``."""
        self.leaf.data = self.masters()
        part = gradient.reshape(-1)[self.part]
        self.leaf.grad = part.float() if factor is None else part.to(torch.float32, copy=True).mul_(factor)

    def close(self) -> None:
        """Take the updated values over."""
        if self.low is None:
            torch.autograd.graph.increment_version(self.parameter)
        else:
            split_(self.leaf.data, self.weights, self.low)
        self.leaf.grad, self.leaf.data = None, self.nothing


class Sums:
    """Gradients of several micro-batches, added in float32: autograd would add them in bfloat16, and round each sum.

    A gradient is taken over as soon as autograd has made it. The first one stays as it is; a second one makes the sum:
    4 bytes a parameter instead of 2.

    Attributes:
        sums: gradients so far, in the dtype of their parameters or in float32.
    """

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self.parameters = list(parameters)
        self.sums: dict[Parameter, torch.Tensor] = {}
        self._size = 1  # micro-batches of the pass that runs
        self._taken: set[Parameter] = set()  # whose gradients it has given
        self._there: dict[Parameter, int] = {}  # by a pass that failed; of so many micro-batches from here
        self._hooks: list[Any] = []
        self.listen()

    def listen(self) -> None:
        """Take gradients over from now on."""
        if not self._hooks:
            # The garbage collector does not see through hooks: one that held this object would hold all weights for
            # ever.
            take = weakref.WeakMethod(self._take)
            self._hooks = [p.register_post_accumulate_grad_hook(lambda p: _called(take, p)) for p in self.parameters]

    def leave(self) -> None:
        """Take nothing over until ``listen``: another optimizer of these parameters may want their gradients."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def begin(self, size: int = 1) -> None:
        """A pass over so many micro-batches begins."""
        self._size, self._taken = size, set()

    def again(self) -> None:
        """The pass failed. Its micro-batches run again, together or one by one: gradients that are there already are
        not added twice."""
        self._there |= dict.fromkeys(self._taken, self._size)
        self._taken = set()
        for parameter in self.parameters:
            parameter.grad = None

    def done(self) -> None:
        """The pass went through."""
        self._there = {p: left - self._size for p, left in self._there.items() if left > self._size}
        self._taken = set()

    def fill(self) -> None:
        """Sums of zero."""
        for parameter in self.parameters:
            self.sums[parameter] = torch.zeros_like(parameter, dtype=torch.float32, requires_grad=False)

    def clear(self) -> None:
        """A step is over."""
        self.sums.clear()
        self._there = {}
        self.begin()

    def _take(self, parameter: torch.Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None and isinstance(parameter, Parameter)
        if parameter not in self._there:
            so_far = self.sums.get(parameter)
            if so_far is None:
                self.sums[parameter] = gradient
            elif so_far.dtype == torch.float32:
                so_far.add_(gradient)
            else:
                self.sums[parameter] = so_far.float().add_(gradient)
            self._taken.add(parameter)
        parameter.grad = None


def _called(take: weakref.WeakMethod[Any], parameter: torch.Tensor) -> None:
    method = take()
    if method is not None:
        method(parameter)


class MasterOptimizer(torch.optim.Optimizer):
    """A library's optimizer over float32 masters of the weights.

    As in torch, a parameter whose gradient is None is left alone. Weights that something else changes between two
    steps are seen, and their masters start from them.

    Args:
        groups: torch's parameter groups: "params" with bfloat16 or float32 parameters, each once, and their settings.
        make: the library's optimizer of such groups. It must treat each element alone (or in blocks): stretches of
            a parameter come to it as vectors.
        sum_gradients: gradients of several micro-batches will be added up.

    Raises:
        TrainingError: a parameter of another kind.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
        sum_gradients: bool = False,
    ) -> None:
        parameters = [p for group in groups for p in group["params"]]
        for parameter in parameters:
            if parameter.dtype not in (torch.bfloat16, torch.float32) or not parameter.is_contiguous():
                raise TrainingError(f"a trained parameter of {parameter.dtype}", "bfloat16 or float32, contiguous")
        self.pieces = {p: list(_pieces(p)) for p in parameters}
        self.buckets = _buckets(piece for pieces in self.pieces.values() for piece in pieces)
        leaves = [[piece.leaf for p in group["params"] for piece in self.pieces[p]] for group in groups]
        self.inner = make([{**group, "params": part} for group, part in zip(groups, leaves, strict=True)])
        self.kernel = kernel_for(self.inner)
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self.inner.param_groups]
        super().__init__(
            [{**known, "params": group["params"]} for known, group in zip(settings, groups, strict=True)],
            dict(self.inner.defaults),
        )
        self.added = Sums(parameters) if sum_gradients else None
        self._factor: torch.Tensor | None = None
        self._note_versions()

    def gradient(self, parameter: Parameter) -> torch.Tensor | None:
        """The parameter's gradient of this step so far."""
        summed = self.added.sums.get(parameter) if self.added is not None else None
        return parameter.grad if summed is None else summed

    @torch.no_grad()
    def clip_(self, max_norm: float) -> torch.Tensor:
        """Let the next step scale all gradients to a norm of at most ``max_norm``; their norm now, a float32 scalar.

        Norm and product are in float32: torch's own clipping would round the factor to bfloat16.
        """
        found = [gradient for p in self.pieces if (gradient := self.gradient(p)) is not None]
        if not found:
            return torch.zeros(())
        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in found]
        norm = torch.linalg.vector_norm(torch.stack([one.to(norms[0].device) for one in norms]))
        self._factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
        return norm

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update from the gradients that the parameters have now."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._follow()
        fast = self._fast
        update = self._by_kernel if fast else self._by_library
        if self.kernel is not None and not fast:
            self.kernel.hand_over()
        for bucket in self.buckets:
            there = [(piece, g) for piece in bucket if (g := self.gradient(piece.parameter)) is not None]
            if there:
                update(there)
        self._factor = None
        if self.added is not None:
            self.added.clear()
        self._note_versions()
        return loss

    @property
    def _fast(self) -> bool:
        """The kernel updates."""
        one_of_each = {parameter.device: parameter for parameter in self.pieces}.values()
        return self.kernel is not None and self.kernel.able and all(map(uses_triton, one_of_each))

    def make_state(self) -> bool:
        """Moments now instead of in the gaps that the first step's activations leave, where the kernel updates.

        Returns:
            whether there are moments.
        """
        if self._fast and self.kernel is not None:
            for pieces in self.pieces.values():
                for piece in pieces:
                    self.kernel.make_state(piece.leaf, piece.weights)
        return bool(self.inner.state)

    def _by_library(self, there: list[tuple[Piece, torch.Tensor]]) -> None:
        factor = self._factor
        for piece, gradient in there:
            piece.open(gradient, factor if factor is None else factor.to(gradient.device))
        self.inner.step()
        for piece, _ in there:
            piece.close()

    def _by_kernel(self, there: list[tuple[Piece, torch.Tensor]]) -> None:
        assert self.kernel is not None
        factor = self._factor
        for piece, gradient in there:
            part = gradient.reshape(-1)[piece.part]
            scale = factor if factor is None else factor.to(gradient.device)
            self.kernel.update(piece.leaf, piece.weights, piece.low, part, scale)
            torch.autograd.graph.increment_version(piece.parameter)

    def _follow(self) -> None:
        """Pass on what a scheduler has set; masters of weights that others changed start from those."""
        for mine, below in zip(self.param_groups, self.inner.param_groups, strict=True):
            below.update({key: value for key, value in mine.items() if key != "params"})
        changed = [p for p, version in self._versions.items() if p._version != version and p.dtype != torch.float32]
        if changed:
            notice("weights were changed after the optimizer was made; their masters start from them")
        for parameter in changed:
            for piece in self.pieces[parameter]:
                assert piece.low is not None
                piece.low.zero_()

    def _note_versions(self) -> None:
        self._versions = {p: p._version for p in self.pieces}

    @torch.no_grad()
    def finish_(self, seed: int) -> None:
        """At the end of training: weights become their masters, rounded at random, and the masters are let go.

        Rounded to the nearest, weights that moved by less than half a step of bfloat16 stand where they stood before
        training (benchmarks/full_finetune.py). Weights that something else has set since the last step are left alone.
        """
        for parameter, pieces in self.pieces.items():
            unchanged = parameter._version == self._versions[parameter]
            generator = torch.Generator(parameter.device).manual_seed(seed)
            for piece in pieces:
                if piece.low is not None:
                    if unchanged:
                        piece.weights.copy_(round_at_random(piece.masters(), generator))
                    piece.low.zero_()
            seed += 1
        self._note_versions()

    def masters_of(self, parameter: Parameter) -> torch.Tensor:
        """A parameter's masters, in its shape: a copy in float32."""
        return torch.cat([piece.masters() for piece in self.pieces[parameter]]).view(parameter.shape)

    def begin(self) -> None:
        """A training begins, or another one after ``rest``; gradients of a step that did not end are forgotten."""
        self.zero_grad()
        if self.added is not None:
            self.added.listen()

    def rest(self) -> None:
        """A training is over: gradients are forgotten, and those of later backwards left where autograd puts them."""
        self.zero_grad()
        if self.added is not None:
            self.added.leave()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of this step."""
        super().zero_grad(set_to_none)
        if self.added is not None:
            self.added.clear()

    def state_dict(self) -> dict[str, Any]:
        """The lower halves of the masters and the library's state; the upper halves are the model's weights."""
        if self.kernel is not None:
            self.kernel.hand_over()
        low = [piece.low for pieces in self.pieces.values() for piece in pieces]
        return {
            "format": FORMAT,
            "low": low,
            "state": self.inner.state_dict(),
            "param_groups": super().state_dict()["param_groups"],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state; the model must have its weights of that moment already.

        Raises:
            TrainingError: the state is of another optimizer or model.
        """
        pieces = [piece for pieces in self.pieces.values() for piece in pieces]
        low = state_dict.get("low", [])
        if state_dict.get("format") != FORMAT or list(map(_size, low)) != [_size(piece.low) for piece in pieces]:
            raise _of_another()
        if self.kernel is not None:
            self.kernel.hand_over()  # before other counters come
        try:
            self.inner.load_state_dict(state_dict["state"])
            super().load_state_dict({"state": {}, "param_groups": state_dict["param_groups"]})
        except ValueError as error:  # torch's, for other groups
            raise _of_another() from error
        for piece, kept in zip(pieces, low, strict=True):
            if piece.low is not None:
                piece.low.copy_(kept)
        self._note_versions()


def _of_another() -> TrainingError:
    return TrainingError(
        "the checkpoint is not of bfloat16 weights with float32 masters, or of another model",
        "the settings that it was made with",
        "set optimizer as it was; a run in float32 goes on with bf16: false",
    )


def _pieces(parameter: Parameter) -> Iterator[Piece]:
    total = parameter.numel()
    for start in range(0, total, BUCKET):
        yield Piece(parameter, start, min(start + BUCKET, total))


def _buckets(pieces: Iterable[Piece]) -> list[list[Piece]]:
    """Neighbours, together at most ``BUCKET`` elements."""
    buckets: list[list[Piece]] = []
    room = 0
    for piece in pieces:
        if len(piece) > room:
            buckets.append([])
            room = BUCKET
        buckets[-1].append(piece)
        room -= len(piece)
    return buckets


def _size(low: torch.Tensor | None) -> int | None:
    return None if low is None else low.numel()
