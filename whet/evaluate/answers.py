"""Answers and likelihoods of one model, kept on disk as they are made.

One JSON object a line, in a file of the model's fingerprint: a comparison that was stopped goes on where it stood, and
the next one with the same model and prompts loads no model at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.console import MetricsLog, Progress
from whet.evaluate.examples import Example, Messages, prompt_ids
from whet.text.encode import Encoded

AT_ONCE = 64  # answers that are made, and lost at a kill, together


@dataclass(frozen=True)
class Answer:
    """What a model says.

    Attributes:
        tokens: of the answer, terminator not counted.
        ended: whether it ended by itself, not at the limit.
    """

    text: str
    tokens: int
    ended: bool


@dataclass(frozen=True)
class Likelihood:
    """``logprob`` (nats) of a given answer of ``tokens`` tokens, terminator included."""

    logprob: float
    tokens: int

    @property
    def by_token(self) -> float:
        """Mean log-probability of a token."""
        return self.logprob / max(self.tokens, 1)


class Store:
    """Lines of one model's file, by key.

    Args:
        path: read where it is there; a last line that was cut off by a kill is left out.
    """

    def __init__(self, path: Path) -> None:
        self.log = MetricsLog(path)
        self.known: dict[str, dict[str, Any]] = {}
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            for line in text.split("\n"):
                entry = _parsed(line)
                if entry is not None:
                    self.known[entry["key"]] = entry
            if text and not text.endswith("\n"):
                with path.open("a", encoding="utf-8") as file:
                    file.write("\n")

    def add(self, key: str, **fields: Any) -> None:
        """Remember and write."""
        self.known[key] = {"key": key, **fields}
        self.log.write(key=key, **fields)


def key_of(*parts: Any) -> str:
    """A short name of a prompt, or of a text."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=12).hexdigest()


class Asked:
    """The questions for one model: what is known already, and what has to be made.

    Args:
        tokenizer: of the model.
        store: its file.
        max_new_tokens: the longest answer.
    """

    def __init__(self, tokenizer: Any, examples: Sequence[Example], store: Store, max_new_tokens: int) -> None:
        self.tokenizer, self.store, self.max_new_tokens = tokenizer, store, max_new_tokens
        self.prompts = [prompt_ids(tokenizer, example) for example in examples]
        self.keys = [key_of("answer", ids, max_new_tokens) for ids in self.prompts]
        self.texts: dict[str, Encoded] = {}
        self.text_keys: dict[tuple[int, str], str] = {}

    def expect(self, examples: Sequence[Example], parts: Sequence[str]) -> None:
        """Ask for the likelihood of each example's ``expected`` or ``rejected`` answer too."""
        from whet.data.tokens import RecordEncoder

        encode = RecordEncoder(self.tokenizer)
        for part in parts:
            wanted: list[tuple[int, Messages]] = [
                (i, getattr(example, part)) for i, example in enumerate(examples) if getattr(example, part)
            ]
            if not wanted:
                continue
            rows = encode([examples[i].record(messages) for i, messages in wanted])
            for (i, _), row in zip(wanted, rows, strict=True):
                key = key_of("likelihood", row.ids, row.trained)
                self.texts[key] = row
                self.text_keys[i, part] = key

    @property
    def missing(self) -> int:
        """What has to be computed."""
        known = self.store.known
        return len({key for key in self.keys if key not in known}) + sum(key not in known for key in self.texts)

    def make(self, model: Any, title: str) -> None:
        """Compute what is missing."""
        self._answer(model, title)
        self._weigh(model, title)

    def answers(self) -> list[Answer]:
        """All answers, in order."""
        found = (self.store.known[key] for key in self.keys)
        return [Answer(line["text"], line["tokens"], line["ended"]) for line in found]

    def likelihoods(self, part: str, n: int) -> list[Likelihood | None]:
        """Of the expected or rejected answer of each of ``n`` examples."""
        keys = [self.text_keys.get((i, part)) for i in range(n)]
        found = [self.store.known[key] if key is not None else None for key in keys]
        return [None if line is None else Likelihood(line["logprob"], line["tokens"]) for line in found]

    def _answer(self, model: Any, title: str) -> None:
        from whet.evaluate.generate import greedy_ids
        from whet.evaluate.prompts import context_limit

        context = context_limit(model, self.tokenizer)
        room = self.max_new_tokens if context is None else min(self.max_new_tokens, context // 2)
        wanted = {key: ids for key, ids in zip(self.keys, self.prompts, strict=True) if key not in self.store.known}
        order = sorted(wanted, key=lambda key: -len(wanted[key]))
        if not order:
            return
        with Progress(f"{title}: answers", len(order), "rows") as progress:
            for start in range(0, len(order), AT_ONCE):
                keys = order[start : start + AT_ONCE]
                made = greedy_ids(model, self.tokenizer, [wanted[key] for key in keys], self.max_new_tokens)
                for key, ids in zip(keys, made, strict=True):
                    text = self.tokenizer.decode(ids, skip_special_tokens=True)
                    self.store.add(key, text=text, tokens=len(ids), ended=len(ids) < room)
                progress.advance(len(keys))

    def _weigh(self, model: Any, title: str) -> None:
        from whet.evaluate.likelihood import answer_logprobs
        from whet.evaluate.prompts import context_limit

        wanted = [key for key in self.texts if key not in self.store.known]
        if not wanted:
            return
        context = context_limit(model, self.tokenizer)
        with Progress(f"{title}: likelihoods", len(wanted), "texts") as progress:
            for start in range(0, len(wanted), AT_ONCE):
                keys = wanted[start : start + AT_ONCE]
                rows = [_fitted(self.texts[key], context) for key in keys]
                for key, row, value in zip(keys, rows, answer_logprobs(model, self.tokenizer, rows), strict=True):
                    self.store.add(key, logprob=value, tokens=sum(b - a for a, b in row.trained))
                progress.advance(len(keys))


def _fitted(row: Encoded, context: int | None) -> Encoded:
    """A text too long for the model loses its beginning."""
    cut = max(0, len(row.ids) - context) if context is not None else 0
    if not cut:
        return row
    spans = tuple((max(a - cut, 1), b - cut) for a, b in row.trained if b - cut > 1)
    return Encoded(row.ids[cut:], spans, row.literal)


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line) if line.strip() else None
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("key"), str) else None
