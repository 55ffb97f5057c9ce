"""The commands of a conversation: what begins with a slash."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from whet.config.nearest import did_you_mean
from whet.console import output_errors
from whet.errors import DataError, OutputError
from whet.serve.backends import Backend, Emit
from whet.serve.base import open_base
from whet.serve.columns import print_columns
from whet.serve.conversation import Conversation

SETTINGS = ("temperature", "top_k", "top_p", "min_p", "seed", "max_tokens")


@dataclass
class Session:
    """A conversation with what its commands need.

    Args:
        path: the model, as the user named it.
        base: the model to compare with, where the user named one.
        say: takes the pieces of an answer.
        tell: takes a line about it.
        opened: closes a base model that was loaded for a comparison.
    """

    path: str
    conversation: Conversation
    base: str | None
    say: Emit
    tell: Emit
    opened: ExitStack
    base_backend: Backend | None = None

    def answer(self, ask: Callable[[Emit], str]) -> None:
        """Show an answer as it comes, then its speed."""
        said = ask(self.say)
        if not said.endswith("\n"):
            self.say("\n")
        self.tell(f"({self.conversation.speed})")


def run_command(session: Session, line: str) -> bool:
    """Carry out one command; False: the user leaves.

    Raises:
        WhetError: a command that is not known or cannot be done.
    """
    name, _, rest = line.partition(" ")
    if name in ("/exit", "/quit", "/bye"):
        return False
    if name not in COMMANDS:
        session.tell(f"{name} is no command; {did_you_mean(name, COMMANDS) or '/help shows them'}")
        return True
    COMMANDS[name][0](session, rest.strip())
    return True


def _system(session: Session, text: str) -> None:
    if text:
        session.conversation.set_system(None if text == "none" else text)
    session.tell(f"(system message: {session.conversation.system or 'none'})")


def _reset(session: Session, text: str) -> None:
    session.conversation.reset()
    session.tell("(the conversation is forgotten)")


def _regen(session: Session, text: str) -> None:
    if session.conversation.sampling.temperature == 0:
        session.tell("(at temperature 0 the answer stays the same; /set temperature 0.8 varies it)")
    session.answer(session.conversation.again)


def _history(session: Session, text: str) -> None:
    conversation = session.conversation
    system = [{"role": "system", "content": conversation.system}] if conversation.system else []
    for message in [*system, *conversation.turns]:
        session.tell(f"{message['role']}: {message['content']}")
    if not system and not conversation.turns:
        session.tell("(nothing was said yet)")


def _save(session: Session, text: str) -> None:
    """One conversation a line, in the form that whet trains on."""
    conversation = session.conversation
    if not text:
        raise DataError("/save without a file", "/save FILE.jsonl")
    if not conversation.turns:
        raise DataError("there is nothing to save yet", "an answer before /save")
    system = [{"role": "system", "content": conversation.system}] if conversation.system else []
    file = Path(text).expanduser()
    line = json.dumps({"messages": [*system, *conversation.turns]}, ensure_ascii=False)
    try:
        with output_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as opened:
                opened.write(line + "\n")
    except OSError as error:  # whatever it is, the conversation goes on
        raise OutputError(f"cannot write {file}: {error}", "another file") from error
    session.tell(f"(added to {file}, a line for each conversation)")


def _set(session: Session, text: str) -> None:
    conversation = session.conversation
    name, _, value = text.partition(" ")
    if not name:
        shown = {name: getattr(conversation.sampling, name) for name in SETTINGS[:-1]}
        session.tell(
            ", ".join(f"{key} {value}" for key, value in shown.items()) + f", max_tokens {conversation.max_tokens}"
        )
        return
    if name not in SETTINGS:
        raise DataError(f"/set {name}", f"one of {', '.join(SETTINGS)}", did_you_mean(name, SETTINGS))
    number = read_setting(name, value.strip())
    if name == "max_tokens":
        conversation.max_tokens = int(number or 1)
    else:
        conversation.sampling = replace(conversation.sampling, **{name: number})  # type: ignore[arg-type]
    session.tell(f"({name} {number})")


LIMITS: dict[str, tuple[type, float, float]] = {
    "temperature": (float, 0, 10),
    "top_k": (int, 0, 10**6),
    "top_p": (float, 1e-6, 1),
    "min_p": (float, 0, 1),
    "seed": (int, 0, 2**31),
    "max_tokens": (int, 1, 10**6),
}


def read_setting(name: str, text: str) -> float | int | None:
    """A setting from its text; of a seed, "none" means another one each time.

    Raises:
        DataError: no number, or one out of range.
    """
    if name == "seed" and text == "none":
        return None
    kind, low, high = LIMITS[name]
    expected = f"{'a whole number' if kind is int else 'a number'} from {low:g} to {high:g}"
    try:
        number = kind(text)
    except ValueError:
        raise DataError(f"/set {name} {text}", expected) from None
    if not low <= number <= high:
        raise DataError(f"/set {name} {text}", expected)
    return number  # type: ignore[no-any-return]


def _compare(session: Session, text: str) -> None:
    """Base and tuned model on one question, in two columns; the conversation stays as it is."""
    conversation = session.conversation
    messages = conversation.messages(text or None)
    if session.base_backend is None:
        opened = open_base(session.path, conversation.backend, session.base)
        session.base_backend = session.opened.enter_context(opened)
    answers, speeds = [], []
    for name, backend in (("base", session.base_backend), ("tuned", conversation.backend)):
        session.tell(f"({name} answers)")
        one = Conversation(backend, None, conversation.max_tokens, conversation.sampling)
        one.turns = messages[:-1]
        answers.append(one.ask(messages[-1]["content"], lambda piece: None))
        speeds.append(str(one.speed))
    print_columns(("base", "tuned"), (answers[0], answers[1]), (speeds[0], speeds[1]))


def _help(session: Session, text: str) -> None:
    for name, (_, about) in COMMANDS.items():
        session.tell(f"  {name:<10}{about}")
    session.tell('  """       begins and ends a message of several lines')
    session.tell("  Ctrl-C    stops an answer; Ctrl-D or /exit leaves")


COMMANDS: dict[str, tuple[Callable[[Session, str], None], str]] = {
    "/help": (_help, "shows this"),
    "/system": (_system, "TEXT sets the system message, none removes it, nothing shows it"),
    "/reset": (_reset, "forgets the conversation"),
    "/regen": (_regen, "answers the last message anew"),
    "/compare": (_compare, "[TEXT] base and tuned model in two columns, on TEXT or the last message"),
    "/set": (_set, f"NAME VALUE changes {', '.join(SETTINGS)}; nothing shows them"),
    "/history": (_history, "shows the conversation"),
    "/save": (_save, "FILE.jsonl adds the conversation to a file that whet can train on"),
}
