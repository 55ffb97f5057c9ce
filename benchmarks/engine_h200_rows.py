"""What ``engine_h200.py`` trains on: settings, and texts that are the same for every trainer.

A setting reads ``b8a1s2048n8w3``: batch 8, accumulation 1, 2,048 tokens, 8 optimizer steps of which 3 are warm-up. Its
texts are random words, more than the row holds; every trainer cuts them at the same token. A ``p`` at the end
(``b8a1s2048n10w4p``) means documents of the lengths of an instruction data set instead, about batch x accumulation x
2,048 tokens of them for each optimizer step, and it is up to the trainer how it brings them into batches.

Imports nothing of whet: the peers' processes read it too.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

# Tokens of a document: 64 equally likely lengths, the quantiles of 999 GPT-4 Alpaca rows with the Alpaca template
# (instruction, input, answer), at 4.4 characters a token. Mean 187, median 133.
DOCUMENT_LENGTHS = (
    23, 28, 30, 33, 34, 36, 38, 40, 41, 43, 44, 46, 48, 49, 52, 54, 57, 59, 62, 67, 70, 74, 78, 83, 90, 96, 101, 105,
    110, 118, 128, 138, 145, 151, 157, 165, 170, 181, 187, 201, 208, 220, 231, 250, 260, 271, 285, 297, 309, 316, 331,
    341, 352, 370, 381, 394, 403, 416, 431, 441, 462, 488, 523, 583,
)  # fmt: skip
SPARE = 1.05  # documents drawn for each that is needed: packers do not fill every row


class Setting(NamedTuple):
    """See the module."""

    label: str
    batch: int
    accum: int
    seq: int
    steps: int
    warmup: int
    documents: bool

    @property
    def tokens(self) -> int:
        """Of an optimizer step; with documents about so many."""
        return self.batch * self.accum * self.seq

    @property
    def facts(self) -> dict[str, Any]:
        """For the result's line."""
        named = {"setting": self.label, "batch": self.batch, "accum": self.accum, "seq": self.seq}
        return {**named, "documents": self.documents}


def parse_settings(text: str) -> list[Setting]:
    """Settings, with commas or plus signs between them.

    Raises:
        ValueError: one that does not read like the module says.
    """
    found = []
    for label in re.split(r"[,+]", text):
        match = re.fullmatch(r"b(\d+)a(\d+)s(\d+)n(\d+)w(\d+)(p?)", label)
        if match is None:
            raise ValueError(f"setting {label!r}; expected something like b8a1s2048n8w3 or b8a1s2048n10w4p")
        *numbers, documents = match.groups()
        found.append(Setting(label, *map(int, numbers), bool(documents)))
    return found


def texts_of(setting: Setting, folder: str | Path, tokenizer: Any) -> list[str]:
    """The texts of one setting; they depend on the setting and on the checkpoint's word list only."""
    words, draw = (Path(folder) / "words.txt").read_text().split("\n"), random.Random(setting.label)
    if not setting.documents:
        count = setting.steps * setting.accum * setting.batch
        return [" ".join(draw.choices(words, k=setting.seq)) for _ in range(count)]
    sizes = dict(zip(words, tokens_of((f" {word}" for word in words), tokenizer), strict=True))
    texts, left = [], SPARE * setting.tokens * setting.steps
    while left > 0:
        length = draw.choice(DOCUMENT_LENGTHS)
        texts.append(_text(words, sizes, length - 2, draw))  # begin and end of the text are two more
        left -= length
    return texts


def _text(words: Sequence[str], sizes: dict[str, int], tokens: int, draw: random.Random) -> str:
    """Words of so many tokens; the last word may go over it."""
    found: list[str] = []
    while tokens > 0:
        found.append(draw.choice(words))
        tokens -= sizes[found[-1]]
    return " ".join(found)


def tokens_of(texts: Iterable[str], tokenizer: Any) -> list[int]:
    """Tokens of each text, without a beginning or an end."""
    return [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


@cache
def full_rows(setting: Setting, folder: str, tokenizer: Any) -> list[list[int]]:
    """Token ids of rows of one length, as a trainer cuts them."""
    return [ids[: setting.seq] for ids in tokenizer(texts_of(setting, folder, tokenizer))["input_ids"]]


@cache
def document_rows(setting: Setting, folder: str, tokenizer: Any) -> list[list[int]]:
    """Token ids of documents, with begin and end."""
    end = tokenizer.eos_token_id
    return [[*ids, end] for ids in tokenizer(texts_of(setting, folder, tokenizer))["input_ids"]]
