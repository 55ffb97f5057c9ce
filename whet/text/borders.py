"""From ranges of characters to ranges of tokens.

A token belongs to a range when it overlaps it; a token that lies across a border belongs to both sides.

Two ways give the same answer. A byte-level vocabulary says how many bytes each token stands for, so the borders are
sums of lengths; this needs no offsets, which cost a third of the tokenizer's time, and works on many rows at once. It
counts for a row only if its lengths add up to the bytes of its text (a normaliser may have changed the text). For all
other rows and vocabularies the tokenizer's own offsets are used.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

Span = tuple[int, int]


def byte_lengths(tokenizer: Any) -> np.ndarray | None:
    """Bytes of text that each id stands for (int32, one entry an id); None if the vocabulary is not of bytes."""
    known = _LENGTHS.get(tokenizer)
    if known is None or known[0] != len(tokenizer):
        known = _LENGTHS[tokenizer] = (len(tokenizer), _byte_lengths(tokenizer))
    return known[1]


_LENGTHS: WeakKeyDictionary[Any, tuple[int, np.ndarray | None]] = WeakKeyDictionary()


def _byte_lengths(tokenizer: Any) -> np.ndarray | None:
    from tokenizers.decoders import ByteLevel

    if not isinstance(tokenizer.backend_tokenizer.decoder, ByteLevel):
        return None
    vocabulary = tokenizer.get_vocab()
    lengths = np.zeros(max(vocabulary.values(), default=0) + 1, dtype=np.int32)
    for text, number in vocabulary.items():
        lengths[number] = len(text)  # in a byte-level vocabulary each byte is written as one character
    for number, token in tokenizer.added_tokens_decoder.items():
        lengths[number] = len(token.content.encode())
    return lengths


def spans_by_length(
    ends: np.ndarray, spans: Sequence[Span], row_of_span: Sequence[int], starts: np.ndarray
) -> list[Span]:
    """Token ranges of many rows at once, by the sums of byte lengths.

    Args:
        ends: where each token of all rows ends, in bytes from the start of the first row (rows follow each other).
        spans: byte ranges, each from the start of its row.
        row_of_span: the row of each span.
        starts: where each row starts, in bytes from the start of the first row.

    Returns:
        Ranges of tokens, counted over all rows.
    """
    if not spans:
        return []
    borders = np.asarray(spans, dtype=np.int64) + starts[np.asarray(row_of_span)][:, None]
    first = np.searchsorted(ends, borders[:, 0], side="right")
    last = np.searchsorted(ends, borders[:, 1], side="left") + 1
    last = np.where(borders[:, 1] > borders[:, 0], np.minimum(last, len(ends)), first)
    return list(zip(first.tolist(), last.tolist(), strict=True))


def spans_by_offsets(
    offsets: Sequence[Span], spans: Sequence[Span], ids: Sequence[int] = (), special: Container[int] = ()
) -> list[Span]:
    """Token ranges of one row, by the tokenizer's offsets; spans are in order and do not overlap.

    Args:
        ids, special: the tokens and which ids are special tokens. A special token that begins before a range is not
            part of it: some (Phi-3's) take the white space after them along, and an answer may begin with white space.

    Two things to know about offsets: the tokens of one multi-byte character all carry that character's range, and the
    white space in front of a token may be cut off its range (a token of spaces only then has an empty range at its
    end). So a token begins where the token before it ended, or earlier.
    """
    found: list[list[int]] = [[0, 0] for _ in spans]
    reached = current = 0
    for i, (start, end) in enumerate(offsets):
        start = min(start, reached)
        reached = max(reached, end)
        while current < len(spans) and spans[current][1] <= start:
            current += 1
        k = current
        while end > start and k < len(spans) and spans[k][0] < end:
            if start >= spans[k][0] or not ids or ids[i] not in special:
                found[k] = [found[k][0] if found[k][1] else i, i + 1]
            k += 1
    return [(first, last) for first, last in found]
