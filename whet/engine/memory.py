"""How many bytes a training step takes, counted tensor by tensor.

**Kept for the backward**, elements for each token and layer (``layer.py`` keeps these; D hidden, H/G query/key heads of
width E, F MLP width, R adapter columns of a group, padded):

    policy      tensors                                        Llama-3-8B, r = 16, bytes
                                                               without padding     padded to 64
    full        x D                                                        8,192          8,192
    mlp         + r1 1, P1 R, qkv (H+2G)E, o HE, lse H,
                  x2 D, Po R, r2 1                                        37,128         37,256
    none        + gu 2F + R, P2 R, Pd R                                   94,632         94,984

Without padding R is 48, 16, 32, 16; the often quoted 94,568 for ``none`` leaves out gu's 32 spare columns (64 bytes),
into which the backward writes. A GPU pads each group to 64 columns, one tile of a bfloat16 product; the last column of
figures is what was measured on one. r1, r2 and lse are float32. With norms on the outputs (Gemma 2, 3) ``mlp`` and
``none`` keep a D, ra 1, m D, rm 1 too, and ``full`` makes the down projection again; with norms on heads (Qwen3,
Gemma 3) they keep rq H, rk G.

**Working space**: ``_forward`` and ``_backward`` list in order what a layer allocates and frees. With Llama's shape the
highest point of a backward is at ``dh``: dy, n2, gu, dm, dh, and where ``full`` made the attention again, its tensors.
Where the MLP goes through in tiles (``mlp.py``), its tensors have the rows of one tile.

**Phases**: the forward of layer i stands on what the layers before it kept; the loss on what all kept; the backward of
layer i on what layers 0..i kept, so the last layers' activations are gone when the first layers need room.
In the last layer everything after attention is computed for labelled tokens only, on copies of their rows.

Where the weights themselves are trained, R is 0, a layer's backward makes dW of each group, and gradients gather while
it goes down; ``trained.py`` has the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from whet.engine.shape import Shape
from whet.engine.spec import GROUPS, GroupName
from whet.engine.trained import (
    WIDE,
    ParameterBytes,
    embedding_bytes,
    gradients_at,
    head_bytes,
    parameter_bytes,
    update_bytes,
)

POLICIES = ("none", "mlp", "full")  # of layer.py, the most memory first
MLP_INPUTS = frozenset({"gu", "P2", "Pd"})
NOT_TRAINED = ParameterBytes(0, 0, 0, 0)
WORKSPACES = 2 * 32 * 2**20  # cuBLAS and cuBLASLt on a Hopper GPU, torch's default; they lie in torch's allocator
NF4_BLOCK, NF4_GROUP = 64, 256  # weights with one 8-bit scale, scales with one float32 scale


class Work(NamedTuple):
    """The micro-batch that memory is planned for, and a step of such.

    Attributes:
        tokens: of one micro-batch, padding included.
        labelled: positions of it that predict a label.
        squares: sum over its documents of length squared, for attention's time.
        micro_batches: forward passes in an optimizer step.
        equal: all documents have one length, so that attention runs on one dense batch.
        attended: rows that attention looks at, more than ``tokens`` where documents share some; 0: as many.
    """

    tokens: int
    labelled: int
    squares: float
    micro_batches: int = 1
    equal: bool = False
    attended: int = 0

    @property
    def seen(self) -> int:
        """S, the rows of attention."""
        return max(self.tokens, self.attended)


class LayerBytes(NamedTuple):
    """Of one layer: kept between forward and backward (its input included), and the highest points of both, counted
    from an empty memory (the forward's without x, the backward's without what is kept; dy included)."""

    kept: int
    forward: int
    backward: int


def weight_bytes(shape: Shape) -> int:
    """Of one layer's weights as the model holds them on the device: dense inside the augmented buffers, packed NF4, or
    none at all where they are streamed."""
    if shape.storage == "dense":
        return buffer_bytes(shape)
    if shape.storage == "streamed":
        return 0
    return sum(_packed(outputs * shape.size(group)[1]) for group in GROUPS for outputs in shape.widths(group))


def buffer_bytes(shape: Shape) -> int:
    """Of one layer's augmented buffers, (N + R)(K + R) for each group."""
    return sum(_buffer(shape, group) for group in GROUPS)


def main_memory_bytes(shape: Shape) -> int:
    """Page-locked main memory of streamed weights: every layer's augmented buffers. 0 for other storages."""
    return shape.layers * buffer_bytes(shape) if shape.storage == "streamed" else 0


def fixed_bytes(shape: Shape, tokens: int, resident: int = 0, passes: int = 1) -> dict[str, int]:
    """What stays in memory during the whole step, by name.

    Args:
        tokens: of a micro-batch.
        resident: layers of NF4 weights of which a dense copy is kept.
        passes: in an optimizer step.
    """
    elements = shape.layers * shape.layer_adapters
    table = shape.vocab * shape.hidden * shape.width
    nf4 = shape.storage == "nf4"
    # of streamed weights those of the layer at work and of the one to come
    buffers = {"dense": 0, "nf4": 1 if resident < shape.layers else 0, "streamed": 2}[shape.storage]
    operands = sum(shape.columns(group) * sum(shape.size(group)) for group in GROUPS) * shape.width
    biases = shape.size("qkv")[0] * shape.width if shape.bias else 0
    full = parameter_bytes(shape, shape.full, passes) if shape.full is not None else NOT_TRAINED
    return {
        "weights": shape.layers * (weight_bytes(shape) + shape.norms * shape.width + biases) + shape.hidden * 2,
        "embedding and head": shape.tables * table,
        "adapters": elements * WIDE,
        "gradients": elements * WIDE + (full.gradients if passes > 1 else 0),
        "gradients before a pass": elements * WIDE if passes > 1 else 0,  # a copy, for the way back after a shortage
        "moments": 2 * elements * WIDE + full.moments,
        "lower half of masters": full.masters,
        "adapter operands": shape.layers * operands if shape.storage != "dense" else 0,
        "shared buffers": buffers * _shared(shape),
        "resident layers": resident * buffer_bytes(shape) if nf4 else 0,
        "batch": tokens * (shape.head_dim * shape.width + 5 * 8),  # cosines and sines; ids, labels, positions, targets
        "workspace": WORKSPACES if shape.width == 2 else 0,
    }


@lru_cache(maxsize=256)
def layer_bytes(
    shape: Shape,
    policy: str,
    tokens: int,
    selected: int | None = None,
    tile: int | None = None,
    seen: int | None = None,
) -> LayerBytes:
    """A layer's activations under a policy.

    Args:
        selected: in the last layer, how many tokens' output is wanted; None: all, without copies of rows.
        tile: rows of the MLP at once, where the policy makes it again; None: all.
        seen: rows that attention looks at, where documents share tokens; None: ``tokens``.
    """
    everything = selected is None
    rows = tokens if selected is None else selected
    tiled = tile is not None and policy != "none" and tile < rows
    sizes = _sizes(shape, tokens, rows, tile if tiled and tile is not None else rows, seen)
    held = kept_names(shape, policy)
    kept = sum(sizes[name] for name in held)
    again = seen is not None and seen > tokens
    forward = _highest(_gathered(_forward(shape, everything, tiled), again), sizes)
    backward = _highest(_gathered(_backward(shape, held, everything, tiled), again), sizes) + sizes["y"]
    gradients = shape.layer_adapters + (shape.adapters_of("gate_up", "down") if tiled else 0)
    return LayerBytes(kept, forward, backward + gradients * WIDE)


def kept_names(shape: Shape, policy: str) -> list[str]:
    """The tensors that a policy keeps."""
    if policy not in POLICIES:
        raise ValueError(f"policy {policy!r}; known: {', '.join(POLICIES)}")
    if policy == "full":
        return ["x"]
    names = ["x", "r1", "P1", "qkv", "o", "lse", "x2", "Po", "r2"]
    names += ["a", "ra", "m", "rm"] if shape.post_norms else []
    names += ["rq"] if shape.qk_norm else []
    return names + (sorted(MLP_INPUTS) if policy == "none" else [])


def kept_per_token(shape: Shape, policy: str) -> int:
    """Bytes for each token and layer: the table above."""
    sizes = _sizes(shape, 1, 1, 1)
    return sum(sizes[name] for name in kept_names(shape, policy))


def activation_peak(shape: Shape, work: Work, policies: Sequence[str], chunk_rows: int, tile: int | None = None) -> int:
    """The highest point of a micro-batch and of the optimizer's step above ``fixed_bytes``; arguments as of
    ``layers_peak``."""
    layers = layers_peak(shape, work, policies, chunk_rows, tile)
    return max(layers, embedding_bytes(shape, work.tokens, work.micro_batches), update_bytes(shape, work.micro_batches))


def layers_peak(shape: Shape, work: Work, policies: Sequence[str], chunk_rows: int, tile: int | None = None) -> int:
    """The highest point of a micro-batch's layers and loss above ``fixed_bytes``: what policies decide.

    Args:
        policies: one for each layer, the first layer's first.
        chunk_rows: rows of logits that exist at once.
        tile: as in ``layer_bytes``.
    """
    x = work.tokens * shape.hidden * shape.width
    below = highest = first = 0
    for policy, group in groupby(policies[:-1]):
        one, count = layer_bytes(shape, policy, work.tokens, tile=tile, seen=work.seen), len(list(group))
        lowest, below = below + one.kept, below + count * one.kept
        highest = max(highest, below - one.kept + x + one.forward)
        for kept, number in ((below, first + count - 1), (lowest, first)):  # between them it changes evenly
            highest = max(highest, kept + one.backward + gradients_at(shape, work.micro_batches, number))
        first += count
    last = layer_bytes(shape, policies[-1], work.tokens, work.labelled, tile, work.seen)
    backward = last.kept + last.backward + gradients_at(shape, work.micro_batches, first)
    loss = below + last.kept + _loss(shape, work.labelled, chunk_rows)
    return max(highest, below + x + last.forward, below + backward, loss)


# --- pieces ---


def _loss(shape: Shape, rows: int, chunk_rows: int) -> int:
    """Last hidden states before and after the norm, the gradient made in the forward, one chunk of logits."""
    if shape.scores:
        return rows * shape.hidden * 2 * (shape.width + WIDE)  # their copy in float32, and its gradient
    if shape.full is not None:
        return head_bytes(shape, rows, chunk_rows)
    return rows * (3 * shape.hidden * shape.width + WIDE) + min(rows, chunk_rows) * shape.vocab * shape.width


def _sizes(shape: Shape, tokens: int, rows: int, tile: int, seen: int | None = None) -> dict[str, int]:
    """Bytes of every tensor that a layer makes; those behind attention have a row for each selected token, those inside
    the MLP one for each token of a tile, those of attention one for each row that it looks at."""
    width, hidden, attended, keys = shape.width, shape.hidden, shape.attended, shape.keys
    r_qkv, r_o, r_gate_up, r_down = (shape.columns(group) for group in GROUPS)
    both = attended + keys
    of_all = {
        "x": hidden * width,
        "n1": (hidden + r_qkv) * width,
        "r1": WIDE,
        "P1": r_qkv * width,
        "qkv": (both + keys) * width,
        "qk": both * width,
        "rq": (shape.heads + shape.kv_heads) * WIDE,
        "o": attended * width,
        "do_all": attended * width,
        "dqkv": (both + keys + r_qkv) * width,
        "dq": (both + keys) * width,
        "n1_again": hidden * width + WIDE,
        "dn1": hidden * width,
        "dx2_all": hidden * width,
        "dx": hidden * width,
    }
    of_selected = {
        "rows": (attended + hidden) * width,  # of o and x
        "o_rows": attended * width,
        "oa": (attended + r_o) * width if r_o else 0,
        "Po": r_o * width,
        "da": (hidden + r_o) * width,
        "dx2": (hidden + r_o) * width,
        "do": attended * width,
    }
    of_selected |= dict.fromkeys(("x2", "a", "m", "y"), hidden * width)
    of_selected |= dict.fromkeys(("r2", "ra", "rm"), WIDE)
    of_tile = {
        "n2": (hidden + r_gate_up) * width,
        "gu": (2 * shape.mlp + r_gate_up) * width,
        "P2": r_gate_up * width,
        "h": (shape.mlp + r_down) * width,
        "Pd": r_down * width,
        "dm": (hidden + r_down) * width if r_down or shape.post_norms else 0,
        "dh": shape.mlp * width,
        "dn2": hidden * width,
        "tile_m": hidden * width,
        "tile_r": WIDE,
    }
    of_seen = {
        "lse": shape.heads * WIDE,
        "heads_seen": (both + keys) * width,
        "o_seen": attended * width,
        "dq_seen": (both + keys) * width,
        # FlashAttention-2's backward sums dq in float32, and dk and dv for each query head before they are added up.
        "attention": attended * WIDE + 2 * attended * width + shape.heads * WIDE,
    }
    of_weights = {f"dw_{group}": shape.size(group)[0] * shape.size(group)[1] * width for group in GROUPS}
    of_weights["dw_qkv"] += shape.size("qkv")[0] * width if shape.bias else 0
    of_weights["dnorms"] = shape.norms * WIDE
    trained = 1 if shape.full is not None else 0
    counted = ((of_all, tokens), (of_selected, rows), (of_tile, tile), (of_seen, seen or tokens), (of_weights, trained))
    return {name: size * count for sizes, count in counted for name, size in sizes.items()}


def _gathered(steps: str, again: bool) -> str:
    """Where documents share tokens (``attention_shared.py``), attention works on copies of rows."""
    if not again:
        return steps
    forward = "+heads_seen +o_seen +lse -heads_seen +o -o_seen"
    backward = "+heads_seen +o_seen +o_seen +dq_seen +attention -attention -heads_seen -o_seen -o_seen +dq -dq_seen"
    return steps.replace("+o +lse", forward).replace("+dq +attention -attention", backward)


def _attend(shape: Shape) -> str:
    heads = ("+qk +rq", "-qk") if shape.qk_norm else ("", "")
    return f"+n1 +r1 +qkv +P1 -n1 {heads[0]} +o +lse {heads[1]}"


def _add(shape: Shape, everything: bool) -> str:
    norm = "+a +ra" if shape.post_norms else ""
    rows = ("", "") if everything else ("+rows", "-rows")
    return f"{rows[0]} +oa {norm} +x2 +Po -oa {rows[1]}"


def _forward(shape: Shape, everything: bool, tiled: bool) -> str:
    """What ``layer_forward`` allocates (+) and frees (-), in order."""
    before = f"{_attend(shape)} {_add(shape, everything)}"
    if tiled:
        norm = ("+rm +m", "+tile_r") if shape.post_norms else ("", "")
        return f"{before} +y +r2 {norm[0]} +n2 +tile_r +gu +P2 -n2 +h {norm[1]}"
    norm = ("+m +rm", "") if shape.post_norms else ("", "")
    return f"{before} +n2 +r2 +gu +P2 -n2 +h {norm[0]} +y +Pd -h"


def _backward(shape: Shape, held: Sequence[str], everything: bool, tiled: bool) -> str:
    """What ``layer_backward`` allocates (+) and frees (-), in order."""
    again = "" if "qkv" in held else f"{_attend(shape)} {_add(shape, everything)} +r2"
    inputs, pd = ("", "") if "gu" in held else ("+gu +P2", "+Pd")
    if shape.post_norms and "m" not in held:
        inputs += " +h +tile_m +tile_r +tile_m -tile_m -h" if tiled else " +h +m +rm +y -y -h"
    out = ("+dx2", "") if tiled else ("", "+dx2")
    mlp = f"{out[0]} +n2 {inputs} +dm +dh {pd} +dw_down -dh +dn2 +dw_gate_up {out[1]} -gu -P2 -Pd -n2 -dm -dn2"
    if shape.post_norms:
        mlp += " -tile_m -tile_r" if tiled and "m" not in held else " -m -rm"
    return f"{again} +dnorms {mlp} -x2 -r2 {_attention_backward(shape, everything)}"


def _attention_backward(shape: Shape, everything: bool) -> str:
    normed = ("+da", "-da -a -ra") if shape.post_norms else ("", "")
    rows = ("", "") if everything else ("+o_rows", "-o_rows")
    spread = ("", "do", "") if everything else ("+do_all -do", "do_all", "+dx2_all")
    heads = ("+qk", "-qk", "-qkv") if shape.qk_norm else ("", "-qkv", "")
    return (
        f"{normed[0]} +do {rows[0]} +dw_o {normed[1]} {rows[1]} -Po {spread[0]} {heads[0]} +dq +attention -attention "
        f"{heads[1]} -{spread[1]} -o -lse +dqkv -dq {heads[2]} +n1_again +dn1 +dw_qkv {spread[2]} +dx"
    )


def _highest(steps: str, sizes: dict[str, int]) -> int:
    """The highest sum on the way."""
    now = highest = 0
    for step in steps.split():
        now += sizes[step[1:]] if step[0] == "+" else -sizes[step[1:]]
        highest = max(highest, now)
    return highest


def _buffer(shape: Shape, group: GroupName) -> int:
    outputs, inputs = shape.size(group)
    columns = shape.columns(group)
    return (outputs + columns) * (inputs + columns) * shape.width


def _shared(shape: Shape) -> int:
    """One dense buffer for each group shape that occurs."""
    return sum({(*shape.size(group), shape.columns(group)): _buffer(shape, group) for group in GROUPS}.values())


def _packed(elements: int) -> int:
    """Half a byte an element; 8-bit scales of 64, float32 scales of 256 of those; two code tables and an offset."""
    blocks = -(-elements // NF4_BLOCK)
    return -(-elements // 2) + blocks + WIDE * (-(-blocks // NF4_GROUP) + 256 + 16 + 1)
