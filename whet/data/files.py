"""One local file as parts: its format, from the suffix or as the user says, and the reader of that format."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

from whet.data.columnar import parquet_rows, read_arrow, read_parquet
from whet.data.compressed import ARCHIVE, COMPRESSIONS, Stored, format_suffix, open_stored, reading, stored
from whet.data.delimited import checked_delimiter, delimiter_of, read_delimited
from whet.data.excel import read_excel
from whet.data.json_lines import begins_with_lines, read_json_lines
from whet.data.json_list import read_json
from whet.data.lines import SAMPLE, read_plain, text_file
from whet.data.parts import Damage, Part, Piece
from whet.errors import DataError

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".xlsx": "excel",
    ".xlsm": "excel",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
}
KINDS = sorted(set(SUFFIXES.values()))
ALIASES = {"xlsx": "excel", "txt": "text", "ndjson": "jsonl", "feather": "arrow", "pandas": "csv"}
FIXES = {
    **dict.fromkeys((".xls", ".xlsb", ".ods"), "save it as .xlsx"),
    **dict.fromkeys((".doc", ".docx", ".pdf", ".rtf"), "save its text as .txt"),
    **dict.fromkeys((".tar", ".tgz", ".rar", ".7z"), "unpack it first"),
}
_POINTER = b"version https://git-lfs"

_Read = Callable[[Damage], Iterator[Piece]]


def is_known(name: str) -> bool:
    """Whether a file of this name is read without being told its format."""
    return format_suffix(name) in SUFFIXES or name.lower().endswith(ARCHIVE)


def kind_of(name: str) -> str | None:
    """The format that the suffix of a name says; None: an unknown one."""
    return SUFFIXES.get(format_suffix(name))


def file_parts(
    file: Path,
    *,
    file_type: str | None = None,
    sheet: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    sample_by: str | None = None,
) -> list[Part]:
    """The rows of one file, or of each member of a zip.

    Raises:
        DataError: an unknown format, an empty or unreadable file.
    """
    members = stored(file)
    if file.suffix.lower() == ARCHIVE and file_type is None:
        members = _of_data(file, members)
    return [_part(member, file_type, sheet, encoding, delimiter, sample_by) for member in members]


def _of_data(file: Path, members: list[Stored]) -> list[Stored]:
    packed = (*COMPRESSIONS, ARCHIVE)  # inside of a zip they are not unpacked
    names = {member: str(member.member).lower() for member in members}
    known = [member for member in members if is_known(names[member]) and not names[member].endswith(packed)]
    tables = [member for member in known if SUFFIXES[member.suffix] != "text"]
    if not known:
        found = ", ".join(list(names.values())[:5])
        raise DataError(f"{file}: no file of rows in the archive, but {found}", "files such as rows.jsonl, rows.csv")
    return tables or known


def _part(
    file: Stored,
    file_type: str | None,
    sheet: str | None,
    encoding: str | None,
    delimiter: str | None,
    sample_by: str | None,
) -> Part:
    kind = ALIASES.get(file_type, file_type) if file_type else SUFFIXES.get(file.suffix)
    if kind not in KINDS:
        given = f"{file.place}: the format {file_type or file.suffix or '(no suffix)'} is not known"
        raise DataError(given, f"one of {', '.join(KINDS)}", FIXES.get(file.suffix, "set ds_type for this data set"))
    _refuse_nothing(file)
    count = functools.partial(parquet_rows, file) if kind == "parquet" else None
    return Part(file.place, file.size, _reader(file, kind, sheet, encoding, delimiter, sample_by), count)


def _refuse_nothing(file: Stored) -> None:
    with reading(file.place), open_stored(file) as opened:
        head = opened.stream.read(SAMPLE)
    if not head.strip():
        raise DataError(f"{file.place}: the file is empty", "at least one row")
    if head.startswith(_POINTER):
        raise DataError(f"{file.place}: a pointer of Git LFS stands here, not the data", fix="git lfs pull")


def _reader(
    file: Stored, kind: str, sheet: str | None, encoding: str | None, delimiter: str | None, sample_by: str | None
) -> _Read:
    if kind == "parquet":
        return functools.partial(read_parquet, file)
    if kind == "arrow":
        return functools.partial(read_arrow, file)
    if kind == "excel":
        return functools.partial(read_excel, file, sheet)
    text = text_file(file, encoding)
    if kind == "text":
        return functools.partial(read_plain, text, sample_by)
    if kind in ("csv", "tsv"):
        usual = "\t" if kind == "tsv" else ","
        cut = checked_delimiter(delimiter) if delimiter else delimiter_of(text, usual)
        return functools.partial(read_delimited, text, cut)
    lines = kind == "jsonl" or begins_with_lines(text.head, text.whole)
    return functools.partial(read_json_lines if lines else read_json, text)
