"""The measures of a comparison by name, and which of them a set of rows calls for."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from whet.console import notice
from whet.errors import DataError
from whet.evaluate.answers import Answer, Likelihood
from whet.evaluate.examples import Example
from whet.evaluate.tasks.match import (
    exact,
    is_json,
    labels_of,
    normalised_match,
    pattern_of,
    regex_match,
    same_json,
)
from whet.evaluate.tasks.sql import execution_match, run_query

NAMES = ("exact", "normalised", "label", "sql", "json", "same_json", "regex", "preference", "perplexity", "ended",
         "length", "judge")  # fmt: skip
SHORT = 200  # characters of the median expected answer up to which an exact match can be hoped for
SHARE = 0.9  # of the expected answers that must be SQL, or JSON, for the rows to count as such
DATABASES = ("*.db", "*.sqlite", "*.sqlite3")
_SQL = re.compile(r"\s*(select|with|insert|update|delete|create)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Said:
    """What a model made of one row: its answer, and how likely it finds the given ones."""

    answer: Answer
    expected: Likelihood | None = None
    rejected: Likelihood | None = None


Score = Callable[[Example, Said], float | None]


@dataclass(frozen=True)
class Metric:
    """One measure.

    Attributes:
        name: as ``--metrics`` names it.
        title: as tables show it.
        kind: "share" (0 to 1), "mean" (of a number), or "perplexity" (exp of a mean over tokens, nats).
        better: which way is better; "" where neither is.
        why: why it was chosen, a clause.
        score: of one row, None where it does not apply. None: the judge, who sees all answers of a row.
        labels: of label accuracy, the closed set.
    """

    name: str
    title: str
    kind: Literal["share", "mean", "perplexity"]
    better: Literal["higher", "lower", ""]
    why: str
    score: Score | None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wishes:
    """What the user named: metrics by name, a database for SQL, a regular expression, whether there is a judge."""

    names: tuple[str, ...] = ()
    database: Path | None = None
    regex: str | None = None
    judge: bool = False


def choose(examples: Sequence[Example], wishes: Wishes, source: Path | None = None) -> list[Metric]:
    """The metrics for these rows; the first one is what the verdict speaks of.

    Args:
        source: the file of the rows; a single database beside it is used for SQL.

    Raises:
        DataError: an unknown name, or a metric that these rows or options do not allow.
    """
    unknown = [name for name in wishes.names if name not in NAMES]
    if unknown:
        from whet.config.nearest import did_you_mean

        raise DataError(
            f'--metrics: there is no "{unknown[0]}"', f"one of {', '.join(NAMES)}", did_you_mean(unknown[0], NAMES)
        )
    found = _by_name(examples, wishes, _database(wishes, examples, source))
    if not wishes.names:
        return [metric for metric in found.values() if metric.why]
    chosen = []
    for name in wishes.names:
        if name not in found:
            raise DataError(
                f"--metrics {name}: {_lacking(name)}", "a metric that the rows allow", f"these do: {', '.join(found)}"
            )
        chosen.append(found[name])
    return chosen


def _by_name(examples: Sequence[Example], wishes: Wishes, database: Path | None) -> dict[str, Metric]:
    """All that is possible, in the order in which a verdict prefers them; ``why`` is "" where it was not called for."""
    golds = [text for example in examples if (text := example.expected_text) is not None]
    found: list[Metric] = []
    if wishes.judge:
        found.append(Metric("judge", "preferred by the judge", "share", "higher", "a judge was named", None))
    if wishes.regex is not None:
        found.append(_regex(wishes.regex))
    if any(example.rejected and example.expected for example in examples):
        why = "the rows have chosen and rejected answers"
        found.append(Metric("preference", "preference accuracy", "share", "higher", why, _preference))
    if golds:
        found += _of_expected(golds, database)
    found.append(Metric("ended", "answers that end by themselves", "share", "higher", "always shown", _ended))
    found.append(Metric("length", "tokens of an answer", "mean", "", "always shown", _length))
    return {metric.name: metric for metric in found}


def _of_expected(golds: Sequence[str], database: Path | None) -> list[Metric]:
    """Metrics that compare with expected answers."""
    found: list[Metric] = []
    is_sql = sum(_SQL.match(text) is not None for text in golds) >= SHARE * len(golds)
    labels = labels_of(golds)
    short = statistics.median(map(len, golds)) <= SHORT
    run = is_sql and database is not None
    if database is not None:
        why = f"the expected answers are SQL, run on {database.name}" if is_sql else ""
        found.append(_share("sql", "SQL that gives the right rows", why, _sql(database)))
    elif is_sql:
        notice("the expected answers are SQL: with --database FILE (SQLite) they are run, which tells more than text")
    if labels is not None:
        why = f"the expected answers are {len(labels)} short texts"
        found.append(replace(_share("label", "label accuracy", why, _same(normalised_match)), labels=tuple(labels)))
    found += _json_metrics(golds)
    why = "the expected answers are short" if short else ""
    matched = _share("normalised", "normalised match", "" if run or labels else why, _same(normalised_match))
    title = "perplexity of the expected answers"
    likely = Metric("perplexity", title, "perplexity", "lower", "expected answers are given", _nats)
    return [
        *found,
        *([matched, likely] if short else [likely, matched]),
        _share("exact", "exact match", why, _same(exact)),
    ]


def _share(name: str, title: str, why: str, score: Score | None) -> Metric:
    return Metric(name, title, "share", "higher", why, score)


def _json_metrics(golds: Sequence[str]) -> list[Metric]:
    why, found = "", []
    if all(is_json(text) for text in golds):
        objects = sum(text.strip()[:1] in ("{", "[") for text in golds) >= SHARE * len(golds)
        why = "the expected answers are JSON" if objects else ""
        found.append(_share("same_json", "the same JSON", why, _same(same_json)))
    return [*found, _share("json", "valid JSON", why, lambda _, said: float(is_json(said.answer.text)))]


def _regex(text: str) -> Metric:
    pattern = pattern_of(text)
    title = f"matches {text}"

    def score(example: Example, said: Said) -> float | None:
        return float(regex_match(pattern, said.answer.text, example.expected_text))

    return Metric("regex", title, "share", "higher", "--regex was given", score)


def _sql(database: Path) -> Score:
    def score(example: Example, said: Said) -> float | None:
        gold = example.expected_text
        return None if gold is None else float(execution_match(database, gold, said.answer.text))

    return score


def _same(match: Callable[[str, str], bool]) -> Score:
    def score(example: Example, said: Said) -> float | None:
        gold = example.expected_text
        return None if gold is None else float(match(said.answer.text, gold))

    return score


def _preference(_: Example, said: Said) -> float | None:
    """Whether the chosen answer is the more likely one, by token."""
    if said.expected is None or said.rejected is None:
        return None
    return float(said.expected.by_token > said.rejected.by_token)


def _nats(_: Example, said: Said) -> float | None:
    """Nats of a token of the expected answer."""
    return None if said.expected is None else -said.expected.by_token


def _ended(_: Example, said: Said) -> float | None:
    return float(said.answer.ended)


def _length(_: Example, said: Said) -> float | None:
    return float(said.answer.tokens)


def _database(wishes: Wishes, examples: Sequence[Example], source: Path | None) -> Path | None:
    if wishes.database is not None:
        if not wishes.database.is_file():
            raise DataError(f"--database: no file {wishes.database}", "an SQLite database")
        return wishes.database
    if source is None:
        return None
    beside = sorted({file for pattern in DATABASES for file in source.parent.glob(pattern)})
    golds = [text for example in examples if (text := example.expected_text) is not None]
    if len(beside) != 1 or not golds or not all(_SQL.match(text) for text in golds):
        return None
    try:
        for text in golds:
            run_query(beside[0], text)
    except DataError as error:
        notice(f"{beside[0].name} lies beside the rows, but not all expected answers run on it ({error.given})")
        return None
    return beside[0]


def _lacking(name: str) -> str:
    return {
        "judge": "no judge is named (--judge URL)",
        "regex": "no --regex is given",
        "sql": "no database is given (--database FILE)",
        "label": "the expected answers are no closed set of short texts",
        "same_json": "not all expected answers are JSON",
        "preference": "the rows have no chosen and rejected answers",
    }.get(name, "the rows have no expected answers")
