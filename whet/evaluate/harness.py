"""``whet eval``: tasks of lm-eval (EleutherAI's evaluation harness, extra ``eval``) on a run, before and after.

The model is loaded once, as ``whet compare`` loads it, and handed over; with ``before`` the same load answers without
its adapters. A task is a name of lm-eval's, or a YAML file of one's own whose data may lie beside it: then nothing is
fetched. Requests that were answered are kept, so that a run that was stopped goes on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from whet import runtime
from whet.console import notice, table, write_json_atomic, write_text_atomic
from whet.errors import DataError, MissingDependency
from whet.evaluate.contenders import Contender, contenders_of, fingerprint, loaded, one_load, single, tokenizer_of
from whet.evaluate.generate import evaluating
from whet.evaluate.paired import paired_bootstrap
from whet.evaluate.prompts import context_limit
from whet.export.adapter import run_folder_of

FOLDER = "eval"  # of a run, for results
YAML = (".yaml", ".yml")
LONGEST_NAME = 80
BOOTSTRAP = 1_000  # resamples for standard errors of metrics that are no mean; 100,000 take minutes
PLAIN = {"doc_id"}  # numbers of a sample that measure nothing


@dataclass(frozen=True)
class Figure:
    """One metric of one task. ``error`` is its standard error, None where lm-eval gives none."""

    task: str
    metric: str
    value: float
    error: float | None


@dataclass(frozen=True)
class EvalReport:
    """Figures of each model by its name, in the order of evaluation.

    Attributes:
        changes: by (task, metric) the difference from the first to the last model, with its paired 95% interval.
        path: where the figures were written.
    """

    figures: dict[str, list[Figure]]
    changes: dict[tuple[str, str], tuple[float, float, float]]
    path: Path

    def print(self) -> None:
        """A table on stdout."""
        names = list(self.figures)
        rows: dict[tuple[str, str], list[str]] = {}
        for place, name in enumerate(names):
            for figure in self.figures[name]:
                cells = rows.setdefault((figure.task, figure.metric), ["-"] * len(names))
                cells[place] = f"{figure.value:.4g}" + (f" ± {figure.error:.2g}" if figure.error is not None else "")
        heads = ["task", "metric", *names] + (["change (95% interval)"] if len(names) > 1 else [])
        table(heads, [[*key, *cells, *self._change(key)][: len(heads)] for key, cells in rows.items()])
        print(self.path)

    def _change(self, key: tuple[str, str]) -> list[str]:
        if key not in self.changes:
            return [""]
        value, low, high = self.changes[key]
        return [f"{value:+.4g} ({low:+.4g} to {high:+.4g})"]


def evaluate(
    path: str,
    tasks: Sequence[str],
    *,
    before: bool = False,
    shots: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    chat: bool = False,
    out: Path | None = None,
) -> EvalReport:
    """Run tasks of lm-eval.

    Args:
        tasks: names, or YAML files.
        before: on the model that it was trained from, too.
        shots: examples in each prompt; None: as the task says.
        limit: questions of each task; None: all.
        chat: put the prompts in the chat template.
        out: folder of the results; None: ``RUN/eval``, else ``./whet-eval``.

    Raises:
        MissingDependency: lm-eval is not installed.
        DataError: no such task, or a task whose data is not to be had.
    """
    if not runtime.installed("lm_eval"):
        raise MissingDependency("lm-eval is not installed", fix="pip install 'whet[eval]'")
    contenders, run = _models(path, before)
    folder = out or (run / FOLDER if run is not None else Path(f"whet-{FOLDER}"))
    specs = [_spec(task) for task in tasks]
    settings = {"shots": shots, "limit": limit, "chat": chat, "batch_size": batch_size}
    found: dict[str, dict[str, Any]] = {}
    for group in one_load(contenders):
        with loaded(group) as model:
            for contender in group:
                with model(contender) as ready, evaluating(ready):
                    notice(f"{contender.name}: {', '.join(tasks)}")
                    found[contender.name] = _run(ready, contender, specs, settings, folder)
    ordered = {contender.name: found[contender.name] for contender in contenders}
    figures = {name: _figures(result) for name, result in ordered.items()}
    report = EvalReport(figures, _changes(list(ordered.values())), folder / f"{_file_name(tasks)}.json")
    _write(report, ordered, list(tasks), settings)
    return report


def _models(path: str, before: bool) -> tuple[list[Contender], Path | None]:
    if before:
        field = contenders_of([path])
        return field.contenders, field.run
    run = run_folder_of(path)
    return [single(path)], run


def _spec(task: str) -> str | dict[str, Any]:
    """A task as lm-eval takes it: its name, or the file; relative data files are found beside the file.

    Raises:
        DataError: no such file.
    """
    file = Path(task).expanduser()
    if file.suffix not in YAML:
        return task
    if not file.is_file():
        raise DataError(f"--tasks: no file {task}", "a YAML file of lm-eval's form, or the name of a task")
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return str(file.resolve())  # tags such as !function: lm-eval reads them, and its paths are from here
    if not isinstance(config, dict) or "include" in config:
        return str(file.resolve())
    kwargs = config.get("dataset_kwargs")
    if isinstance(kwargs, dict) and "data_files" in kwargs:
        config["dataset_kwargs"] = {**kwargs, "data_files": _beside(kwargs["data_files"], file.parent)}
    return config


def _beside(value: Any, folder: Path) -> Any:
    """Paths that are not here, from the folder of the task."""
    if isinstance(value, dict):
        return {key: _beside(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_beside(item, folder) for item in value]
    if isinstance(value, str) and not Path(value).exists() and (folder / value).exists():
        return str((folder / value).resolve())
    return value


def _run(
    model: Any, contender: Contender, specs: Sequence[Any], settings: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """What lm-eval finds."""
    with _quiet():
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        tokenizer = tokenizer_of(contender)
        wrapped = HFLM(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=settings["batch_size"],
            max_length=context_limit(model, tokenizer),
        )
        cache = folder / "cache"
        cache.mkdir(parents=True, exist_ok=True)
        try:
            found = simple_evaluate(
                model=wrapped,
                tasks=[dict(spec) if isinstance(spec, dict) else spec for spec in specs],
                num_fewshot=settings["shots"],
                limit=settings["limit"],
                apply_chat_template=settings["chat"],
                task_manager=TaskManager(include_defaults=not all(isinstance(spec, dict) for spec in specs)),
                use_cache=str(cache / fingerprint(contender)),
                bootstrap_iters=BOOTSTRAP,
            )
        except (KeyError, ValueError, OSError, ImportError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"lm-eval: {said[:400]}", "tasks that it knows, with data that can be had") from error
    assert found is not None
    return dict(found)


def _figures(result: Mapping[str, Any]) -> list[Figure]:
    figures = []
    for task, values in result["results"].items():
        for key, value in values.items():
            metric, _, way = str(key).partition(",")
            if not way or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = values.get(f"{metric}_stderr,{way}")
            shown = metric if way == "none" else f"{metric} ({way})"
            known = isinstance(error, int | float) and math.isfinite(error)
            figures.append(Figure(task, shown, float(value), float(error) if known else None))
    return figures


def _changes(results: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Differences of metrics that every question has a number of; the questions are the pairs."""
    if len(results) < 2:
        return {}
    found = {}
    for task, rows in results[0].get("samples", {}).items():
        others = results[-1]["samples"][task]
        for name in rows[0] if rows else ():
            pairs = [(row.get(name), other.get(name)) for row, other in zip(rows, others, strict=True)]
            if name in PLAIN or not all(isinstance(value, int | float) for pair in pairs for value in pair):
                continue
            way = rows[0].get("filter", "none")
            first, second = (np.array(side, dtype=np.float64) for side in zip(*pairs, strict=True))
            part = paired_bootstrap(first, second).difference
            found[task, name if way == "none" else f"{name} ({way})"] = (part.value, part.low, part.high)
    return found


def _write(
    report: EvalReport, results: Mapping[str, Mapping[str, Any]], tasks: list[str], settings: Mapping[str, Any]
) -> None:
    lines = []
    for name, result in results.items():
        for task, rows in result.get("samples", {}).items():
            for row in rows:
                kept = {key: row.get(key) for key in ("doc_id", "doc", "target", "filtered_resps", "filter")}
                numbers = {
                    key: value for key, value in row.items() if key not in PLAIN and isinstance(value, int | float)
                }
                lines.append(json.dumps({"model": name, "task": task, **kept, **numbers}, default=str))
    write_text_atomic(report.path.with_suffix(".samples.jsonl"), "\n".join(lines) + "\n" if lines else "")
    changes = [
        {"task": task, "metric": metric, "difference": value, "interval": [low, high]}
        for (task, metric), (value, low, high) in report.changes.items()
    ]
    write_json_atomic(
        report.path,
        {
            "tasks": tasks,
            "settings": dict(settings),
            "models": {name: [vars(figure) for figure in figures] for name, figures in report.figures.items()},
            "changes": changes,
            "samples": {task: counts for result in results.values() for task, counts in result["n-samples"].items()},
            "versions": {**runtime.versions(), "lm_eval": _version()},
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        },
    )


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """What a sample measured."""
    return {key: value for key, value in row.items() if key not in PLAIN and isinstance(value, int | float)}


def _version() -> str:
    from importlib.metadata import version

    return version("lm_eval")


def _file_name(tasks: Sequence[str]) -> str:
    stems = [Path(task).stem if task.endswith(YAML) else task for task in tasks]
    return re.sub(r"[^\w.-]+", "_", "+".join(stems))[:LONGEST_NAME]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval's log without what it says of every step and default."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
