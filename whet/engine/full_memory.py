"""Bytes of a full fine-tune in which the model's own forward runs: by formulas, with what is left out said.

Weights, masters, moments and gradients are counted to the byte. What autograd keeps for a layer of transformers is
counted per token: RMSNorm keeps its input in float32, what it has normed and its output; attention q, k and v (heads
repeated) and its output; the MLP four tensors of its width.

w bytes of an activation; D hidden size, A width of all query heads, H heads, M width of the MLP, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

from whet.engine.loss import CHUNK_ROWS
from whet.engine.memory import Work
from whet.engine.shape import FullTraining, Shape
from whet.engine.trained import WIDE, ParameterBytes, parameter_bytes


class FullBytes(NamedTuple):
    """What a full fine-tune takes.

    Attributes:
        parameters: weights, masters, moments, gradients.
        forward: the highest point of a forward and backward of the largest micro-batch over weights, masters and
            moments, where every layer keeps everything: at its start all activations, at its end all gradients.
        recomputed: the same with gradient checkpointing.
        update: beside gradients, at the optimizer's step.
    """

    parameters: ParameterBytes
    forward: int
    recomputed: int
    update: int

    def peak(self, recompute: bool) -> int:
        """The highest point of a step."""
        step = self.recomputed if recompute else self.forward
        return self.parameters.fixed + max(step, self.parameters.gradients + self.update)


def layer_kept(shape: Shape, width: int) -> int:
    """Bytes per token that autograd keeps of one layer."""
    norm = shape.hidden * (WIDE + 2 * width) + WIDE
    norms = norm * (4 if shape.post_norms else 2)
    if shape.qk_norm:
        norms += (shape.attended + shape.keys) * (WIDE + width) + WIDE * (shape.heads + shape.kv_heads)
    attention = 4 * shape.attended * width + WIDE * shape.heads
    return norms + attention + 4 * shape.mlp * width


def full_bytes(shape: Shape, work: Work, training: FullTraining) -> FullBytes:
    """Predict a full fine-tune.

    Args:
        shape: without adapters; ``width`` 2 means bfloat16 with float32 masters, 4 float32.
        work: the largest micro-batch. Where several make a step, gradients are there in the forward, too, in float32.
        training: the optimizer.
    """
    width, accumulates = shape.width, work.micro_batches > 1
    found = parameter_bytes(shape, training, work.micro_batches)
    gradients = found.gradients
    kept = work.tokens * layer_kept(shape, width)
    residual = work.tokens * shape.hidden * width
    rows = min(work.labelled, CHUNK_ROWS)
    head = rows * shape.vocab * (width + 2 * WIDE) + shape.vocab * shape.hidden * width
    ends = work.tokens * (2 * shape.hidden * width + WIDE * shape.hidden) + head  # last norm, and logits of one chunk
    working = work.tokens * (3 * shape.mlp + shape.hidden) * width  # gradients inside the layer that goes back

    def highest(all_layers: int, one: int) -> int:
        start, end = all_layers + ends, one + working
        return gradients + max(start, end) if accumulates else max(start, all_layers + working, gradients + end)

    return FullBytes(
        parameters=found,
        forward=highest(shape.layers * kept, kept),
        recomputed=highest(shape.layers * residual + kept, kept),
        update=training.beside,
    )
