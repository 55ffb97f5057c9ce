"""Which files a path means: a file, a glob, a folder with files of several splits, names inside of a folder."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from whet.data.files import ALIASES, KINDS, SUFFIXES, is_known, kind_of
from whet.data.slices import parse_split
from whet.errors import DataError

OTHER_SPLITS = ("test", "dev", "valid", "validation", "val", "eval")
NO_DATA = re.compile(  # beside data, never data
    r"^(\.|~\$|readme|licen[sc]e|notice|changelog|copying|authors|dataset_infos?\.json|state\.json)", re.IGNORECASE
)


def find_files(path: str, split: str, chosen: Sequence[str], file_type: str | None) -> list[Path] | None:
    """The local files of a source, in order; None: nothing here, it may be a name on the hub.

    Args:
        path: what the user wrote: a file, folder or glob, or the name of a format together with ``chosen``.
        split: in a folder, files that are named so.
        chosen: file names or globs inside of the folder (``data_files``).
        file_type: the format, where files need no known suffix.

    Raises:
        DataError: a path that can only be local and is not there, with the nearest name.
    """
    here = Path(os.path.expanduser(path))
    if chosen and path in (*KINDS, *ALIASES) and not here.exists():
        return _matching(Path(), chosen)
    if here.is_dir():
        return _matching(here, chosen) if chosen else _of_split(here, parse_split(split)[0], file_type)
    if here.is_file():
        return [here]
    if glob.has_magic(path):
        return _globbed(str(here), path)
    local = is_known(here.name) or path.startswith((".", "/", "~", "\\")) or path.count("/") > 1 or here.is_absolute()
    if local or _misspelt(here):
        raise DataError(f"{path}: no such file", "a file or folder of examples", similar(here))
    return None


def _misspelt(path: Path) -> bool:
    """A name with an ending, beside a file of nearly that name: nobody on the network needs to be asked for it."""
    return "." in path.name and similar(path).startswith("did you mean")


def similar(path: Path) -> str:
    """The name nearest to a missing one, as something to do."""
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either: check the path"
    names = [item.name for item in path.parent.iterdir() if item.is_dir() or is_known(item.name)]
    found = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    return f'did you mean "{path.with_name(found[0])}"?' if found else "check the path"


def _globbed(pattern: str, given: str) -> list[Path]:
    files = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if os.path.isfile(name)]
    if not files:
        raise DataError(f"{given}: no file matches", "a pattern such as data/*.jsonl, or data/**/*.jsonl", "check it")
    return files


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    files: list[Path] = []
    for pattern in patterns:
        exact = folder / os.path.expanduser(pattern)  # an absolute pattern stands alone
        if exact.is_file():
            found = [exact]
        elif glob.has_magic(pattern):
            found = _globbed(str(exact), pattern)
        else:
            raise DataError(f"{exact}: no such file", "a file named by data_files", similar(exact))
        files += [file for file in found if file not in files]
    return files


def _of_split(folder: Path, base: str, file_type: str | None) -> list[Path]:
    """The folder's files that hold ``base``: those named so, or for train all that name no other split."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not _beside_data(file, folder))
    files = [file for file in files if file_type or is_known(file.name)]
    tables = [file for file in files if kind_of(file.name) != "text"]
    files = files if file_type else tables or files  # notes beside tables are no data
    if not files:
        raise DataError(f"{folder}: no file of examples in this folder", f"files that end in {', '.join(SUFFIXES)}")
    named = [file for file in files if _names_split(file, base)]
    if base == "train" and not named:
        named = [file for file in files if not any(_names_split(file, word) for word in OTHER_SPLITS)]
    if not named:
        found = ", ".join(file.name for file in files[:10])
        given = f'{folder}: no file for the split "{base}"'
        raise DataError(given, f"one of the files there: {found}", "set split, or path")
    return named


def _beside_data(file: Path, folder: Path) -> bool:
    inside = file.relative_to(folder)
    return NO_DATA.match(file.name) is not None or any(part.startswith(".") for part in inside.parts)


def _names_split(file: Path, word: str) -> bool:
    return re.search(rf"(^|[^a-z]){re.escape(word.lower())}([^a-z]|$)", file.stem.lower()) is not None
