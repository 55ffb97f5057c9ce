"""``whet chat``: one answer for a pipe, or a conversation at the terminal.

Answers go to stdout and everything else to stderr, so that ``whet chat RUN --prompt "..." > answer.txt`` holds the
answer alone.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from pathlib import Path

from whet.errors import WhetError
from whet.serve.backends import open_backend
from whet.serve.commands import Session, run_command
from whet.serve.conversation import Conversation
from whet.serve.lines import LineReader
from whet.serve.sampling import Sampling

MAX_TOKENS = 512
TEMPERATURE = 0.0
STDIN = "-"
HELP = "/help shows the commands, Ctrl-C stops an answer, /exit leaves"


def chat(
    path: Path | str,
    *,
    prompt: str | None = None,
    system: str | None = None,
    max_tokens: int = MAX_TOKENS,
    temperature: float = TEMPERATURE,
    top_p: float = Sampling.top_p,
    top_k: int = Sampling.top_k,
    min_p: float = Sampling.min_p,
    seed: int | None = None,
    base: str | None = None,
) -> None:
    """Answer one prompt, or talk until the user leaves.

    Args:
        path: a run, adapter or checkpoint folder, a GGUF file, a hub name, "starter", or ``ollama:NAME``.
        prompt: answer this and return; "-" takes all of stdin; None reads messages from stdin, one a line.
        system: the system message.
        max_tokens: the longest answer, in tokens.
        temperature: 0 takes the most likely token always; higher values vary more.
        top_p, top_k, min_p, seed: see :class:`Sampling`.
        base: the model that ``/compare`` puts beside it; None: the one that it was trained from.

    Raises:
        ModelError: no model there, or one that cannot use a system message.
        DataError: the prompt is longer than the model's context.
        MissingDependency: a GGUF, and llama.cpp is not installed.
    """
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed)
    with open_backend(path) as backend, ExitStack() as opened:
        conversation = Conversation(backend, system, max_tokens, sampling)
        session = Session(str(path), conversation, base, _say, _tell, opened)
        if prompt is not None:
            text = sys.stdin.read() if prompt == STDIN else prompt
            session.answer(lambda emit: conversation.ask(text, emit))
            return
        context = f"{backend.context:,} tokens of context; " if backend.context else ""
        _tell(f"{path}: {context}{HELP}")
        with closing(LineReader()) as lines:
            _talk(session, lines)


def _talk(session: Session, lines: LineReader) -> None:
    while True:
        try:
            text = lines.read()
        except KeyboardInterrupt:
            _tell("\nCtrl-D or /exit leaves")
            continue
        if text is None:
            return
        try:
            if not _take(session, text.strip()):
                return
        except KeyboardInterrupt:
            _tell("\n(stopped)")
        except WhetError as error:
            _tell(f"error: {error}")


def _take(session: Session, text: str) -> bool:
    """Answer, or carry out a command; False: the user leaves."""
    if text.startswith("/"):
        return run_command(session, text)
    if text:
        session.answer(lambda emit: session.conversation.ask(text, emit))
    return True


def _say(piece: str) -> None:
    print(piece, end="", flush=True)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
