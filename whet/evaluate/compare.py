"""``whet compare``: the same prompts to several models at temperature 0, their answers measured, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from whet import runtime
from whet.console import Progress, notice
from whet.errors import DataError
from whet.evaluate.answers import Asked, Store
from whet.evaluate.contenders import (
    Contender,
    Field,
    contenders_of,
    fingerprint,
    loaded,
    one_load,
    single,
    tokenizer_of,
)
from whet.evaluate.examples import Example
from whet.evaluate.heldout import Questions, rows_of_file, rows_of_run
from whet.evaluate.metrics import Metric, Said, Wishes, choose
from whet.evaluate.results import Comparison
from whet.evaluate.tasks.judge import Judge, Pair

FOLDER = "compare"  # of a run, for what a comparison writes
FEWEST, MOST = 32, 512  # tokens of the longest answer, where nobody says it
UNKNOWN = 256  # the same where nothing is expected
SPARE = 1.25  # times the longest expected answer


@dataclass(frozen=True)
class Options:
    """What can be asked of a comparison; None and "" mean: found from run and data.

    Attributes:
        data: a file of rows; None: the run's held-out rows.
        kind: the type of its rows, such as ``alpaca``.
        prompt, answer: a prompt out of columns (text, or a file of text), and the column of the expected answer.
        n: rows, evenly spaced over all; 0: all.
        max_new_tokens: the longest answer.
        judge: address, name, and key of a judge.
    """

    data: Path | None = None
    kind: str | None = None
    prompt: str | None = None
    answer: str | None = None
    n: int = 100
    max_new_tokens: int | None = None
    metrics: tuple[str, ...] = ()
    database: Path | None = None
    regex: str | None = None
    judge: str | None = None
    judge_model: str | None = None
    judge_key: str | None = field(default=None, repr=False)
    base: str | None = None
    checkpoints: str | None = None


@dataclass(frozen=True)
class CompareReport:
    """What was found, and the files that say so."""

    comparison: Comparison
    paths: list[Path]

    @property
    def verdict(self) -> str:
        """One plain sentence about the last model."""
        return self.comparison.verdict()

    def print(self) -> None:
        """Figures, remarks, verdict and paths on stdout."""
        from whet.evaluate.written import print_figures

        print_figures(self.comparison)
        for remark in self.comparison.remarks:
            print(remark)
        print(f"\n{self.verdict}")
        for path in self.paths:
            print(path)


def compare(paths: Sequence[str], options: Options, out: Path | None = None) -> tuple[Comparison, Path]:
    """Compare models with the one that the first was trained from.

    Args:
        paths: runs, adapters, checkpoints or models.
        out: where answers are kept and the report goes; None: ``RUN/compare``, else ``./whet-compare``.

    Returns:
        What was found, and the folder.

    Raises:
        WhetError: a bad model, file or option.
    """
    contenders = contenders_of(paths, options.base, options.checkpoints)
    folder = out or (contenders.run / FOLDER if contenders.run is not None else Path("whet-" + FOLDER))
    questions = questions_for(contenders, options)
    return compare_on(contenders, questions, options, folder), folder


def ask_ahead(path: str, examples: Sequence[Example], max_new_tokens: int, folder: Path) -> None:
    """Ask one model now; a later comparison in ``folder`` then finds its answers."""
    _ask([single(path)], examples, (), max_new_tokens, folder / "answers")


def questions_for(contenders: Field, options: Options) -> Questions:
    """The rows that ``options`` name, or the run's held-out ones."""
    if options.data is not None:
        prompt = options.prompt
        if prompt is not None and len(prompt) < 200 and "{" not in prompt and Path(prompt).is_file():
            prompt = Path(prompt).read_text(encoding="utf-8")
        return rows_of_file(
            options.data,
            options.n,
            config=contenders.config,
            kind=options.kind,
            prompt=prompt,
            answer=options.answer,
        )
    if options.kind or options.prompt or options.answer:
        raise DataError("--type, --prompt or --answer without --data", "--data FILE")
    if contenders.run is None or contenders.config is None:
        raise DataError("this model is no run with a config, so nothing is known of its rows", "--data FILE")
    tokenizer = tokenizer_of(contenders.contenders[-1])
    return rows_of_run(contenders.run, contenders.config, tokenizer, options.n)


def compare_on(contenders: Field, questions: Questions, options: Options, folder: Path) -> Comparison:
    """Ask all models, measure, and say what is to be said about the rows."""
    examples = questions.examples
    if options.judge is not None and not options.judge_model:
        raise DataError("--judge without --judge-model", "the name of the judging model at that address")
    wishes = Wishes(options.metrics, options.database, options.regex, options.judge is not None)
    metrics = choose(examples, wishes, questions.source)
    for metric in metrics:
        notice(f"metric: {metric.title} ({metric.why or 'asked for'})")
    parts = _parts(metrics)
    limit = options.max_new_tokens or _longest(examples, tokenizer_of(contenders.contenders[-1]))
    said: dict[str, list[Said]] = {}
    for group in one_load(contenders.contenders):
        said |= _ask(group, examples, parts, limit, folder / "answers")
    answers = [said[contender.name] for contender in contenders.contenders]
    results = {metric.name: _scored(metric, examples, answers) for metric in metrics if metric.score is not None}
    if options.judge is not None and any(metric.name == "judge" for metric in metrics):
        results["judge"] = _judged(options, examples, answers, folder)
    names = [contender.name for contender in contenders.contenders]
    return Comparison(
        names,
        examples,
        metrics,
        answers,
        results,
        {"perplexity": _tokens(answers)} if any(metric.name == "perplexity" for metric in metrics) else {},
        _facts(contenders.contenders, questions, limit),
        _remarks(questions, answers, contenders.contenders, limit),
        title=f"{names[-1]} beside {names[0]}",
    )


def _parts(metrics: Sequence[Metric]) -> list[str]:
    """Which given answers have to be weighed."""
    names = {metric.name for metric in metrics}
    return ["expected", "rejected"] if "preference" in names else ["expected"] if "perplexity" in names else []


def _longest(examples: Sequence[Example], tokenizer: Any) -> int:
    golds = [text for example in examples if (text := example.expected_text)]
    if not golds:
        return UNKNOWN
    longest = max(len(ids) for ids in tokenizer(golds, add_special_tokens=False)["input_ids"])
    return min(MOST, max(FEWEST, math.ceil(SPARE * longest)))


def _ask(
    group: Sequence[Contender], examples: Sequence[Example], parts: Sequence[str], limit: int, folder: Path
) -> dict[str, list[Said]]:
    """The answers of contenders of one load; nothing is loaded where all of them are known."""
    asked: list[tuple[Contender, Asked]] = []
    for contender in group:
        store = Store(folder / f"{fingerprint(contender)}.jsonl")
        questions = Asked(tokenizer_of(contender), examples, store, limit)
        questions.expect(examples, parts)
        asked.append((contender, questions))
    open_ones = [(contender, questions) for contender, questions in asked if questions.missing]
    for contender, questions in asked:
        if not questions.missing:
            notice(f"{contender.name}: its answers are known from before")
    if open_ones:
        with loaded([contender for contender, _ in open_ones]) as model:
            for contender, questions in open_ones:
                with model(contender) as ready:
                    questions.make(ready, contender.name)
    found = {}
    for contender, questions in asked:
        likely = {part: questions.likelihoods(part, len(examples)) for part in ("expected", "rejected")}
        rows = zip(questions.answers(), likely["expected"], likely["rejected"], strict=True)
        found[contender.name] = [Said(answer, expected, rejected) for answer, expected, rejected in rows]
    return found


def _scored(metric: Metric, examples: Sequence[Example], answers: Sequence[Sequence[Said]]) -> np.ndarray:
    assert metric.score is not None
    rows = [[metric.score(example, said) for example, said in zip(examples, each, strict=True)] for each in answers]
    return np.array([[math.nan if value is None else value for value in row] for row in rows], dtype=np.float64)


def _tokens(answers: Sequence[Sequence[Said]]) -> np.ndarray:
    """Tokens of the expected answers, by which a perplexity weighs its rows."""
    return np.array(
        [[said.expected.tokens if said.expected else 0 for said in each] for each in answers], dtype=np.float64
    )


def _judged(
    options: Options, examples: Sequence[Example], answers: Sequence[Sequence[Said]], folder: Path
) -> np.ndarray:
    """The judge's opinion of each model's answer beside the first model's; the first beside itself is 0.5."""
    judge = Judge(options.judge or "", options.judge_model or "", folder / "judge.jsonl", options.judge_key)
    notice(f"prompts and answers are sent to {judge.address} to be judged")
    results = np.full((len(answers), len(examples)), 0.5)
    for m in range(1, len(answers)):
        pairs = [
            Pair(example.prompt_text, first.answer.text, second.answer.text, example.expected_text or "")
            for example, first, second in zip(examples, answers[0], answers[m], strict=True)
        ]
        with Progress("judging", len(pairs), "rows") as progress:
            results[m] = judge.opinions(pairs, lambda n: progress.advance(n))
    return results


def _facts(contenders: Sequence[Contender], questions: Questions, limit: int) -> dict[str, str]:
    count, total = len(questions.examples), questions.total
    versions = runtime.versions()
    named = [f"{name} {versions[name]}" for name in ("whet", "torch", "transformers") if name in versions]
    return {
        **{each.name: each.path for each in contenders},
        "rows": f"{f'{count:,} of {total:,}' if count < total else f'{count:,}'}: {questions.what}",
        "answers": f"temperature 0, at most {limit} tokens",
        "computed in": f"{str(runtime.weight_dtype().dtype).removeprefix('torch.')} on {runtime.device().type}",
        "versions": ", ".join(named),
    }


def _remarks(
    questions: Questions, answers: Sequence[Sequence[Said]], contenders: Sequence[Contender], limit: int
) -> list[str]:
    remarks = []
    if questions.trained:
        remarks.append(f"These are {questions.what}.")
    if len({contender.place.tokenizer for contender in contenders}) > 1:
        remarks.append("The models have different tokens: perplexities and numbers of tokens cannot be compared.")
    for contender, each in zip(contenders, answers, strict=True):
        cut = sum(not said.answer.ended for said in each)
        if cut:
            remarks.append(
                f"{cut:,} of {len(each):,} answers of {contender.name} did not end within {limit} tokens and were cut."
            )
    return remarks
