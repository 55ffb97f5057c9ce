"""The licence that goes with an exported model: what the user says, else what the base model's folder says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from whet.console import notice
from whet.errors import ExportError

FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")
LONGEST = 200_000  # characters; the longest licences of models have some 20,000


def licence_text(given: str | None, base: Path | None) -> str | None:
    """What LICENSE says in a Modelfile.

    Args:
        given: a file, an SPDX identifier such as "apache-2.0", or the text itself; "" for none; None takes the base's.
        base: the folder of the base model.

    Raises:
        ExportError: a file that is not there or is no text.
    """
    if given is None:
        return None if base is None else _of_base(base)
    if not given.strip():
        return None
    if "\n" in given or len(given) > 1000:
        return given
    file = Path(given).expanduser()
    if file.is_file():
        return _read(file)
    if "/" in given or file.suffix in (".txt", ".md"):
        raise ExportError(
            f"there is no licence file {given}", "a file, an SPDX identifier such as apache-2.0, or a text"
        )
    return given


def read_card(folder: Path) -> dict[str, Any]:
    """The front matter of a model's README.md; empty where there is none."""
    file = folder / "README.md"
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in lines[1:]:
        return {}
    try:
        found = yaml.safe_load("\n".join(lines[1 : lines.index("---", 1)]))
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def licence_name(folder: Path) -> str | None:
    """The identifier of the licence on a model's card: "apache-2.0", or the name that stands beside "other"."""
    card = read_card(folder)
    named = card.get("license")
    if named == "other":
        named = card.get("license_name") or named
    return named if isinstance(named, str) and named else None


def _of_base(folder: Path) -> str | None:
    for name in FILES:
        if (folder / name).is_file():
            return _plain(folder / name)
    return licence_name(folder)


def _plain(file: Path) -> str | None:
    """A base's licence with the white space that a Modelfile can hold; None, and a word, where more would be lost."""
    text = "".join(" " if c.isspace() and c not in "\n\t" else c for c in _read(file).replace("\r\n", "\n"))
    if all(c.isprintable() or c in "\n\t" for c in text):
        return text.strip()
    notice(f"{file} has characters that a Modelfile cannot hold: name the licence with --license")
    return None


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except ValueError as error:
        raise ExportError(f"{file} is no text", "a licence as UTF-8 text") from error
    if len(text) > LONGEST:
        raise ExportError(f"{file} has {len(text):,} characters", f"a licence of at most {LONGEST:,}")
    return text
