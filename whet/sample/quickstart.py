"""``whet quickstart``: the whole way on the sample task.

Starter model -> accuracy before -> LoRA training -> accuracy after -> merged model, GGUF, Modelfile -> proof in
llama.cpp -> one question answered by the GGUF, its SQL run on the database. The output folder is a run folder, so
``whet chat`` and ``whet export`` work on it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.config import RunConfig, parse_config
from whet.console import notice, table, write_json_atomic, write_text_atomic
from whet.errors import DataError
from whet.evaluate.tasks.sql import run_query
from whet.sample.rows import Row, database_path, heldout_rows, train_rows

if TYPE_CHECKING:
    from whet.evaluate.before_after import Comparison
    from whet.evaluate.heldout import Questions
    from whet.export.run import ProvedFile
    from whet.train.sft import RunResult

CONFIG = "quickstart.yml"
QUANT = "q8_0"
MAX_NEW_TOKENS = 96  # the longest gold query has 86 tokens
SHOWN_ROWS = 8
SHOWN_SAMPLES = 6
SEEN, UNSEEN = "phrasings seen in training", "new phrasings"


def run(out: Path | str) -> dict[str, Any]:
    """Do all of it and write everything into ``out``.

    Returns:
        What ``summary.json`` holds.

    Raises:
        OutputError: ``out`` cannot be written to.
        ProofFailed: the GGUF is not the trained model.
        Unproved: llama.cpp is missing here; everything else was written.
    """
    began = time.monotonic()
    out = Path(out)
    config = _config(out)
    from whet.evaluate.before_after import verdict
    from whet.evaluate.compare import FOLDER, ask_ahead
    from whet.export.run import export_run
    from whet.models.names import STARTER
    from whet.train.sft import run_sft

    rows = heldout_rows()
    _step(1, f"The starter model answers {len(rows)} questions about a company database.")
    ask_ahead(STARTER, _asked(rows).examples, MAX_NEW_TOKENS, out / FOLDER)
    _step(2, "It is trained on questions with their SQL (LoRA).")
    result = run_sft(config)
    if result.interrupted:
        raise KeyboardInterrupt
    _step(3, "The trained model answers the same questions.")
    comparison = _compare(out, rows)
    _show(comparison)
    _step(4, f"The merged model and a {QUANT} GGUF are written and compared in llama.cpp.")
    _merge(out)
    report = export_run(out, out / "gguf", [QUANT])
    report.print()
    file = report.files[0]
    answered = None
    if file.verdict is not None:
        _step(5, "The GGUF answers one question in llama.cpp; its SQL runs on the database.")
        question = next((case.question for case in comparison.cases if case.group == UNSEEN), rows[0].question)
        answered = _ask(file.path, question)
    summary = _summary(comparison, result, file) | {"answered": answered, "total_seconds": time.monotonic() - began}
    _write(out, summary, comparison)
    print(f"\n{verdict(comparison)}\nAll of it took {summary['total_seconds']:.0f} seconds. Next:")
    pages = "".join(f"  open {page}\n" for page in (out / "report.html", out / FOLDER / "compare.html"))
    print(f"{pages}  whet chat {out}\n  ollama create sample -f {file.modelfile}", flush=True)
    report.check()
    return summary


def _step(number: int, text: str) -> None:
    print(f"{number}/5  {text}", flush=True)


def _compare(out: Path, rows: Sequence[Row]) -> Comparison:
    """The answers before (they are known by now) and after; the report of ``whet compare`` is written."""
    from whet.evaluate.before_after import Case, compare_cases
    from whet.evaluate.compare import FOLDER, Options, compare_on
    from whet.evaluate.contenders import contenders_of
    from whet.evaluate.written import write_all

    options = Options(metrics=("sql", "ended", "length"), database=database_path(), max_new_tokens=MAX_NEW_TOKENS)
    found = compare_on(contenders_of([str(out)]), _asked(rows), options, out / FOLDER)
    write_all(found, out / FOLDER)
    right = found.results["sql"] > 0
    return compare_cases(
        [
            Case(
                example.prompt_text,
                example.expected_text or "",
                found.said[0][i].answer.text,
                found.said[1][i].answer.text,
                bool(right[0, i]),
                bool(right[1, i]),
                example.group,
            )
            for i, example in enumerate(found.examples)
        ]
    )


def _summary(comparison: Comparison, result: RunResult, file: ProvedFile) -> dict[str, Any]:
    """The figures of ``summary.json``."""
    return {
        "accuracy_before": comparison.accuracy_before,
        "accuracy_after": comparison.accuracy_after,
        "accuracy_after_interval": list(comparison.interval_after),
        "n_eval": len(comparison.cases),
        "by_group": {
            name: {"n": n, "accuracy_before": first, "accuracy_after": last}
            for name, (n, first, last) in comparison.by_group.items()
        },
        "train_seconds": result.seconds,
        "train_tokens": result.tokens,
        "train_tokens_per_second": result.tokens_per_second,
        "train_loss": result.loss,
        "gguf_path": str(file.path),
        "modelfile_path": str(file.modelfile),
        "verify": asdict(file.verdict) if file.verdict is not None else None,
    }


def _config(out: Path) -> RunConfig:
    """The shipped settings, with the sample's rows written beside the run as anybody would have them."""
    data = out / "data"
    for name, rows in (("train", train_rows()), ("heldout", heldout_rows())):
        lines = [json.dumps({"messages": _messages(row, answer=True)}, ensure_ascii=False) for row in rows]
        write_text_atomic(data / f"{name}.jsonl", "\n".join(lines) + "\n")
    shutil.copyfile(database_path(), data / database_path().name)  # where whet compare finds it
    text = resources.files("whet.sample").joinpath("data", CONFIG).read_text(encoding="utf-8")
    config = parse_config(text, name=CONFIG)
    config.output_dir = str(out)
    config.datasets[0].path = str(data / "train.jsonl")
    config.test_datasets = [config.datasets[0].model_copy(update={"path": str(data / "heldout.jsonl")})]
    config.eval_strategy = "no"  # measured before and after, in answers that run
    return config


def _messages(row: Row, answer: bool) -> list[dict[str, str]]:
    asked = [{"role": "user", "content": row.question}]
    return [*asked, {"role": "assistant", "content": row.sql}] if answer else asked


def _asked(rows: Sequence[Row]) -> Questions:
    """The held-out questions, as ``whet compare`` asks them."""
    from whet.evaluate.examples import Example
    from whet.evaluate.heldout import Questions

    examples = [
        Example(
            tuple(_messages(row, answer=False)),
            ({"role": "assistant", "content": row.sql},),
            number=number,
            group=SEEN if row.seen_phrasing else UNSEEN,
        )
        for number, row in enumerate(rows, 1)
    ]
    return Questions(examples, "held-out questions of the sample task", len(examples))


def _merge(out: Path) -> None:
    from whet.export.adapter import resolve_source
    from whet.export.merged import write_merged

    source, tokenizer_dir = resolve_source(out)
    write_merged(source, out / "merged", tokenizer_dir=tokenizer_dir)


def _show(comparison: Comparison) -> None:
    low, high = comparison.interval_after
    groups = [
        [name, n, f"{before:.1%}", f"{after:.1%}", ""] for name, (n, before, after) in comparison.by_group.items()
    ]
    everything = [
        "all",
        len(comparison.cases),
        f"{comparison.accuracy_before:.1%}",
        f"{comparison.accuracy_after:.1%}",
        f"{low:.1%} - {high:.1%}",
    ]
    table(["questions", "n", "before", "after", "95% interval"], [*groups, everything], "SQL that gives the right rows")
    step = max(1, len(comparison.cases) // SHOWN_SAMPLES)
    shown = comparison.cases[::step][:SHOWN_SAMPLES]
    rows = [[case.question, _mark(case.before_ok, case.before), _mark(case.after_ok, case.after)] for case in shown]
    table(["question", "before", "after"], rows)


def _mark(right: bool, answer: str) -> str:
    return f"{'right' if right else 'wrong'}: {' '.join(answer.split())[:160]}"


def _ask(gguf: Path, question: str) -> dict[str, Any]:
    """One question to the GGUF, and what its SQL finds."""
    from whet.llamacpp import LlamaServer

    with LlamaServer(gguf, n_ctx=512) as server:
        sql = server.chat([{"role": "user", "content": question}], max_tokens=MAX_NEW_TOKENS).strip()
    print(f"     question: {question}\n     answer:   {sql}", flush=True)
    try:
        columns, rows = run_query(database_path(), sql)
    except DataError as error:
        notice(f"this SQL does not run: {error.given}")
        return {"question": question, "sql": sql, "rows": None}
    table(columns, [list(row) for row in rows[:SHOWN_ROWS]], f"{len(rows)} rows")
    return {"question": question, "sql": sql, "rows": len(rows)}


def _write(out: Path, summary: dict[str, Any], comparison: Comparison) -> None:
    from whet.evaluate.report import write_report

    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    curve = [(line["step"], line["loss"]) for line in lines if line.get("loss") is not None]
    shown = {key: value for key, value in summary.items() if key not in ("by_group", "answered")}
    notes = [
        "Base model: whet's starter model (11.3 million parameters). It never saw this database or these questions.",
        "An answer is right when its SQL gives the same rows as the gold query (in order where the gold query orders).",
        "No held-out question shares its template and values with a training question.",
    ]
    write_report(
        out / "report.html", title="Questions to SQL", summary=shown, curve=curve, comparison=comparison, notes=notes
    )
    write_json_atomic(out / "summary.json", summary)
