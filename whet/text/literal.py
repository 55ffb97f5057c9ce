"""Special-token text inside of data, encoded as the plain text that it is.

A question that quotes ``<|im_end|>`` must not end the turn: a tokenizer alone would read it as the control token, and
the row could forge a turn. Whole texts are still tokenised in one pass, because words may join across pieces. For a
text that holds such a quote, a second tokenizer is made in which every special token has another name, out of
private-use characters. In the text the template's own special tokens are renamed too, the quoted ones are not; so only
the genuine ones are found. The ids are then translated back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

Span = tuple[int, int]

_OPEN, _CLOSE = "\ue0f0", "\ue0f1"  # private use: in no vocabulary, and hardly ever in data


class Specials:
    """The special tokens of one tokenizer.

    Attributes:
        texts: their texts, longest first.
        ids: their ids.
        starts: their first two characters; a text without any of them holds no special token.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        found = {text for text in added | set(tokenizer.all_special_tokens) if text}
        self.texts = tuple(sorted(found, key=lambda text: (-len(text), text)))
        self.ids = frozenset(tokenizer.convert_tokens_to_ids(list(self.texts)))
        self.starts = tuple({text[:2] for text in self.texts})
        self._pattern = re.compile("|".join(map(re.escape, self.texts)) or r"(?!)")

    def inside(self, text: str) -> list[Span]:
        """Where special-token text stands in ``text``, in order."""
        if not any(start in text for start in self.starts):
            return []
        return [match.span() for match in self._pattern.finditer(text)]

    def end(self, text: str) -> bool:
        """Whether the text ends with a special token."""
        return text.endswith(self.texts) if self.texts else False

    def rename(self, text: str) -> str:
        """Every special token under its private name."""
        return self._pattern.sub(lambda match: self._names[match.group()], text)

    @cached_property
    def literal(self) -> LiteralTokenizer:
        """The tokenizer that knows the special tokens by their private names only; made when first needed."""
        return LiteralTokenizer(self.tokenizer, self._names)

    @cached_property
    def _names(self) -> Mapping[str, str]:
        return {text: f"{_OPEN}{number}{_CLOSE}" for number, text in enumerate(self.texts)}


class LiteralTokenizer:
    """A copy of a fast tokenizer with renamed special tokens; its ids are those of the original."""

    def __init__(self, tokenizer: Any, names: Mapping[str, str]) -> None:
        from tokenizers import Tokenizer

        description = json.loads(tokenizer.backend_tokenizer.to_str())
        for token in description["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        _rename_in_model(description["model"], names)
        description["post_processor"] = None  # it names special tokens, and adds none here
        description["padding"] = description["truncation"] = None
        self.backend = Tokenizer.from_str(json.dumps(description))
        self._ids = {}
        for token in description["added_tokens"]:
            made = self.backend.token_to_id(token["content"])
            if made != token["id"]:
                self._ids[made] = token["id"]

    def encode_batch(self, texts: Sequence[str]) -> list[Any]:
        """Encodings with offsets. ``ids_of`` gives their ids."""
        return list(self.backend.encode_batch(list(texts), add_special_tokens=False))

    def ids_of(self, encoding: Any) -> list[int]:
        """The original tokenizer's ids."""
        return [self._ids.get(number, number) for number in encoding.ids]


def _rename_in_model(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """The same in the vocabulary, so that no merge of plain text can end in a special token."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(text, text): number for text, number in vocabulary.items()}
    elif isinstance(vocabulary, list):  # Unigram: pairs of piece and score
        model["vocab"] = [[names.get(text, text), score] for text, score in vocabulary]
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if _merged(pair) not in names]


def _merged(pair: Sequence[str] | str) -> str:
    """What a merge makes; tokenizer files hold it as a list of two, older ones as a text with a space."""
    return pair.replace(" ", "", 1) if isinstance(pair, str) else "".join(pair)


_KNOWN: WeakKeyDictionary[Any, tuple[int, Specials]] = WeakKeyDictionary()


def specials_of(tokenizer: Any) -> Specials:
    """The tokenizer's special tokens; found once, and again when tokens were added."""
    state = len(tokenizer)
    known = _KNOWN.get(tokenizer)
    if known is None or known[0] != state:
        known = _KNOWN[tokenizer] = (state, Specials(tokenizer))
    return known[1]


def rename_outside(specials: Specials, text: str, literal: Iterable[Span]) -> tuple[str, list[Span]]:
    """``text`` for the literal tokenizer: special tokens renamed, except in the ``literal`` ranges.

    Returns:
        The new text, and pairs (place in ``text``, place in the new text) of every point where they may drift apart.
    """
    parts: list[str] = []
    anchors: list[Span] = []
    reached, size = 0, 0
    for start, stop in [*literal, (len(text), len(text))]:
        for piece, renamed in _pieces(specials, text[reached:start]):
            anchors.append((reached, size))
            parts.append(renamed)
            reached, size = reached + len(piece), size + len(renamed)
        anchors.append((reached, size))
        parts.append(text[start:stop])
        reached, size = stop, size + stop - start
    anchors.append((len(text), size))
    return "".join(parts), anchors


def _pieces(specials: Specials, text: str) -> Iterable[tuple[str, str]]:
    """The text cut at its special tokens: each piece, and the piece as it is written for the literal tokenizer."""
    reached = 0
    for start, stop in specials.inside(text):
        yield text[reached:start], text[reached:start]
        yield text[start:stop], specials.rename(text[start:stop])
        reached = stop
    yield text[reached:], text[reached:]
