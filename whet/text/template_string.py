"""Chat templates as users write them: an example of one turn pair, or of two, with fields.

    Below are instructions.

    ### Instruction:
    {INPUT}

    ### Response:
    {OUTPUT}

Fields: ``{SYSTEM}`` (optional, once, before the first ``{INPUT}``), ``{INPUT}``, ``{OUTPUT}``. Other braces are text.

What is written once, and what again in each turn? Two pairs show it: what stands before both ``{INPUT}`` alike is
repeated. Of one pair, the repeated part begins, in this order of preference:

1. after the last terminator before ``{INPUT}``, if what follows ``{OUTPUT}`` stands there too (``<|im_end|>``),
2. at the last blank line that has text after it,
3. at the special tokens that announce the turn (``<|user|>``), or at a marker (``USER:``, ``### Input:``),
4. nowhere: everything is repeated.

A template that names no special token after ``{OUTPUT}`` gets the end token there, once: a model that never saw an
end never stops.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from whet.errors import DataError
from whet.text.caret import fault
from whet.text.template import Turn, TurnTemplate

SYSTEM, INPUT, OUTPUT = "{SYSTEM}", "{INPUT}", "{OUTPUT}"
FIELDS = (SYSTEM, INPUT, OUTPUT)
LIKE_A_FIELD = 0.8  # letters in common at which {OUTPUTS} is a misspelled {OUTPUT}

_BRACES = re.compile(r"\{[^{}\n]{1,20}\}")
_MARKER = re.compile(
    r"(?:#{2,6}[ \t]?\w[\w ]{0,30}[:：]|(?<!\w)\w{1,20}[:：]|\[/?[A-Z_]{2,20}\]|<\|[^|<>\n]{1,40}\|>|</?s>"
    r"|<(?:start|end)_of_turn>)"
)
_ROLE_WORD = re.compile(r"\s*\w*\s*")


@dataclass(frozen=True)
class _Pieces:
    """The texts around the fields. ``before_system`` is None without {SYSTEM}; ``between`` without a second pair."""

    text: str
    before_system: str | None
    head: str
    middle: str
    between: str | None
    tail: str


def parse_template(
    text: str,
    *,
    eos: str,
    special: Sequence[str] = (),
    default_system: str | None = None,
    extra_stops: Sequence[str] = (),
    bos: str = "",
) -> TurnTemplate:
    """The template that an example of one or two turn pairs shows.

    Args:
        eos: the text of the end token.
        special: the texts of the tokenizer's special tokens.
        default_system: the system message where none is given; None writes none. Unused without {SYSTEM}.
        extra_stops: more texts at which generation ends.
        bos: the token that the tokenizer puts before every text; the example may name it or not.

    Raises:
        DataError: a field that is missing, misspelled, repeated or out of place, three pairs, two pairs that differ,
            nothing between two fields; the message shows the line with a caret at the fault.
    """
    special = tuple(token for token in (eos, *special) if token)
    pieces = _take_apart(text, bos)
    once, again, after = _two_pairs(pieces, special) if pieces.between is not None else _one_pair(pieces, special)
    close = after if after.strip() and pieces.middle.startswith(after) else ""
    before = pieces.middle[len(close) :]
    if not before.rstrip(" \t"):
        close, before = "", pieces.middle
    stop = first_special(after, special)
    if stop is None:
        if not eos:
            raise DataError("nothing ends the answer", "an end token", "set tokenizer.eos_token")
        stop, after = eos, eos + after
    opening = before.rstrip(" \t")
    return TurnTemplate(
        user=Turn(again, close),
        assistant=Turn(before, after),
        system=None if pieces.before_system is None else Turn(pieces.before_system, once),
        default_system=None if pieces.before_system is None else default_system,
        prefix=once if pieces.before_system is None else "",
        generation=None if opening == before else opening,
        bos=bos,
        stop=stop,
        extra_stops=tuple(dict.fromkeys(extra_stops)),
    )


def has_fields(text: str) -> bool:
    """Whether the text is meant as a template string: it holds {INPUT} or {OUTPUT}."""
    return INPUT in text or OUTPUT in text


def first_special(text: str, special: Sequence[str]) -> str | None:
    """The special token that comes first in the text."""
    found = [(text.index(token), -len(token), token) for token in special if token in text]
    return min(found)[2] if found else None


# --- fields ---


def _take_apart(text: str, bos: str) -> _Pieces:
    fields = list(_fields(text))
    _check_order(text, fields)
    cuts = [0, *(place for name, at in fields for place in (at, at + len(name))), len(text)]
    texts = [text[start:end] for start, end in zip(cuts[::2], cuts[1::2], strict=True)]
    texts[0] = texts[0].removeprefix(bos)
    before_system = texts.pop(0) if fields[0][0] == SYSTEM else None
    for (name, at), (after, _), piece in zip(fields, fields[1:], texts[-len(fields) :], strict=False):
        if name != OUTPUT and not piece.rstrip(" \t"):
            raise fault(
                text, at + len(name), f"nothing stands between {name} and {after}",
                "text that tells them apart", "for example a line such as ### Response:",
            )  # fmt: skip
    if len(texts) == 3:
        return _Pieces(text, before_system, texts[0], texts[1], None, texts[2])
    head, middle, between, again, tail = texts
    if again != middle:
        same = next(
            (i for i, (a, b) in enumerate(zip(middle, again, strict=False)) if a != b), min(len(middle), len(again))
        )
        at = fields[-2][1] + len(INPUT) + same
        raise fault(
            text,
            at,
            "the second pair differs here from the first",
            f"{middle!r} between {INPUT} and {OUTPUT}, as there",
        )
    return _Pieces(text, before_system, head, middle, between, tail)


def _fields(text: str) -> Iterator[tuple[str, int]]:
    """The fields and their places."""
    for found in _BRACES.finditer(text):
        name = found.group()
        if name in FIELDS:
            yield name, found.start()
            continue
        plain = "{" + name[1:-1].strip().upper() + "}"
        near = difflib.get_close_matches(plain, FIELDS, n=1, cutoff=LIKE_A_FIELD)
        if near:
            raise fault(text, found.start(), f"{name} is no field", ", ".join(FIELDS), f"did you mean {near[0]}?")


def _check_order(text: str, fields: Sequence[tuple[str, int]]) -> None:
    wanted, pairs, seen_system = INPUT, 0, False
    for name, at in fields:
        if name == SYSTEM:
            if seen_system or pairs or wanted == OUTPUT:
                given = "{SYSTEM} a second time" if seen_system else "{SYSTEM} after {INPUT}"
                raise fault(text, at, given, "{SYSTEM} once, before the first {INPUT}")
            seen_system = True
        elif pairs == 2:
            raise fault(text, at, f"{name} after two turn pairs", "one pair, or two that show how turns repeat")
        elif name != wanted:
            raise fault(text, at, f"{name} where {wanted} is expected", "{INPUT}, then {OUTPUT}, once or twice")
        else:
            pairs += name == OUTPUT
            wanted = INPUT if name == OUTPUT else OUTPUT
    if wanted == OUTPUT or not pairs:
        raise fault(text, len(text), f"{wanted} is missing", "{INPUT}, then {OUTPUT}, once or twice")


# --- what is written once, and what again in each turn ---


def _one_pair(pieces: _Pieces, special: Sequence[str]) -> tuple[str, str, str]:
    """Written once, written before each question, written after each answer."""
    head, tail = pieces.head, pieces.tail
    for end in dict.fromkeys((tail, tail.strip())):
        if end.strip() and end in head:
            cut = head.rindex(end) + len(end)
            return head[:cut], head[cut:], tail
    place = _blank_line(head)
    if place is None:
        place = _turn_tokens(head, [token for token in special if token not in tail])
    if place is None:
        place = max((found.start() for found in _MARKER.finditer(head)), default=None)
    if place is None:
        return "", head, tail
    cut = len(head[:place].rstrip())
    if tail[-1:].isspace():  # the turn before brings the white space
        cut = len(head) - len(head[cut:].lstrip())
    return head[:cut], head[cut:], tail


def _two_pairs(pieces: _Pieces, special: Sequence[str]) -> tuple[str, str, str]:
    """The same of two pairs: the longest text that ends what stands before both questions is repeated."""
    head, between = pieces.head, pieces.between or ""
    ended = _end_of_answer(pieces, special)
    size, most = 0, min(len(head), len(between) - ended)
    while size < most and head[-1 - size] == between[-1 - size]:
        size += 1
    return head[: len(head) - size], head[len(head) - size :], between[: len(between) - size]


def _end_of_answer(pieces: _Pieces, special: Sequence[str]) -> int:
    """How much of the text between the pairs belongs to the first answer at least."""
    between, tail = pieces.between or "", pieces.tail
    for end in (tail, tail.rstrip()):
        if end.strip() and between.startswith(end):
            return len(end)
    if tail.strip():
        raise fault(
            pieces.text, len(pieces.text) - len(tail), "this does not follow the first answer",
            f"the beginning of {between!r}, which follows the first {OUTPUT}, or nothing",
        )  # fmt: skip
    bare = between.lstrip()
    token = next((token for token in special if bare.startswith(token)), None)
    if token is None or not (token == special[0] or pieces.middle.lstrip().startswith(token)):
        return 0
    return len(between) - len(bare) + len(token)


def _blank_line(head: str) -> int | None:
    """The last blank line that has text after it."""
    at = head.rstrip().rfind("\n\n")
    return None if at < 0 else at


def _turn_tokens(head: str, special: Sequence[str]) -> int | None:
    """Where the last special tokens begin, with nothing but a role's name between them."""
    start: int | None = None
    while True:
        before = head if start is None else head[:start]
        found = max(((before.rfind(token), len(token)) for token in special if token in before), default=None)
        if found is None:
            return start
        if start is not None and not _ROLE_WORD.fullmatch(before[found[0] + found[1] :]):
            return start
        start = found[0]
