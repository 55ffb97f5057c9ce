"""The command ``whet``: its verbs, and what a user sees when something goes wrong.

Each verb is a function in the file of its name, with typer's options; only the verb that is asked for is imported, and
its work only inside the function. So ``whet --help`` needs nothing but Python; a test keeps that.

Exit codes: 0 done, 1 a failed proof or a bug, 2 bad input or a place that cannot be written, 3 unproved, 130 Ctrl-C.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Sequence

from whet.errors import MissingDependency, WhetError

VERBS = {
    "quickstart": "See the whole way on a sample: train, compare, export, prove, ask.",
    "preview": "Show the rows as tokens, and what is wrong with the data, before a model is loaded.",
    "plan": "Show memory, time and steps of a run before it is started; no weights are loaded.",
    "train": "Train a model as a YAML file says.",
    "compare": "Did training help? The same prompts before and after, measured and side by side.",
    "eval": "Run tasks of lm-eval on a run, before and after; the results are stored in it.",
    "runs": "Show the runs of a folder: what differs between their configs, loss, metrics, speed, memory.",
    "pairs": "Make preference rows of people's votes and thumbs.",
    "chat": "Talk to a model, or ask it one thing.",
    "serve": "Serve a model over OpenAI's HTTP API, with a chat page.",
    "export": "Write a model as GGUF with a Modelfile, merged, or as an adapter, and prove it.",
    "verify": "Compare an exported model with the trained one; exit code 1 where it is another.",
    "push": "Upload a model to the Hugging Face hub with a card written from its run.",
    "ollama": "Start a local Ollama (serve), or create a model in it from a Modelfile (create).",
    "config": "Check config files, explain a key, print the JSON Schema for editors.",
    "doctor": "Show device, versions, what is missing and the command that adds it.",
}
OPTIONS = {
    "--version": "Show the version and stop.",
    "--debug": "Show the traceback of an error; works after the verb too.",
    "--help": "Show this message; whet VERB --help says more about a verb.",
}
INTERRUPTED = 130


def entry() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; messages go to stderr."""
    debug = "--debug" in arguments
    if not debug:  # other libraries' advice to their callers; nothing that a user of whet could act on
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|torch)\b")
    try:
        code = _dispatch([item for item in arguments if item != "--debug"])
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nstopped by Ctrl-C", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # "whet doctor | head": the reader has gone, nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            import traceback

            traceback.print_exception(error)
        return _report(error)
    return code


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(_help())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"whet {version('whet')}")
        return 0
    name = arguments[0]
    if name not in VERBS:
        from whet.config.nearest import did_you_mean

        kind, known = ("option", OPTIONS) if name.startswith("-") else ("verb", VERBS)
        raise WhetError(f'there is no {kind} "{name}"', f"one of {', '.join(known)}", did_you_mean(name, known))
    return _run_verb(name, arguments[1:])


def _run_verb(name: str, arguments: list[str]) -> int:
    import typer

    from whet.runtime import share_cores

    share_cores()
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, help=VERBS[name])
    verb = getattr(importlib.import_module(f"whet.cli.{name}"), name)
    if isinstance(verb, typer.Typer):  # a verb with verbs of its own
        app.add_typer(verb)
    else:
        app.command(name, help=VERBS[name])(verb)
    # typer brings its own click or uses the installed one, by version: its public BadParameter leads to either.
    usage_problem: type[Exception] = typer.BadParameter.__mro__[2]  # type: ignore[assignment]
    try:
        result = app(arguments, prog_name=f"whet {name}", standalone_mode=False)
    except usage_problem as error:
        text = error.format_message()  # type: ignore[attr-defined]
        raise WhetError(text, fix=f"see whet {name} --help") from error
    except typer.Abort:
        raise KeyboardInterrupt from None
    if result == INTERRUPTED:  # newer typer turns Ctrl-C into this code
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def _help() -> str:
    def listed(names: dict[str, str]) -> list[str]:
        return [f"  {name:<12}{text}" for name, text in names.items()]

    about = "Fine-tune a small language model on your own examples, prove the export, run it on your own machine."
    lines = ["usage: whet VERB [OPTIONS]", "", about, "", "verbs:", *listed(VERBS), "", "options:", *listed(OPTIONS)]
    return "\n".join(lines)


def _report(error: Exception) -> int:
    from whet.console import as_output_error

    known = error if isinstance(error, WhetError) else as_output_error(error) or _machine_problem(error)
    if known is not None:
        print(f"error: {known}", file=sys.stderr)
        return known.exit_code
    text = " ".join(str(error).split())
    print(
        f"error: this is a bug in whet: {type(error).__name__}: {text}\n  to do: run again with --debug and report it",
        file=sys.stderr,
    )
    return 1


def _machine_problem(error: Exception) -> WhetError | None:
    """What the machine lacks rather than what whet did wrong: memory, or a package."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return WhetError("out of memory", fix="lower micro_batch_size or sequence_len, or use a smaller model")
    if isinstance(error, ModuleNotFoundError) and (error.name or "whet").partition(".")[0] != "whet":
        return MissingDependency(f"the package {error.name} is not installed", fix="whet doctor says what is missing")
    return None


if __name__ == "__main__":
    entry()
