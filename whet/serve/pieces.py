"""Token ids to text while they are made."""

from __future__ import annotations

from typing import Any

UNFINISHED = "\ufffd"  # what a decoder writes for the first bytes of a character
LONGEST_CHARACTER = 4  # bytes in UTF-8, so tokens at most


class TextPieces:
    """The text that each new token adds; special tokens add none.

    Some tokenizers write a token differently at the start of a text (SentencePiece drops its space), so a token is
    always decoded together with those of the piece before it. A character of several tokens is held back until it is
    complete.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._before: list[int] = []  # the tokens of the piece before, decoded again as context
        self._new: list[int] = []

    def push(self, token: int) -> str:
        """Take one more token; returns the text that is certain now."""
        self._new.append(token)
        piece = self._piece()
        if piece.endswith(UNFINISHED) and len(self._new) < LONGEST_CHARACTER:
            return ""
        return self._take(piece)

    def rest(self) -> str:
        """What was held back, at the end of the answer."""
        return self._take(self._piece())

    def _piece(self) -> str:
        return self._decode(self._before + self._new)[len(self._decode(self._before)) :]

    def _take(self, piece: str) -> str:
        if piece:  # tokens without text stay: the next one may need them
            self._before, self._new = self._new, []
        return piece

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True) if ids else ""
