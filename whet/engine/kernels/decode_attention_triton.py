# mypy: ignore-errors
"""Attention of one new token per sequence on the GPU; ``decode_attention`` says what is computed. Imports Triton.

Three launches: rotation and cache, one program for each chunk of keys of a slot and key/value head, and one for each
query head that joins the chunks. Programs of chunks that a slot does not look at end at once: the grid can be that of
the whole cache, as a CUDA graph needs it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

TILE_ELEMENTS = 8192  # of keys that a program holds at once: 64 keys of 128


@triton.jit
def _place(
    QKV, K, V, COS, SIN, POSITIONS, slots, ld_qkv, ld_cos, ld_sin,
    H: tl.constexpr, G: tl.constexpr, E: tl.constexpr, C: tl.constexpr, L: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    slot, head = tl.program_id(0), tl.program_id(1)
    position = tl.load(POSITIONS + slot).to(tl.int64)
    source = QKV + slot * ld_qkv + head * E
    group = tl.where(head < H, 0, (head - H) % G)
    into = (((position // L) * slots + slot) * G + group) * (L * E) + (position % L) * E
    e = tl.arange(0, BLOCK_E)
    if head < H + G:
        c = tl.arange(0, BLOCK_C)
        cos = tl.load(COS + position * ld_cos + c, mask=c < C, other=0.0).to(tl.float32)
        sin = tl.load(SIN + position * ld_sin + c, mask=c < C, other=0.0).to(tl.float32)
        a = tl.load(source + c, mask=c < C, other=0.0).to(tl.float32)
        b = tl.load(source + C + c, mask=c < C, other=0.0).to(tl.float32)
        first = (a * cos - b * sin).to(QKV.dtype.element_ty)
        second = (b * cos + a * sin).to(QKV.dtype.element_ty)
        if head < H:
            tl.store(source + c, first, mask=c < C)
            tl.store(source + C + c, second, mask=c < C)
        else:
            tl.store(K + into + c, first, mask=c < C)
            tl.store(K + into + C + c, second, mask=c < C)
            if 2 * C < E:
                rest = (e >= 2 * C) & (e < E)
                tl.store(K + into + e, tl.load(source + e, mask=rest, other=0.0), mask=rest)
    else:
        tl.store(V + into + e, tl.load(source + e, mask=e < E, other=0.0), mask=e < E)


@triton.jit
def _chunks(
    Q, K, V, POSITIONS, PARTS, PEAK, SUM, slots, ld_q, scale, softcap, window,
    G: tl.constexpr, EACH: tl.constexpr, E: tl.constexpr, L: tl.constexpr, CAPPED: tl.constexpr,
    WINDOWED: tl.constexpr, HEADS: tl.constexpr, BLOCK_E: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    slot, group, chunk = tl.program_id(0) // G, tl.program_id(0) % G, tl.program_id(1)
    last = tl.load(POSITIONS + slot).to(tl.int32)
    first = 0
    if WINDOWED:
        first = tl.maximum(last - window + 1, 0)
    if (chunk * L <= last) & (chunk * L + L > first):
        h, e = tl.arange(0, HEADS), tl.arange(0, BLOCK_E)
        heads = (h < EACH)[:, None] & (e < E)[None, :]
        q = tl.load(Q + slot * ld_q + (group * EACH + h)[:, None] * E + e[None, :], mask=heads, other=0.0)
        at = ((chunk.to(tl.int64) * slots + slot) * G + group) * (L * E)
        peak = tl.full((HEADS,), float("-inf"), tl.float32)
        total = tl.zeros((HEADS,), tl.float32)
        acc = tl.zeros((HEADS, BLOCK_E), tl.float32)
        for start in range(0, L, KEYS):
            key = start + tl.arange(0, KEYS)
            seen = (chunk * L + key <= last) & (chunk * L + key >= first)
            where = seen[:, None] & (e < E)[None, :]
            k = tl.load(K + at + key[:, None] * E + e[None, :], mask=where, other=0.0)
            v = tl.load(V + at + key[:, None] * E + e[None, :], mask=where, other=0.0)
            s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
            if CAPPED:
                s = (2.0 * tl.sigmoid(2.0 * s / softcap) - 1.0) * softcap
            s = tl.where(seen[None, :], s, float("-inf"))
            new_peak = tl.maximum(peak, tl.max(s, 1))
            base = tl.where(new_peak == float("-inf"), 0.0, new_peak)  # no key yet
            p = tl.exp(s - base[:, None])
            shrink = tl.exp(peak - base)
            total = total * shrink + tl.sum(p, 1)
            acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
            peak = new_peak
        row = (slot * tl.num_programs(1) + chunk) * (G * EACH) + group * EACH + h
        tl.store(PEAK + row, peak, mask=h < EACH)
        tl.store(SUM + row, total, mask=h < EACH)
        tl.store(PARTS + row[:, None] * E + e[None, :], acc, mask=heads)


@triton.jit
def _join(
    PARTS, PEAK, SUM, POSITIONS, OUT, chunks, window,
    H: tl.constexpr, E: tl.constexpr, L: tl.constexpr, WINDOWED: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    slot, head = tl.program_id(0), tl.program_id(1)
    last = tl.load(POSITIONS + slot).to(tl.int32)
    begin = 0
    if WINDOWED:
        begin = tl.maximum(last - window + 1, 0) // L
    e = tl.arange(0, BLOCK_E)
    peak = float("-inf")
    total = 0.0
    acc = tl.zeros((BLOCK_E,), tl.float32)
    for chunk in range(begin, last // L + 1):
        row = (slot * chunks + chunk) * H + head
        own = tl.load(PEAK + row)
        new_peak = tl.maximum(peak, own)
        shrink, factor = tl.exp(peak - new_peak), tl.exp(own - new_peak)
        part = tl.load(PARTS + row.to(tl.int64) * E + e, mask=e < E, other=0.0)
        total = total * shrink + tl.load(SUM + row) * factor
        acc = acc * shrink + part * factor
        peak = new_peak
    tl.store(OUT + (slot * H + head) * E + e, (acc / total).to(OUT.dtype.element_ty), mask=e < E)


def place(qkv_SNE, k_NSGLE, v_NSGLE, cos_TC, sin_TC, positions_S) -> None:
    """As ``decode_attention.place``; the keys in ``qkv_SNE`` stay as they are."""
    slots, heads, width = qkv_SNE.shape
    groups, size = k_NSGLE.shape[2:4]
    pairs = cos_TC.shape[1]
    _place[(slots, heads)](
        qkv_SNE, k_NSGLE, v_NSGLE, cos_TC, sin_TC, positions_S, k_NSGLE.shape[1],
        qkv_SNE.stride(0), cos_TC.stride(0), sin_TC.stride(0),
        H=heads - 2 * groups, G=groups, E=width, C=pairs, L=size,
        BLOCK_C=triton.next_power_of_2(pairs), BLOCK_E=triton.next_power_of_2(width), num_warps=1,
    )  # fmt: skip


def attend(q_SHE, k_NSGLE, v_NSGLE, positions_S, scores) -> torch.Tensor:
    """As ``decode_attention.attend``."""
    slots, heads, width = q_SHE.shape
    chunks, _, groups, size, _ = k_NSGLE.shape
    parts = q_SHE.new_empty(slots, chunks, heads, width, dtype=torch.float32)
    peak, total = (q_SHE.new_empty(slots, chunks, heads, dtype=torch.float32) for _ in range(2))
    out = q_SHE.new_empty(slots, heads, width)
    block = max(16, triton.next_power_of_2(width))
    windowed = scores.window is not None
    window = scores.window or 0
    _chunks[(slots * groups, chunks)](
        q_SHE, k_NSGLE, v_NSGLE, positions_S, parts, peak, total, slots, q_SHE.stride(0), float(scores.scale),
        float(scores.softcap or 1.0), window,
        G=groups, EACH=heads // groups, E=width, L=size, CAPPED=scores.softcap is not None, WINDOWED=windowed,
        HEADS=max(16, triton.next_power_of_2(heads // groups)), BLOCK_E=block,
        KEYS=min(size, max(16, TILE_ELEMENTS // block)), num_warps=4, num_stages=1,
    )  # fmt: skip
    _join[(slots, heads)](
        parts, peak, total, positions_S, out, chunks, window,
        H=heads, E=width, L=size, WINDOWED=windowed, BLOCK_E=block, num_warps=1,
    )  # fmt: skip
    return out
