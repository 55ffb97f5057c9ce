"""SentencePiece vocabularies (Llama 2, Mistral, Gemma, Phi-3) as llama.cpp reads them.

transformers keeps such a vocabulary as BPE over text with ``▁`` for spaces, with a list of merges. llama.cpp has no
merges here: of all neighbours whose text together is a token, it joins the pair whose token scores best. So a token's
score is minus the rank of its merge.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from whet.errors import ExportError

SPACE = "▁"
NEVER_MERGED = -1e7  # below every rank
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")

Prefix = Literal["always", "first", "never"]
"""Where a space is put before a text: before each piece between special tokens, at the very start, or nowhere."""


def is_sentencepiece(core: dict[str, Any]) -> bool:
    """Whether a ``tokenizer.json`` is a SentencePiece vocabulary: unknown characters become byte tokens."""
    return core["model"].get("type") == "BPE" and bool(core["model"].get("byte_fallback"))


def is_byte(token: str) -> bool:
    return _BYTE.fullmatch(token) is not None


def space_prefix(core: dict[str, Any]) -> Prefix:
    """Where the tokenizer puts a space before a text.

    Raises:
        ExportError: the tokenizer changes or splits text in a way that llama.cpp does not for these vocabularies.
    """
    normal, split = _parts(core.get("normalizer"), "normalizers"), _parts(core.get("pre_tokenizer"), "pretokenizers")
    prepends = [part for part in normal if part == {"type": "Prepend", "prepend": SPACE}]
    replaces = [part for part in normal if _replaces_spaces(part)]
    metaspaces = [part for part in split if part["type"] == "Metaspace" and part.get("replacement") == SPACE]
    without_effect = [part for part in split if replaces and part.get("pattern") == {"String": " "}]
    known = [*prepends, *replaces, *metaspaces, *without_effect]
    other = [part["type"] for part in [*normal, *split] if part not in known]
    if other or bool(metaspaces) == bool(replaces) or any(part.get("split", True) for part in metaspaces):
        raise ExportError(
            f"the tokenizer prepares text in a way that llama.cpp has not for SentencePiece: {[*normal, *split]}",
            "spaces written as ▁, with or without one more before the text",
            "export the model as merged safetensors instead",
        )
    if metaspaces:
        return metaspaces[0]["prepend_scheme"]
    return "always" if prepends else "never"


def _parts(step: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    if step is None:
        return []
    return list(step[inner]) if step["type"] == "Sequence" else [step]


def _replaces_spaces(part: dict[str, Any]) -> bool:
    return part["type"] == "Replace" and part.get("pattern") == {"String": " "} and part.get("content") == SPACE


def scores(tokens: list[str], merges: list[tuple[str, ...]]) -> list[float]:
    """A score for each token: minus the rank of the first merge that makes it."""
    ranks = _ranks(merges)
    return [-float(ranks[token][0]) if token in ranks else NEVER_MERGED for token in tokens]


def joined_differently(vocabulary: dict[str, int], merges: list[tuple[str, ...]]) -> int:
    """How many tokens llama.cpp can join from other parts than the tokenizer does, or at another moment.

    None of a vocabulary that SentencePiece made: each way to cut such a token in two known parts is a merge, and these
    follow each other. (Runs of one character do not count: Gemma's share one score, and their order changes nothing.)
    """
    count = 0
    for token, ranks in _ranks(merges).items():
        if len(set(token)) == 1:
            continue
        cuts = sum(token[:place] in vocabulary and token[place:] in vocabulary for place in range(1, len(token)))
        count += cuts != len(ranks) or ranks[-1] - ranks[0] >= len(ranks)
    return count


def _ranks(merges: list[tuple[str, ...]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for number, (left, right) in enumerate(merges):
        found.setdefault(left + right, []).append(number)
    return found
