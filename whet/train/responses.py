"""Training on answers only: which part of each row is the assistant's.

Conversations know it. Rows of text are taken apart with the template that they are in, or at the markers that the user
names. Rows that show no answer are counted, and it is an error if none does: a run that trains nothing must not start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from whet.data.records import ChatRecord, PairRecord, Record, TextRecord
from whet.data.tokens import RecordEncoder, encode_records
from whet.errors import DataError
from whet.text import pieces as author
from whet.text.apart import in_turns
from whet.text.encode import Encoded, encode_marked
from whet.text.frame import sample
from whet.text.jinja import own_bos
from whet.text.literal import Span, specials_of
from whet.text.rows import take_apart
from whet.text.template import TurnTemplate, from_jinja
from whet.train.sft_rows import COMPARED, SftRows

SHOWN = 300  # characters of a row in an error


@dataclass(frozen=True)
class Responses:
    """Encoded rows, and how many rows lack what."""

    encoded: Iterator[Encoded]
    missing: Counter[str] = field(default_factory=Counter)


def in_own_template(tokenizer: Any, rows: SftRows) -> bool:
    """Whether the texts are conversations in the tokenizer's chat template, as far as its pieces show it."""
    texts = [record for record in sample(rows.records, COMPARED) if isinstance(record, TextRecord)]
    template = from_jinja(tokenizer) if texts and tokenizer.chat_template else None
    return template is not None and all(_split(template, text, own_bos(tokenizer)) is not None for text in texts)


def by_structure(tokenizer: Any, rows: SftRows) -> Responses:
    """Rows with the assistant's turns trained, as the conversation or the chat template shows them.

    Raises:
        DataError: rows of text, none of which is in the tokenizer's template.
    """
    if rows.are_rendered(tokenizer):
        return Responses(encode_records(tokenizer, list(rows.chats)))
    if not any(isinstance(record, TextRecord) for record in rows.records):
        return Responses(encode_records(tokenizer, rows.records))
    template = from_jinja(tokenizer) if tokenizer.chat_template else None
    found = [_split(template, record, own_bos(tokenizer)) for record in rows.records]
    kept = [record for record in found if record is not None]
    if not kept:
        raise DataError(
            f"none of the {len(found)} rows shows where its answers are: they are texts, and "
            + ("not in the tokenizer's chat template" if template else "no chat template takes them apart"),
            "rows with a conversations column, or texts in the tokenizer's chat template",
            f"pass instruction_part and response_part. The first row is:\n{_start(_text(rows.records[0]))}",
        )
    missing = Counter({"not in the chat template": len(found) - len(kept)} if len(kept) < len(found) else {})
    return Responses(encode_records(tokenizer, kept), missing)


def by_markers(tokenizer: Any, rows: SftRows, instruction_part: str, response_part: str) -> Responses:
    """Rows trained after each ``response_part``, up to the next ``instruction_part`` or the end of the row.

    Raises:
        DataError: an empty marker, or no row holds ``response_part``.
    """
    if not instruction_part or not response_part:
        raise DataError("an empty instruction_part or response_part", "the texts that stand before each of them")
    marked = RecordEncoder(tokenizer, "all").mark(rows.records)
    specials = specials_of(tokenizer)
    missing: Counter[str] = Counter()
    spans = []
    for row in marked:
        spans.append(_between(row.text, instruction_part, response_part, specials))
        missing["without response_part"] += not spans[-1]
        missing["without instruction_part"] += instruction_part not in row.text
    if not any(spans):
        raise _no_marker(response_part, [row.text for row in marked])
    rest = [replace(row, spans=span) for row, span in zip(marked, spans, strict=True) if span]
    return Responses(encode_marked(tokenizer, rest), +missing)


def _split(template: TurnTemplate | None, record: Record, bos: str) -> Record | None:
    """A text as the conversation that it is; other records as they are. None: it is not in the template."""
    if not isinstance(record, TextRecord):
        return record
    if template is None:
        return None
    text = record.text.removeprefix(bos)
    if template.system_place == "each_turn":
        return _split_frame(template, text, record.text)
    for messages in (in_turns(template, text), take_apart(template, text)):
        if messages and any(message["role"] == "assistant" for message in messages):
            again = template.render(messages).removeprefix(template.bos)
            if again.rstrip() == text.rstrip():
                return ChatRecord([dict(message) for message in messages])
    return None


def _split_frame(template: TurnTemplate, text: str, whole: str) -> Record | None:
    """A row of one question and its answer, which follows the frame's last piece."""
    system = [template.system.before] if template.system else []
    found = author.slots(text, [*system, template.user.before, template.assistant.before])
    if found is None:
        return None
    border = len(whole) - len(found[-1])
    return PairRecord(whole[:border], whole[border:])


def _between(text: str, instruction_part: str, response_part: str, specials: Any) -> tuple[Span, ...]:
    """The answers: characters after a response_part, with their terminator."""
    spans: list[Span] = []
    at = text.find(response_part)
    while at >= 0:
        start = at + len(response_part)
        stop = text.find(instruction_part, start)
        end = len(text) if stop < 0 else stop
        body = text[start:end].rstrip()
        if body and specials.end(body):  # the template's white space after the terminator is not the model's
            end = start + len(body)
        if end > start:
            spans.append((start, end))
        at = text.find(response_part, stop) if stop >= 0 else -1
    return tuple(spans)


def _no_marker(response_part: str, texts: Sequence[str]) -> DataError:
    bare = response_part.strip()
    near = sum(bool(bare) and bare in text for text in texts)
    hint = f"{bare!r} is in {near} rows, with other white space around it; " if near else ""
    return DataError(
        f"response_part {response_part!r} is in none of the {len(texts)} rows, so nothing would be trained",
        "the text that stands before each answer",
        f"{hint}the first row is:\n{_start(texts[0])}",
    )


def _text(record: Record) -> str:
    return record.text if isinstance(record, TextRecord) else ""


def _start(text: str) -> str:
    shown = text if len(text) <= SHOWN else text[:SHOWN] + " ..."
    return "\n".join("    " + line for line in shown.splitlines())
