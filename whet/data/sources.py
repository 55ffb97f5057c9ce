"""Where examples come from: json, jsonl, csv, tsv, parquet, a folder of them, or a name on the hub.

This file finds the files and the rows of a split; ``files.py`` reads one file.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow  # type: ignore[import-untyped]

from whet.data.files import KINDS, SUFFIXES, read_table
from whet.errors import DataError

OTHER_SPLITS = ("test", "dev", "valid", "validation", "val", "eval")
_SPLIT = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?$")


def read_rows(
    path: str | Path,
    *,
    name: str | None = None,
    split: str = "train",
    file_type: str | None = None,
    revision: str | None = None,
    data_files: str | Sequence[str] | None = None,
) -> datasets.Dataset:
    """Read one source.

    Args:
        path: a file, a folder, a hub name, or a format (``json``, ``csv``, ...) together with ``data_files``.
        name: the hub data set's configuration.
        split: which rows; ``train[:5000]`` and ``train[10%:20%]`` work for local files too.
        file_type: the format where the suffix does not say it.
        revision: commit, tag or branch on the hub.
        data_files: files inside the folder or hub data set.

    Raises:
        DataError: a missing, empty or damaged file (with its line where known), an unknown format or split.
    """
    here = Path(os.path.expanduser(str(path)))
    chosen = [data_files] if isinstance(data_files, str) else list(data_files or [])
    if str(path) in (*KINDS, "text") and chosen and not here.exists():
        return _local(_matching(Path(), chosen), split, file_type or str(path))
    if here.is_dir():
        if (here / "dataset_info.json").exists() or (here / "dataset_dict.json").exists():
            return _saved(here, split)
        files = _matching(here, chosen) if chosen else _of_split(here, _parse_split(split)[0])
        return _local(files, split, file_type)
    if here.is_file():
        return _local([here], split, file_type)
    if here.suffix.lower() in SUFFIXES or str(path).startswith((".", "/", "~", "\\")) or str(path).count("/") > 1:
        raise DataError(f"{path}: no such file", "a file or folder of examples", _similar(here))
    return _from_hub(str(path), name, split, revision, chosen)


def _local(files: Sequence[Path], split: str, file_type: str | None) -> datasets.Dataset:
    _, start, stop = _parse_split(split)
    parts = [datasets.Dataset(read_table(file, file_type)) for file in files]
    try:
        rows = parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)
    except (ValueError, TypeError, pyarrow.ArrowInvalid) as error:
        names = ", ".join(file.name for file in files)
        raise DataError(f"the columns of {names} do not fit together: {error}", "the same columns in each") from error
    return _slice(rows, start, stop, f"{files[0]}: the split {split}")


def _slice(rows: datasets.Dataset, start: str | None, stop: str | None, what: str) -> datasets.Dataset:
    first, last = _position(start, len(rows), 0), _position(stop, len(rows), len(rows))
    if last <= first:
        raise DataError(f"{what} holds no rows", f"some of its {len(rows):,} rows")
    return rows if (first, last) == (0, len(rows)) else rows.select(range(first, last))


def _parse_split(split: str) -> tuple[str, str | None, str | None]:
    found = _SPLIT.match(split)
    if found is None:
        raise DataError(f'the split "{split}" is not understood', "train, train[:5000] or train[10%:20%]")
    return found.group(1), found.group(2), found.group(3)


def _position(text: str | None, rows: int, default: int) -> int:
    if text is None:
        return default
    number = round(int(text[:-1]) * rows / 100) if text.endswith("%") else int(text)
    return min(max(number + rows if number < 0 else number, 0), rows)


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    files: list[Path] = []
    for pattern in patterns:
        given = Path(os.path.expanduser(pattern))
        exact = given if given.is_absolute() else folder / given
        found = [exact] if exact.is_file() else sorted(folder.glob(pattern)) if not given.is_absolute() else []
        if not found:
            raise DataError(f"{exact}: no such file", "a file named by data_files", _similar(exact))
        files += found
    return files


def _of_split(folder: Path, base: str) -> list[Path]:
    """The folder's files that hold ``base``: those named so, or for train all that name no other split."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise DataError(f"{folder}: no file of examples in this folder", f"files that end in {', '.join(SUFFIXES)}")

    def names_split(file: Path, word: str) -> bool:
        return re.search(rf"(^|[^a-z]){re.escape(word)}([^a-z]|$)", file.stem.lower()) is not None

    named = [file for file in files if names_split(file, base.lower())]
    if base == "train" and not named:
        named = [file for file in files if not any(names_split(file, word) for word in OTHER_SPLITS)]
    if not named:
        found = ", ".join(file.name for file in files[:10])
        raise DataError(
            f'{folder}: no file for the split "{base}"', f"one of the files there: {found}", "set split, or path"
        )
    return named


def _saved(folder: Path, split: str) -> datasets.Dataset:
    base, start, stop = _parse_split(split)
    rows = datasets.load_from_disk(str(folder))
    if isinstance(rows, datasets.DatasetDict):
        if base not in rows:
            raise DataError(f'{folder}: no split "{base}"', f"one of {', '.join(rows)}", "set split")
        rows = rows[base]
    return _slice(rows, start, stop, f"{folder}: the split {split}")


def _from_hub(path: str, name: str | None, split: str, revision: str | None, files: list[str]) -> datasets.Dataset:
    try:
        rows = datasets.load_dataset(path, name, split=split, revision=revision, data_files=files or None)
    except Exception as error:  # the hub, the network and a dozen formats stand behind this call
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{path}: no file or folder of that name here, and the hub gave no data set: {first_line}",
            "a local file or folder, or owner/name of a data set on the hub",
        ) from error
    if len(rows) == 0:
        raise DataError(f"{path}: the split {split} holds no rows", "at least one row")
    return rows


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either: check the path"
    names = [item.name for item in path.parent.iterdir() if item.is_dir() or item.suffix.lower() in SUFFIXES]
    found = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    return f'did you mean "{path.with_name(found[0])}"?' if found else "check the path"
