"""The verbs, as functions. CLI, notebook and studio reach the work through these."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.config import load_config
from whet.console import notice, say, write_text_atomic
from whet.errors import ExportError, OutputError
from whet.runtime import quick_imports

if TYPE_CHECKING:
    from whet.data.audit_report import AuditReport
    from whet.evaluate.compare import CompareReport
    from whet.evaluate.harness import EvalReport
    from whet.evaluate.run_table import RunTable
    from whet.train.plan import RunPlan


def preview(
    config: Path | str, *, rows: int = 3, html: Path | str | None = None, overrides: Sequence[str] = ()
) -> AuditReport:
    """Read and encode the data of a YAML file and say what is wrong with it; no model is loaded.

    Args:
        config: the YAML file.
        rows: training rows to show, at most.
        html: a page with the whole report, written there.
        overrides: ``key=value`` texts that replace its settings.

    Returns:
        The report; ``print()`` shows it, ``check()`` raises where the data cannot be trained on.

    Raises:
        WhetError: a bad config, no rows, no tokenizer, a place that cannot be written.
    """
    settings = load_config(config, overrides)
    for remark in settings.remarks:
        say(*remark)
    from whet.train.preview import preview as look

    report = look(settings, rows)
    if html is not None:
        report.write_html(html)
    return report


def plan(
    config: Path | str, *, max_memory: str | None = None, gpu: str | None = None, overrides: Sequence[str] = ()
) -> RunPlan:
    """Count the rows and steps of a YAML file and predict memory and time; no weights are loaded.

    Args:
        config: the YAML file.
        max_memory: a size such as "16GiB"; wins over the config's key.
        gpu: "h200", or the memory of a GPU such as "24GiB"; None: this machine.
        overrides: ``key=value`` texts that replace its settings.

    Returns:
        The plan; ``print()`` shows it, ``check()`` raises where the run does not fit.

    Raises:
        WhetError: a bad config or size, no rows, no such model.
    """
    settings = load_config(config, overrides)
    for remark in settings.remarks:
        say(*remark)
    with quick_imports():
        from whet.train.plan import plan_run

    return plan_run(settings, max_memory, gpu)


def train(
    config: Path | str, *, overrides: Sequence[str] = (), out: Path | str | None = None, resume: bool = False
) -> Path:
    """Train as a YAML file says.

    Args:
        config: the YAML file.
        overrides: ``key=value`` texts that replace its settings.
        out: the run folder, instead of ``output_dir``.
        resume: go on from the newest complete checkpoint there.

    Returns:
        The run folder.

    Raises:
        WhetError: a bad config, bad rows, no model, a place that cannot be written.
        KeyboardInterrupt: Ctrl-C; a checkpoint was written before.
    """
    settings = load_config(config, overrides)
    for remark in settings.remarks:
        say(*remark)
    if out is not None:
        settings.output_dir = str(out)
    with quick_imports():
        if settings.reward_model:
            from whet.train.preference.reward_run import run_reward as run
        elif settings.rl is not None:
            from whet.train.preference.run import run_preference as run
        else:
            from whet.train.sft import run_sft as run

    result = run(settings, resume=resume)
    if result.interrupted:
        notice(f"stopped at step {result.steps}; go on with: whet train {config} --out {result.folder} --resume")
        raise KeyboardInterrupt
    notice(f"trained {result.tokens:,} tokens in {result.seconds:.0f} s ({result.tokens_per_second:,.0f} tokens/s)")
    return result.folder


def pairs(files: Sequence[Path | str], *, out: Path | str, kto: bool = False) -> Path:
    """Make rows for preference training of people's verdicts; see ``whet.data.feedback``.

    Args:
        files: JSON lines: votes that the page of a comparison saved, or answers with a thumb or label.
        out: the file to write, JSON lines.
        kto: single answers with a label instead of pairs.

    Returns:
        ``out``.

    Raises:
        DataError: a line of another shape, or no row comes of them; nothing is written then.
        OutputError: ``out`` is one of the files, or cannot be written.
    """
    from whet.data.feedback import read_feedback

    target = Path(out)
    if any(target.resolve() == Path(file).resolve() for file in files):
        raise OutputError(f"{out} is one of the files that are read", "another file for the rows")
    found = read_feedback(files, kto=kto)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.rows)
    write_text_atomic(target, text)
    what = "rated answers" if kto else "pairs"
    notice(f"{len(found.rows):,} {what} of {found.verdicts:,} verdicts")
    for reason, count in found.left_out.items():
        notice(f"{count:,} left out: {reason}")
    return target


def chat(path: Path | str, *, prompt: str | None = None, system: str | None = None, **options: Any) -> None:
    """Talk to a model, or ask it one thing (``prompt``); see ``whet.serve.repl.chat``."""
    with quick_imports():
        from whet.serve.repl import chat as talk

    talk(str(path), prompt=prompt, system=system, **options)


def serve(path: Path | str, **options: Any) -> None:
    """Serve a model over OpenAI's HTTP API until SIGTERM or Ctrl-C; see ``whet.serve.openai.run.serve``.

    Raises:
        MissingDependency: a package of the extra ``serve`` is not installed.
    """
    from whet.errors import MissingDependency

    try:
        from whet.serve.openai.run import serve as answer
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        raise MissingDependency("aiohttp is not installed", fix="pip install 'whet[serve]'") from error
    answer(str(path), **options)


def export(
    path: Path | str,
    *,
    to: str = "gguf",
    quants: Sequence[str] = (),
    out: Path | str | None = None,
    base: Path | str | None = None,
    dtype: str = "bfloat16",
    system: str | None = None,
    license: str | None = None,
    parameters: Sequence[str] = (),
    imatrix: Path | str | None = None,
    positions: int | None = None,
    proof: bool = True,
) -> Any:
    """Write a model in one form, and compare what was written with the model; see ``whet.export.run``.

    Args:
        to: ``gguf`` (with a Modelfile), ``merged``, ``adapter`` or ``adapter-gguf``.
        quants: of GGUF files; none means q8_0, for an adapter f32.
        base: the model that an adapter belongs on, where the one named in the adapter is not it.
        dtype: of a merged model: ``bfloat16``, ``float16`` or ``float32``.
        license: a file, an SPDX identifier or a text; None takes what the base model says.
        parameters: ``NAME=VALUE`` for the Modelfile, such as ``temperature=0``.
        imatrix: texts for an importance matrix: ``run``, a file of text or rows, or a matrix in GGUF; None: no matrix.
        positions: next-token distributions that the proof of a file compares; None: 64.
    """
    from whet.export.parameters import read_parameters

    asked = read_parameters(parameters)
    with quick_imports():
        from whet.export.run import export_run

    return export_run(
        path,
        out,
        quants,
        to=to,
        base=base,
        dtype=dtype,
        system=system,
        license=license,
        parameters=asked,
        imatrix=imatrix,
        proof=proof,
        positions=positions,
    )


def verify(
    file: Path | str,
    against: Path | str,
    *,
    data: Path | str | None = None,
    base: Path | str | None = None,
    positions: int | None = None,
) -> Any:
    """Compare an exported model with the trained one; the verdict is also written beside the file.

    Args:
        file: a GGUF (of a model or of an adapter), a merged folder or an adapter folder.
        against: the run folder, or any other form of the trained model that ``export`` takes.
        data: a file of rows to compare on; None takes the run's validation rows, else its last training rows.
        base: the model that an adapter belongs on, where the one named in the adapter is not it.
        positions: next-token distributions to compare; None takes 64.

    Returns:
        ``whet.export.verdict.Verdict``; ``print(file)`` shows it, ``check(file)`` raises below the bar.

    Raises:
        ModelError: no such file or model.
        Unproved: a GGUF, and llama.cpp is not installed.
    """
    from whet.export.prove import Proof
    from whet.export.verify import POSITIONS

    place = positions if positions is not None else POSITIONS
    return Proof(against, base=base, data=data, positions=place).of(file)


def compare(
    models: Sequence[Path | str] | Path | str, *, out: Path | str | None = None, **options: Any
) -> CompareReport:
    """Ask a base model and trained ones the same questions at temperature 0, measure the answers, write a report.

    Args:
        models: runs, adapters, checkpoints or models; the verdict is about the last one.
        out: where the report goes; None: ``RUN/compare``, else ``./whet-compare``.
        options: fields of ``whet.evaluate.compare.Options``: ``data``, ``n``, ``metrics``, ``base`` and more.

    Returns:
        The report; ``print()`` shows it, ``paths`` are the files written.

    Raises:
        WhetError: a bad model, file or option; no judge answers.
        KeyboardInterrupt: Ctrl-C; the answers so far are kept, and the same call goes on from them.
    """
    from whet.evaluate.compare import CompareReport, Options, compare
    from whet.evaluate.written import write_all

    paths = [models] if isinstance(models, str | Path) else list(models)
    for name in ("data", "database"):  # a text is a path too
        if isinstance(options.get(name), str):
            options[name] = Path(options[name])
    found, folder = compare([str(path) for path in paths], Options(**options), Path(out) if out is not None else None)
    return CompareReport(found, write_all(found, folder))


def evaluate(run: Path | str, tasks: Sequence[str], *, out: Path | str | None = None, **options: Any) -> EvalReport:
    """Run tasks of lm-eval on a model; the results are stored in the run.

    Args:
        tasks: names of lm-eval's, or YAML files of your own.
        out: where results go; None: ``RUN/eval``.
        options: ``before``, ``shots``, ``limit``, ``batch_size``, ``chat``; see ``whet.evaluate.harness.evaluate``.

    Returns:
        The figures; ``print()`` shows them.

    Raises:
        MissingDependency: lm-eval is not installed.
        WhetError: no such model or task.
    """
    from whet.evaluate.harness import evaluate as run_tasks

    return run_tasks(str(run), list(tasks), out=Path(out) if out is not None else None, **options)


def runs(folders: Sequence[Path | str] = (".",)) -> RunTable:
    """The runs in some folders: config differences, loss, metrics, speed, memory; ``print()`` shows them.

    Raises:
        DataError: no such folder, or no run in it.
    """
    from whet.evaluate.run_table import find_runs

    return find_runs([Path(folder) for folder in folders])


def ollama_names(name: str, quants: Sequence[str]) -> dict[str, str]:
    """What each quantisation will be called in Ollama: ``name``, or ``name:<quant>`` for each of several.

    Raises:
        ExportError: no name for a model there.
    """
    from whet.export.ollama_names import names_for
    from whet.export.recipes import quant_name

    return names_for(name, list(dict.fromkeys(quant_name(quant) for quant in quants)))


def hand_to_ollama(report: Any, names: Mapping[str, str]) -> None:
    """Create the models of an export in Ollama, or print the commands; see ``whet.export.ollama``."""
    from whet.export.ollama import hand_to_ollama as hand

    hand(report.files, names)


def create_in_ollama(name: str, modelfile: Path | str) -> None:
    """Create a model in a running Ollama from a Modelfile.

    Raises:
        ExportError: no server, a bad name or Modelfile, a server that refuses or goes away.
    """
    from whet.export.ollama import OllamaClient, create_model

    client = OllamaClient()
    if client.version() is None:
        raise ExportError(f"no Ollama answers at {client.address}", fix="whet ollama serve starts one")
    create_model(name, Path(modelfile), client)


def serve_ollama() -> int:
    """Run a local Ollama until Ctrl-C; see ``whet.export.ollama_server``."""
    from whet.export.ollama_server import serve

    return serve()


def push(
    path: Path | str,
    repo: str,
    *,
    to: str | None = None,
    quants: Sequence[str] = (),
    private: bool = True,
    token: str | None = None,
    license: str | None = None,
) -> str:
    """Upload a model to the hub with a card written from its run; see ``whet.export.push``.

    Args:
        repo: ``owner/name`` on the hub.
        to: "adapter", "merged" or "gguf"; None is the adapter where there is one.
        token: None takes the hub's own login.
        license: an identifier for the card; None takes the base model's.

    Returns:
        The address of the repository.
    """
    from whet.export.push import push_run

    return push_run(str(path), repo, to=to, quants=quants, private=private, token=token, licence=license)
