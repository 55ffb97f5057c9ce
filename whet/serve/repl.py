"""``whet chat``: one answer for a pipe, or a conversation at the terminal.

Answers go to stdout and everything else to stderr, so that ``whet chat RUN --prompt "..." > answer.txt`` holds the
answer alone.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from whet.errors import WhetError
from whet.serve.backends import open_backend
from whet.serve.conversation import Conversation

MAX_TOKENS = 512
TEMPERATURE = 0.0
HELP = "/reset forgets the conversation, /system TEXT sets the system message, Ctrl-C stops an answer, /exit leaves"


def chat(
    path: Path | str,
    *,
    prompt: str | None = None,
    system: str | None = None,
    max_tokens: int = MAX_TOKENS,
    temperature: float = TEMPERATURE,
) -> None:
    """Answer one prompt, or talk until the user leaves.

    Args:
        path: a run, adapter or checkpoint folder, a GGUF file, a hub name, or "starter".
        prompt: answer this and return; None reads messages from stdin, one a line.
        system: the system message.
        max_tokens: the longest answer, in tokens.
        temperature: 0 takes the most likely token always; higher values vary more.

    Raises:
        ModelError: no model there, or one that cannot use a system message.
        DataError: the prompt is longer than the model's context.
        MissingDependency: a GGUF, and llama.cpp is not installed.
    """
    with open_backend(path) as backend:
        conversation = Conversation(backend, system, max_tokens, temperature)
        if prompt is not None:
            _answer(conversation, prompt)
            return
        context = f"{backend.context:,} tokens of context; " if backend.context else ""
        _tell(f"{path}: {context}{HELP}")
        _talk(conversation)


def _talk(conversation: Conversation) -> None:
    while True:
        try:
            line = _read_line()
        except KeyboardInterrupt:
            _tell("\nCtrl-D or /exit leaves")
            continue
        if line is None or line.strip() in ("/exit", "/quit"):
            return
        try:
            _take(conversation, line.strip())
        except KeyboardInterrupt:
            _tell("\n(stopped)")
        except WhetError as error:
            _tell(f"error: {error}")


def _read_line() -> str | None:
    """The next line without its end; None when the input is over."""
    if not sys.stdin.isatty():
        return sys.stdin.readline() or None
    with contextlib.suppress(ImportError):  # arrow keys and history; Windows brings its own
        import readline  # noqa: F401
    try:
        return input("> ")
    except EOFError:
        _tell("")
        return None


def _take(conversation: Conversation, line: str) -> None:
    """Carry out a command, or answer."""
    command, _, rest = line.partition(" ")
    if not line:
        return
    if not command.startswith("/"):
        _answer(conversation, line)
    elif command == "/reset":
        conversation.reset()
        _tell("(the conversation is forgotten)")
    elif command == "/system":
        if rest:
            conversation.set_system(rest.strip())
        _tell(f"(system message: {conversation.system or 'none'})")
    else:
        _tell(f"{command} is no command; {HELP}")


def _answer(conversation: Conversation, text: str) -> None:
    answer = conversation.ask(text, _say)
    if not answer.endswith("\n"):
        _say("\n")


def _say(piece: str) -> None:
    print(piece, end="", flush=True)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
