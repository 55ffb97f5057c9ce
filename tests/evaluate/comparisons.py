"""Comparisons made by hand, for tests of statistics, pages and files."""

from __future__ import annotations

import math

import numpy as np

from whet.evaluate.answers import Answer
from whet.evaluate.examples import Example
from whet.evaluate.metrics import Said, Wishes, choose
from whet.evaluate.results import Comparison


def made(rows: list[tuple[str, str, list[str]]], names: list[str] | None = None, **wishes) -> Comparison:
    """Rows of (prompt, expected or "", answers of all models)."""
    examples = [
        Example(
            ({"role": "user", "content": prompt},),
            ({"role": "assistant", "content": expected},) if expected else (),
            number=i + 1,
        )
        for i, (prompt, expected, _) in enumerate(rows)
    ]
    count = len(rows[0][2])
    said = [[Said(Answer(answers[m], len(answers[m].split()), True)) for *_, answers in rows] for m in range(count)]
    metrics = [metric for metric in choose(examples, Wishes(**wishes)) if metric.name != "perplexity"]
    results = {
        metric.name: np.array(
            [
                [math.nan if (v := metric.score(e, s)) is None else v for e, s in zip(examples, each, strict=True)]
                for each in said
            ]
        )
        for metric in metrics
    }
    found = names or ["base", *(f"tuned{m}" for m in range(1, count))]
    return Comparison(found, examples, metrics, said, results, title=f"{found[-1]} beside {found[0]}")
