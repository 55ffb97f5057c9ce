"""A language model as judge, over any OpenAI-compatible address.

Judges favour the answer that stands first (Zheng et al. 2023, arXiv:2306.05685): each pair is asked in both orders, and
only two equal opinions count; all else is a tie. Verdicts are written as they come and asked for once.
"""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import DataError
from whet.evaluate.answers import Store, key_of

KEY_VARIABLE = "OPENAI_API_KEY"  # what clients of such servers read
TIMEOUT_S = 120.0
TRIES = 4
WAIT_S = 2.0  # before the second try; doubled each time
WORKERS = 4  # questions that wait for an answer at the same time
TEMPORARY = {408, 409, 425, 429, 500, 502, 503, 504}

SYSTEM = (
    "You compare two answers to the same request. Judge only which answer serves the person better: correct, complete, "
    "to the point. Do not favour the longer answer or the one that stands first. "
    "End with one line that holds only A, B or TIE."
)
QUESTION = """Request:
{prompt}
{reference}
Answer A:
{a}

Answer B:
{b}

Which answer is better? End with one line: A, B or TIE."""
_VERDICT = re.compile(r"\b(A|B|TIE)\b")


@dataclass(frozen=True)
class Pair:
    """A prompt with two answers, and what is expected ("" where nobody knows)."""

    prompt: str
    first: str
    second: str
    expected: str = ""


class Judge:
    """Opinions of a model on pairs of answers.

    Args:
        url: of the server, with or without ``/v1`` or ``/chat/completions``.
        model: its name there.
        key: None takes the variable that clients of such servers read, where it is set. It is never written anywhere.
        path: where verdicts are kept.
    """

    def __init__(self, url: str, model: str, path: Path, key: str | None = None) -> None:
        self.address = address_of(url)
        self.model = model
        self.store = Store(path)
        self._key = key or os.environ.get(KEY_VARIABLE) or ""

    def opinions(self, pairs: list[Pair], on_done: Callable[[int], None] | None = None) -> list[float]:
        """1.0 where the second answer is better in both orders, 0.0 where the first is, else 0.5.

        Raises:
            DataError: the server refuses, or does not answer.
        """
        wanted = {self._name(pair): pair for pair in pairs if pair.first != pair.second}
        missing = {key: pair for key, pair in wanted.items() if key not in self.store.known}
        with ThreadPoolExecutor(WORKERS) as pool:
            try:
                for key, found in pool.map(lambda item: (item[0], self._both(item[1])), missing.items()):
                    self.store.add(key, in_order=found[0], reversed=found[1])
                    if on_done is not None:
                        on_done(1)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return [self._opinion(pair) for pair in pairs]

    def _opinion(self, pair: Pair) -> float:
        if pair.first == pair.second:
            return 0.5
        line = self.store.known[self._name(pair)]
        votes = (line["in_order"], {"A": "B", "B": "A"}.get(line["reversed"], line["reversed"]))
        return {("A", "A"): 0.0, ("B", "B"): 1.0}.get(votes, 0.5)

    def _name(self, pair: Pair) -> str:
        return key_of(self.address, self.model, SYSTEM, pair.prompt, pair.first, pair.second, pair.expected)

    def _both(self, pair: Pair) -> tuple[str, str]:
        return self._ask(pair, pair.first, pair.second), self._ask(pair, pair.second, pair.first)

    def _ask(self, pair: Pair, a: str, b: str) -> str:
        reference = f"\nA right answer, for reference:\n{pair.expected}\n" if pair.expected else ""
        text = QUESTION.format(prompt=pair.prompt, reference=reference, a=a, b=b)
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
        reply = self._post({"model": self.model, "messages": messages, "temperature": 0, "max_tokens": 512})
        return verdict_in(reply)

    def _post(self, body: dict[str, Any]) -> str:
        wait = WAIT_S
        for left in reversed(range(TRIES)):
            try:
                return _content(self._once(body))
            except urllib.error.HTTPError as error:
                if error.code not in TEMPORARY or not left:
                    raise self._refused(f"{error.code} {error.reason}: {_said(error)}") from error
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                if not left:
                    raise self._refused(f"{type(error).__name__}: {error}") from error
            time.sleep(wait)
            wait *= 2
        raise AssertionError("not reached")

    def _once(self, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        request = urllib.request.Request(self.address, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            found: dict[str, Any] = json.load(response)
            return found

    def _refused(self, what: str) -> DataError:
        return DataError(
            f"the judge at {self.address} gave no opinion: {what[:300]}",
            "a server that answers POST /v1/chat/completions",
            f"check --judge, --judge-model and the key (--judge-key, {KEY_VARIABLE}); what was judged so far is kept",
        )


def address_of(url: str) -> str:
    """The address of chat completions.

    Raises:
        DataError: no http address.
    """
    if not re.match(r"https?://[^/\s]+", url):
        raise DataError(f"--judge {url}", "an address such as http://127.0.0.1:8000/v1")
    bare = url.rstrip("/")
    if bare.endswith("/chat/completions"):
        return bare
    return f"{bare}/chat/completions" if re.search(r"/v\d+\w*$", bare) else f"{bare}/v1/chat/completions"


def verdict_in(reply: str) -> str:
    """The last "A", "B" or "TIE" of a reply; TIE where there is none."""
    lines = [line for line in reply.strip().splitlines() if line.strip()]
    found = _VERDICT.findall(lines[-1].upper()) if lines else []
    return str(found[-1]) if found else "TIE"


def _content(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"] or "")


def _said(error: urllib.error.HTTPError) -> str:
    try:
        return " ".join(error.read(500).decode("utf-8", "replace").split())
    except OSError:
        return ""
