"""What a step takes where the weights themselves are trained: bytes beside those of frozen weights, and time.

**There all the time**: weights, the lower halves of masters of bfloat16 weights, and moments. With several passes a
step their gradients too: sums in float32.

**Gradients** have the weights' dtype and come in the backward: the head's first, then each layer's (``memory.py`` has
them in its lists), the embedding's last. In a step of one pass they stay. With several passes each is added to its sum
and gone, but for the head's where it is the embedding's weight too: autograd holds it until it can add that one's.

**Head**: its forward keeps the hidden states before and after the norm; its backward makes the logits again, in slices
of the vocabulary with about as many elements as ``chunk_rows`` rows, and sums dh in float32.

w bytes of a weight, P parameters, L layers, D hidden size, V vocabulary, N labelled rows, T tokens.
"""

from __future__ import annotations

from typing import NamedTuple

from whet.engine.shape import FullTraining, Shape
from whet.engine.trained_head import slice_width

WIDE = 4  # bytes of float32
LOW = 2  # bytes of the lower half of a master
SORTED = 3072  # tokens; above, torch's CUDA backward of an embedding sums their rows in float32 first
LIBRARY = 24  # bytes a parameter that are moved where a library updates masters: made, with a gradient, and split


class ParameterBytes(NamedTuple):
    """What belongs to the parameters: ``gradients`` when all of them are there."""

    weights: int
    masters: int
    moments: int
    gradients: int

    @property
    def fixed(self) -> int:
        """There all the time."""
        return self.weights + self.masters + self.moments


def parameter_bytes(shape: Shape, training: FullTraining, passes: int) -> ParameterBytes:
    """Of all parameters of a model.

    Args:
        passes: forward passes in an optimizer step.
    """
    count, width = shape.parameters, shape.width
    masters = count * LOW if width < WIDE else 0
    moments = count * training.moment
    if training.embedding is not None:
        moments += shape.vocab * shape.hidden * (training.embedding - training.moment)
    return ParameterBytes(count * width, masters, moments, count * (WIDE if passes > 1 else width))


def gradients_at(shape: Shape, passes: int, layer: int) -> int:
    """Bytes of gradients that are there when a layer's backward (-1: the embedding's) begins; 0 of frozen weights."""
    if shape.full is None:
        return 0
    head = _table(shape) if not shape.scores and (shape.tied or passes == 1) else 0
    layers = (shape.layers - 1 - layer) * shape.layer_parameters * shape.width if passes == 1 else 0
    return head + layers


def embedding_bytes(shape: Shape, tokens: int, passes: int) -> int:
    """The embedding's backward, with what is left by then; 0 of frozen weights. Where it is the head's weight too, the
    sum of both gradients stands beside them."""
    if shape.full is None:
        return 0
    dx = tokens * shape.hidden * shape.width
    sums = tokens * shape.hidden * WIDE if tokens > SORTED else 0
    both = _table(shape) if shape.tied and not shape.scores else 0
    return gradients_at(shape, passes, -1) + dx + _table(shape) + max(sums, both)


def head_bytes(shape: Shape, rows: int, chunk_rows: int) -> int:
    """The highest point of a trained head's backward (``trained_head.py``), above what the layers keep."""
    narrow, wide = (rows * shape.hidden * width for width in (shape.width, WIDE))
    columns = slice_width(rows, shape.vocab, chunk_rows)
    kept = 2 * narrow + rows * WIDE
    made = wide + narrow + _table(shape)  # dh, the gradient times hidden states, dW
    another = wide if columns < shape.vocab else 0  # a slice's part of dh
    rounded = narrow if shape.width < WIDE else 0
    return kept + made + rows * columns * shape.width + max(another, rounded)


def update_bytes(shape: Shape, passes: int) -> int:
    """The optimizer's step, above what is there all the time; 0 of frozen weights."""
    if shape.full is None:
        return 0
    return (shape.parameters * shape.width if passes == 1 else 0) + shape.full.beside


def update_traffic(shape: Shape, passes: int) -> int:
    """Bytes that move in a step beside forward and backward: sums of gradients, their norm, and the update."""
    assert shape.full is not None
    masters = LOW if shape.width < WIDE else 0
    gradient = WIDE if passes > 1 else shape.width
    sums = (passes - 1) * (shape.width + 2 * WIDE)
    update = 2 * gradient + 2 * (shape.width + masters + shape.full.moment)
    if masters and shape.full.beside:
        update += LIBRARY
    return shape.parameters * (sums + update)


def _table(shape: Shape) -> int:
    """Bytes of the head's weight, or of the embedding's, or of the gradient of one."""
    return shape.vocab * shape.hidden * shape.width
