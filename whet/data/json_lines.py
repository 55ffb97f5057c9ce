"""JSON lines: one object on each line (.jsonl, .ndjson, and many files named .json)."""

from __future__ import annotations

import json
from collections.abc import Iterator

from whet.data.lines import NUL_BYTE, Block, TextFile
from whet.data.parts import Damage, Piece, Row

OBJECT = 'one JSON object on each line, such as {"text": "..."}'
HALF = "half of a surrogate pair (a broken emoji), which is no text"
SPACE = " \t\r\n"  # what JSON takes for white space


def read_json_lines(text: TextFile, damage: Damage) -> Iterator[Piece]:
    """The rows of the file; empty lines are left out."""
    for block in text.blocks():
        yield Piece(_rows(text, block, damage), block.done)


def begins_with_lines(head: str, whole: bool) -> bool:
    """Whether a .json begins as JSON lines: its first line is a whole object, and it is not the only line.

    Args:
        head: the beginning of the file.
        whole: ``head`` is all of it.
    """
    first, _, rest = head.lstrip(SPACE).partition("\n")
    if not first.startswith("{") or (whole and not rest.strip(SPACE)):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def has_lone_surrogate(row: Row) -> bool:
    """Whether a text in the row cannot be written as UTF-8: JSON may escape one half of a pair without the other."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _rows(text: TextFile, block: Block, damage: Damage) -> list[Row]:
    parse = json.JSONDecoder().raw_decode
    escapes = "\\ud" in block.text or "\\uD" in block.text
    rows: list[Row] = []
    add = rows.append
    for number, whole_line in enumerate(block.text.split("\n"), block.first):
        line = whole_line.strip(SPACE)
        if not line:
            continue
        try:
            row, end = parse(line)
        except (ValueError, RecursionError) as error:
            end, row, problem = 0, None, error
        if type(row) is dict and end == len(line) and number not in block.bad:
            if not escapes or "\\u" not in line or not has_lone_surrogate(row):
                add(row)
            else:
                damage.found(f"{text.place}:{number}", f"the line holds {HALF}", OBJECT)
        elif number in block.bad:
            expected = OBJECT if block.bad[number] is NUL_BYTE else text.expected
            damage.found(f"{text.place}:{number}", block.bad[number], expected)
        elif end:
            damage.found(f"{text.place}:{number}", _no_object(line, end), OBJECT)
        else:
            damage.found(f"{text.place}:{number}", f"the line is damaged: {json_problem(problem)}", OBJECT)
    return rows


def _no_object(line: str, end: int) -> str:
    if end < len(line):
        return f"the line is damaged: more text after the value, at character {end + 1}"
    return "the line is no JSON object"


def json_problem(error: Exception) -> str:
    """What the parser found, in one line."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return "nested too deep" if isinstance(error, RecursionError) else str(error)
