"""People's verdicts as rows of preferences: blind votes of a comparison, and thumbs up or down.

A vote (the page of ``whet compare`` saves such lines):

    {"prompt": "...", "a": "...", "b": "...", "vote": "a" | "b" | "tie", "a_is": "model", "b_is": "model"}

A thumb:

    {"messages": [..., {"role": "assistant", ...}], "label": true}
    {"prompt": "...", "completion": "...", "thumb": "up"}

``prompt`` is a text or a list of messages. Several verdicts on the same answers count together, and the majority wins.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from whet.data.stream import open_rows
from whet.errors import DataError

Message = dict[str, Any]
GOOD, BAD = ("true", "up", "good", "1", "1.0", "👍", "yes"), ("false", "down", "bad", "0", "0.0", "-1", "👎", "no")
SHAPES = 'a vote {"prompt", "a", "b", "vote"} or a thumb {"prompt", "completion", "label"} or {"messages", "label"}'
TIE, CONTRARY, SAME = "ties", "as many verdicts for as against", "both answers are the same"
ALONE = "answers without a counterpart of the other verdict"


class Verdict(NamedTuple):
    """``better`` over ``worse`` (a vote), or ``better`` alone with ``good`` (a thumb); texts. Weighs 0 for a tie."""

    prompt: str  # JSON of the messages, so that equal prompts are equal
    better: str
    worse: str | None
    good: bool


@dataclass
class Feedback:
    """What verdicts become.

    Attributes:
        rows: of the columns prompt, chosen, rejected; or prompt, completion, label.
        left_out: verdicts that gave no row, by reason.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    verdicts: int = 0


def read_feedback(files: Iterable[Path | str], *, kto: bool = False) -> Feedback:
    """Rows of preferences from files of verdicts.

    Args:
        files: JSON lines.
        kto: single answers with a label instead of pairs.

    Raises:
        DataError: a line of another shape, or no row comes of them.
    """
    found = Feedback()
    votes: dict[tuple[str, frozenset[str]], Counter[str]] = {}
    thumbs: dict[str, dict[str, Counter[bool]]] = {}
    for verdict in _verdicts(files, found):
        if verdict.worse is not None:
            key = (verdict.prompt, frozenset((verdict.better, verdict.worse)))
            votes.setdefault(key, Counter())[verdict.better] += 1
        else:
            thumbs.setdefault(verdict.prompt, {}).setdefault(verdict.better, Counter())[verdict.good] += 1
    for (prompt, answers), counts in votes.items():
        _vote(found, prompt, sorted(answers), counts, kto)
    for prompt, judged in thumbs.items():
        _thumbs(found, prompt, judged, kto)
    if not found.rows:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in found.left_out.items())
        fix = "with --kto each rated answer is a row of its own" if ALONE in found.left_out else ""
        raise DataError(f"none of the {found.verdicts:,} verdicts gives a row: {reasons or 'there are none'}", fix=fix)
    return found


def _vote(found: Feedback, prompt: str, answers: list[str], counts: Counter[str], kto: bool) -> None:
    one, other = answers
    if counts[one] == counts[other]:
        found.left_out[CONTRARY] += counts.total()
        return
    better, worse = (one, other) if counts[one] > counts[other] else (other, one)
    if kto:
        found.rows += [_labelled(prompt, better, True), _labelled(prompt, worse, False)]
    else:
        found.rows.append(_pair(prompt, better, worse))


def _thumbs(found: Feedback, prompt: str, judged: dict[str, Counter[bool]], kto: bool) -> None:
    """All answers with their label, or pairs: every answer of the larger side once, the other side's in turn."""
    sides: dict[bool, list[str]] = {True: [], False: []}
    for answer, counts in judged.items():
        if counts[True] == counts[False]:
            found.left_out[CONTRARY] += counts.total()
        else:
            sides[counts[True] > counts[False]].append(answer)
    good, bad = sides[True], sides[False]
    if kto:
        found.rows += [_labelled(prompt, answer, label) for label, side in sides.items() for answer in side]
    elif good and bad:
        turns = range(max(len(good), len(bad)))
        found.rows += [_pair(prompt, good[n % len(good)], bad[n % len(bad)]) for n in turns]
    else:
        found.left_out[ALONE] += len(good) + len(bad)


def _pair(prompt: str, better: str, worse: str) -> dict[str, Any]:
    return {"prompt": json.loads(prompt), "chosen": _answer(better), "rejected": _answer(worse)}


def _labelled(prompt: str, answer: str, label: bool) -> dict[str, Any]:
    return {"prompt": json.loads(prompt), "completion": _answer(answer), "label": label}


def _answer(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


def _verdicts(files: Iterable[Path | str], found: Feedback) -> Iterator[Verdict]:
    for file in files:
        for batch in open_rows(file, file_type="jsonl").batches():
            for number, row in enumerate(batch.rows, batch.first):
                found.verdicts += 1
                where = f"{file}: row {number}"
                yield from _of_vote(row, where, found) if row.get("vote") is not None else [_of_thumb(row, where)]


def _of_vote(row: dict[str, Any], where: str, found: Feedback) -> Iterator[Verdict]:
    a, b, vote = row.get("a"), row.get("b"), row["vote"]
    if not isinstance(a, str) or not isinstance(b, str):
        raise DataError(f"{where}: the answers a and b are no texts", SHAPES)
    if vote not in ("a", "b", "tie"):
        raise DataError(f"{where}: vote is {vote!r}", '"a", "b" or "tie"')
    prompt = _prompt(row.get("prompt"), where)
    if a == b or vote == "tie":
        found.left_out[SAME if a == b else TIE] += 1
        return
    yield Verdict(prompt, *((a, b) if vote == "a" else (b, a)), good=True)


def _of_thumb(row: dict[str, Any], where: str) -> Verdict:
    value = row.get("label") if row.get("label") is not None else row.get("thumb")
    word = str(value).strip().lower()
    if word not in (*GOOD, *BAD):
        given = "there is neither vote nor label nor thumb" if value is None else f"the label is {value!r}"
        raise DataError(f"{where}: {given}", f"{SHAPES}; labels are true, false, up or down")
    messages = row.get("messages")
    if messages is not None:
        before, answer = _split(messages, where)
    else:
        before, answer = row.get("prompt"), row.get("completion")
        if isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], dict):
            answer = answer[0].get("content")
    if not isinstance(answer, str):
        raise DataError(f"{where}: there is no answer", SHAPES)
    return Verdict(_prompt(before, where), answer, None, word in GOOD)


def _split(messages: Any, where: str) -> tuple[Any, Any]:
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict) or last.get("role") != "assistant":
        raise DataError(f"{where}: messages do not end with the assistant's answer", SHAPES)
    return messages[:-1], last.get("content")


def _prompt(value: Any, where: str) -> str:
    messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
    good = isinstance(messages, list) and messages and all(_is_message(message) for message in messages)
    if not good:
        raise DataError(f"{where}: the prompt is {type(value).__name__}", "a text, or a list of messages")
    return json.dumps(messages, ensure_ascii=False, sort_keys=True)


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str) and "content" in message
