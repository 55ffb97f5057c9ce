"""Which characters of a conversation are trained.

Trained is an assistant's turn: from the end of the generation prompt to its terminator. When the terminator is a
special token, the white space that the template writes after it is not trained (the model stops at the terminator and
never produces it). A message's own ``"train": bool`` wins over its role.

Where a turn stands is never found by searching for its words. A template of pieces (``TurnTemplate``) says it while it
writes. Any other template is asked: its text up to the turn, with and without it. A template that writes earlier turns
differently once more follow (it drops their thinking, say) is asked once more with a marker in the turn's place: what
stands before and after the marker is not the turn, so the rest is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from whet.errors import DataError, ModelError
from whet.text.literal import Span, specials_of
from whet.text.quotes import free_character, hide, show

TrainOn = Literal["assistant", "last", "all"]
Message = Mapping[str, Any]
Messages = Sequence[Message]
Turns = dict[str, tuple[str, str, int, int]]  # by role: text before, after; what of the first is skipped, second kept

TRAIN_ON = ("assistant", "last", "all")
PLAIN_KEYS = {"role", "content", "train"}  # what a template of pieces reads
CHECKED = 50  # rows at the start, and one in each so many later, whose pieces are compared with the Jinja


@dataclass(frozen=True)
class Marked:
    """A text to encode.

    Attributes:
        spans: trained character ranges, in order; None means all of it.
        literal: ranges of special-token text that is data.
        add_specials: the tokenizer adds its own special tokens (bos), once.
        add_eos: the tokenizer's end token is added, once.
    """

    text: str
    spans: tuple[Span, ...] | None
    literal: tuple[Span, ...] = ()
    add_specials: bool = True
    add_eos: bool = False


class Marker:
    """Conversations of one tokenizer to marked texts.

    Args:
        train_on: the assistant's turns, only the last of them, or everything.

    Raises:
        DataError: an unknown ``train_on``.
    """

    def __init__(self, tokenizer: Any, train_on: TrainOn = "assistant") -> None:
        if train_on not in TRAIN_ON:
            raise DataError(f"train_on: {train_on!r}", 'one of "assistant", "last", "all"')
        self.tokenizer = tokenizer
        self.train_on = train_on
        self.specials = specials_of(tokenizer)
        self.pieces = _pieces(tokenizer)
        self._plan = _plan_of(self)
        self.seen = 0

    def mark(self, messages: Messages, tools: Any = None) -> Marked:
        """The conversation as text, and what of it is trained.

        Raises:
            DataError: the template refuses the messages, or does not show where a turn begins and ends.
            ModelError: the tokenizer has no chat template.
        """
        if self.pieces is not None and not tools and _is_regular(messages):
            plan = self._plan
            planned = plan is not None and messages[0]["role"] in plan[0]
            marked = self._by_plan(messages, *plan) if planned else self._by_pieces(messages)  # type: ignore[misc]
            self.seen += 1
            if self.seen > CHECKED and self.seen % CHECKED:
                return marked
            if marked.text == self.render(messages):
                return marked
            self.pieces = None  # never seen; the Jinja is the truth
        return self._by_jinja(messages, tools)

    def render(self, messages: Messages, add_generation_prompt: bool = False, tools: Any = None) -> str:
        """The conversation as the tokenizer's Jinja writes it."""
        from jinja2.exceptions import TemplateError

        if not self.tokenizer.chat_template:
            raise ModelError(
                "the tokenizer has no chat template",
                "a chat template, since the rows are messages",
                "choose one (chat_template: chatml, say), or give the rows as prompt and completion",
            )
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages), tools=tools, tokenize=False, add_generation_prompt=add_generation_prompt
                )
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            roles = ", ".join(str(message.get("role")) for message in messages) or "none"
            raise DataError(f"the chat template refuses the messages (roles: {roles}): {error}") from error

    def _trained(self, messages: Messages) -> list[int]:
        """Numbers of the messages that are trained."""
        turns = [i for i, message in enumerate(messages) if _flag(message, message.get("role") == "assistant")]
        return turns[-1:] if self.train_on == "last" else turns

    # --- a template of pieces ---

    def _by_pieces(self, messages: Messages) -> Marked:
        ranges = {number: [-1, -1] for number in self._trained(messages)}
        parts: list[str] = []
        literal: list[Span] = []
        place = 0
        prompt = self.pieces.generation_prompt
        for text, number, part in self.pieces.segments(messages):
            if part == "content":
                literal += [(place + a, place + b) for a, b in self.specials.inside(text)]
            if number in ranges:
                turn = ranges[number]
                if part == "before":
                    turn[0] = place + (len(prompt) if text.startswith(prompt) else len(text))
                elif part == "content":
                    begins = turn[0] >= 0 and messages[number]["role"] == "assistant"
                    turn[:] = [turn[0] if begins else place, place + len(text)]
                else:
                    turn[1] = place + self._terminator(text)
            parts.append(text)
            place += len(text)
        trained = None if self.train_on == "all" else tuple((a, b) for a, b in ranges.values())
        return Marked("".join(parts), trained, tuple(literal), add_specials=False)

    def _by_plan(self, messages: Messages, turns: Turns, beginning: str) -> Marked:
        """``_by_pieces`` for templates that write each message between two texts, and nothing else: five times faster.

        Most rows of most data sets are of this kind, and this is the slowest step that is written in Python.
        """
        text = "" if messages[0]["role"] == "system" else beginning
        wanted = set(self._trained(messages))
        parts, spans, literal = [self._head, text], [], []
        place = len(self._head) + len(text)
        for number, message in enumerate(messages):
            before, after, skipped, kept = turns[message["role"]]
            content = message["content"]
            start = place + len(before)
            stop = start + len(content)
            if number in wanted:
                spans.append((place + skipped, stop + kept))
            for mark in self.specials.starts:
                if mark in content:
                    literal += [(start + a, start + b) for a, b in self.specials.inside(content)]
                    break
            parts += (before, content, after)
            place = stop + len(after)
        parts.append(self.pieces.suffix)
        trained = None if self.train_on == "all" else tuple(spans)
        return Marked("".join(parts), trained, tuple(literal), add_specials=False)

    @property
    def _head(self) -> str:
        return str(self.pieces.bos + self.pieces.prefix)

    def _terminator(self, after: str) -> int:
        """Length of what is trained of the text after an answer: up to its first special tokens, else all of it."""
        found = self.specials.inside(after)
        stop = found[0][1] if found else len(after)
        for start, end in found[1:]:
            if after[stop:start].strip():
                break
            stop = end
        return stop

    def _terminated(self, body: str) -> int:
        """Length of what is trained of an answer and the text after it: without white space after a special token."""
        shown = body.rstrip()
        return len(shown) if self.specials.end(shown) else len(body)

    # --- any template ---

    def _by_jinja(self, messages: Messages, tools: Any) -> Marked:
        hidden, quotes = hide(messages, self.specials)
        text = self.render(hidden, tools=tools)
        spans: tuple[Span, ...] | None = None
        if self.train_on != "all":
            spans = tuple(self._turn(hidden, i, text, tools) for i in self._trained(messages))
        text, spans, literal = show(text, spans, quotes)
        return Marked(text, spans, literal, add_specials=False)

    def _turn(self, messages: Messages, turn: int, text: str, tools: Any) -> Span:
        """Characters of one turn in ``text``: after the generation prompt, up to its terminator."""
        if messages[turn].get("role") != "assistant":
            return self._around_marker(messages, turn, text, tools, None)
        before = self.render(messages[:turn], add_generation_prompt=True, tools=tools)
        until = text if turn == len(messages) - 1 else self.render(messages[: turn + 1], tools=tools)
        if until.startswith(before) and text.startswith(until):
            return len(before), len(before) + self._terminated(until[len(before) :])
        return self._around_marker(messages, turn, text, tools, before)

    def _around_marker(self, messages: Messages, turn: int, text: str, tools: Any, before: str | None) -> Span:
        """The turn as what is left of ``text`` without what stands around a marker in its place."""
        marker = free_character(messages) * 3
        marked = [*messages[:turn], {**messages[turn], "content": marker}, *messages[turn + 1 :]]
        head, found, tail = self.render(marked, tools=tools).partition(marker)
        last_tail = self.render(marked[: turn + 1], tools=tools).partition(marker)[2]
        start = len(before) if before is not None and text.startswith(before) else _same_start(head, text)
        stop = len(text) - len(tail)
        if not found or marker in tail or not text.endswith(tail) or start > stop:
            raise DataError(
                f"the chat template cannot be masked: message {turn} ({messages[turn].get('role')}) is not written at "
                "one place of the text",
                "a template that writes each message once",
                "use another chat template, or train on the whole text (train_on: all)",
            )
        return start, stop + self._terminator(tail[: _same_start(tail, last_tail)])


def _pieces(tokenizer: Any) -> Any:
    """The template of pieces behind the tokenizer's Jinja, proved on probes; None if there is none."""
    from whet.text.chat import chat_template_of

    if not isinstance(tokenizer.chat_template, str):
        return None
    template = chat_template_of(tokenizer)
    return template.pieces if template is not None else None


def _plan_of(marker: Marker) -> tuple[Turns, str] | None:
    """For each role: the texts before and after, where what is trained begins in the first and ends in the second.

    And what stands in the place of a system message that is not given. None for templates that do more.
    """
    pieces = marker.pieces
    if pieces is None or pieces.system_place not in ("turn", "start") or pieces.skip_empty_system:
        return None
    if any(pieces.trims(role) for role in ("system", "user", "assistant")):
        return None
    turns: Turns = {}
    for role in ("system", "user", "assistant"):
        turn = getattr(pieces, role)
        if turn is not None:
            prompt = pieces.generation_prompt if role == "assistant" else turn.before
            skipped = len(prompt) if turn.before.startswith(prompt) else len(turn.before)
            turns[role] = (turn.before, turn.after, skipped, marker._terminator(turn.after))
    default = pieces.system is not None and pieces.default_system is not None
    beginning = pieces.system.before + pieces.default_system + pieces.system.after if default else ""
    return turns, beginning


def _is_regular(messages: Messages) -> bool:
    """A system message or none, then user and assistant in turn; nothing but texts. Only this is written by pieces."""
    expected = "user"
    for i, message in enumerate(messages):
        if message.keys() - PLAIN_KEYS or not isinstance(message.get("content"), str):
            return False
        role = message["role"]
        if role == "system" and i == 0:
            continue
        if role != expected:
            return False
        expected = "assistant" if role == "user" else "user"
    return len(messages) > 0 and messages[-1]["role"] != "system"


def _flag(message: Message, otherwise: bool) -> bool:
    flag = message.get("train")
    return otherwise if flag is None else bool(flag)


def _same_start(one: str, other: str) -> int:
    """How many characters both begin with."""
    size = min(len(one), len(other))
    if one[:size] == other[:size]:
        return size
    return next(i for i in range(size) if one[i] != other[i])
