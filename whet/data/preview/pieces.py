"""Token ids as pieces of text, each whole characters, with what is trained and what is a special token.

The pieces joined together are what the tokenizer decodes. A character that is split over several tokens is one piece
of several ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from whet.text.encode import IGNORE

UNFINISHED = "\ufffd"  # what a decoder writes for the first bytes of a character
LONGEST_CHARACTER = 8  # tokens: four bytes, with room for tokenizers that put markers between
CONTEXT = 64  # tokens that are decoded together with the next one, at most


class Piece(NamedTuple):
    """One token, or the tokens of one character."""

    text: str
    ids: tuple[int, ...]
    trained: bool
    special: bool


def pieces_of(tokenizer: Any, ids: Sequence[int], labels: Sequence[int]) -> list[Piece]:
    """Ids and labels of one row as pieces, in order.

    Args:
        tokenizer: decodes the ids; SentencePiece ones write a token differently at the start of a text, so each token
            is decoded together with those before it.
        labels: of the same length as ``ids``; ``IGNORE`` where nothing is trained.
    """
    found = []
    special = special_ids(tokenizer)
    for start, stop, text in _texts(tokenizer, ids, special):
        trained = any(label != IGNORE for label in labels[start:stop])
        found.append(Piece(text, tuple(ids[start:stop]), trained, ids[start] in special))
    return found


def special_ids(tokenizer: Any) -> frozenset[int]:
    """The ids of the tokenizer's special tokens."""
    added = {int(i) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Ids as text, special tokens included, nothing tidied up."""
    if not ids:
        return ""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _texts(tokenizer: Any, ids: Sequence[int], special: frozenset[int]) -> Iterator[tuple[int, int, str]]:
    """Each piece as (first token, token after the last, text)."""
    context, start, before = 0, 0, ""
    while start < len(ids):
        if start - context > CONTEXT:
            context = start - CONTEXT // 4
            before = decode(tokenizer, ids[context:start])
        stop, whole = _grow(tokenizer, ids, special, context, start)
        yield start, stop, whole[len(before) :]
        start, before = stop, whole


def _grow(tokenizer: Any, ids: Sequence[int], special: frozenset[int], context: int, start: int) -> tuple[int, str]:
    """Take tokens until the character is complete; returns where it ends and the text from ``context`` to there."""
    stop, whole = start + 1, decode(tokenizer, ids[context : start + 1])
    while (
        whole.endswith(UNFINISHED) and stop < len(ids) and ids[stop] not in special and stop - start < LONGEST_CHARACTER
    ):
        stop += 1
        whole = decode(tokenizer, ids[context:stop])
    return stop, whole
