"""How whet is laid out: imports go one way, files and functions stay small, no file knows one machine.

errors, config, runtime and main_memory, console, llamacpp -> text -> data, models -> engine -> train -> export
-> evaluate -> serve -> api -> notebook_data -> notebook, sample -> studio, cli
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "whet"
FILE_LINES, FUNCTION_LINES = 500, 60

# Lower may be imported by higher. Parts of one rank never import each other.
RANKS = [
    {"errors"},
    {"config"},
    {"runtime", "main_memory"},
    {"console"},
    {"llamacpp"},
    {"text"},
    {"data", "models"},
    {"engine"},
    {"train"},
    {"export"},
    {"evaluate"},
    {"serve"},
    {"api"},
    {"notebook_data", "notebook_push"},
    {"notebook", "sample"},
    {"studio", "cli"},
]
RANK = {part: rank for rank, parts in enumerate(RANKS) for part in parts}

NEVER = {
    "engine": {"transformers", "whet.text"},
    "export": {"whet.train"},
    "evaluate": {"whet.train"},
    "serve": {"whet.train"},
}
CLI_MAY = {"api", "console", "errors", "sample", "llamacpp", "config", "runtime", "cli"}
STUDIO_MAY = {"api", "console", "errors", "config", "studio"}


class Import(NamedTuple):
    """``name`` is dotted and absolute; for ``from a import b`` it is ``a.b`` where that is a module, else ``a``."""

    file: Path
    line: int
    name: str

    @property
    def part(self) -> str:
        """The part of whet that imports: ``whet/text/frame.py`` is of ``text``; the package's root is ``whet``."""
        parts = self.file.relative_to(PACKAGE).with_suffix("").parts
        return "whet" if parts == ("__init__",) else parts[0]

    @property
    def target(self) -> str | None:
        """The part of whet that is imported; None for other packages; ``whet`` for the package's own names."""
        head, _, rest = self.name.partition(".")
        if head != "whet":
            return None
        return rest.split(".")[0] if rest else "whet"

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.name}"


def python_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def is_module(name: str) -> bool:
    place = ROOT.joinpath(*name.split("."))
    return place.with_suffix(".py").is_file() or place.is_dir()


def imports_of(file: Path) -> Iterator[Import]:
    """Every import of a file: at the top, inside functions, and under TYPE_CHECKING."""
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            yield from (Import(file, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(file, node)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield Import(file, node.lineno, inner if base.startswith("whet") and is_module(inner) else base)


def absolute(file: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = file.relative_to(ROOT).parent.parts
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


ALL_IMPORTS = [found for file in python_files() for found in imports_of(file)]


def starts(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def test_every_part_has_its_rank() -> None:
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert parts - {"__init__"} <= set(RANK), "a part of whet without a place in the order"
    assert len(ALL_IMPORTS) > 300, "the imports were not found"


def test_imports_go_down() -> None:
    wrong = [
        str(found)
        for found in ALL_IMPORTS
        if found.target not in (None, "whet", found.part)
        and found.part != "whet"
        and RANK[found.target] >= RANK[found.part]
    ]
    assert wrong == []


def test_nobody_uses_the_public_face_from_inside() -> None:
    """``whet/__init__.py`` leads to the notebook: a module below that imports a name from it makes a circle."""
    wrong = [str(found) for found in ALL_IMPORTS if found.target == "whet" and found.part != "whet"]
    assert wrong == []


def test_what_a_part_never_imports() -> None:
    wrong = [str(found) for found in ALL_IMPORTS for banned in NEVER.get(found.part, ()) if starts(found.name, banned)]
    assert wrong == []


def test_only_kernels_import_triton() -> None:
    kernels = PACKAGE / "engine" / "kernels"
    wrong = [str(i) for i in ALL_IMPORTS if starts(i.name, "triton") and not i.file.is_relative_to(kernels)]
    assert wrong == []


def test_only_one_file_knows_xllamacpp() -> None:
    home = PACKAGE / "llamacpp.py"
    assert [str(i) for i in ALL_IMPORTS if starts(i.name, "xllamacpp") and i.file != home] == []


def test_nobody_imports_the_doors() -> None:
    wrong = [str(i) for i in ALL_IMPORTS if i.target in ("cli", "studio") and i.target != i.part]
    assert wrong == []


@pytest.mark.parametrize(("part", "allowed"), [("cli", CLI_MAY), ("studio", STUDIO_MAY)])
def test_the_doors_reach_work_through_few_parts(part: str, allowed: set[str]) -> None:
    wrong = [str(i) for i in ALL_IMPORTS if i.part == part and i.target is not None and i.target not in allowed]
    assert wrong == []


def test_files_are_small() -> None:
    lines = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in python_files()}
    assert {name: count for name, count in lines.items() if count > FILE_LINES} == {}


def test_functions_are_short() -> None:
    found = {}
    for file in python_files():
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                if size > FUNCTION_LINES:
                    found[f"{file.relative_to(ROOT)}:{node.lineno} {node.name}"] = size
    assert found == {}


# Folders of one machine, and of homes; written in two halves, so that this file does not match itself.
MACHINE_PATH = re.compile(
    "|".join(f"(?<![\\w.~}}])/{folder}" for folder in ("work/", "tmp/v", "root/", "home/", "opt/pypi", "opt/wheels"))
)


def tracked_files() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.decode().split("\0") if name]


def test_no_file_names_a_place_on_one_machine() -> None:
    wrong = []
    for file in tracked_files():
        try:
            text = file.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):  # a weight, a picture, a database; or deleted and not yet committed
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATH.search(line):
                wrong.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert wrong == []
