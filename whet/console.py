"""What a run says and what it leaves on disk: notices, progress, tables, JSON lines, safe writes.

Notices and progress go to stderr, results to stdout. ``rich`` is imported only when something is drawn,
so that ``import whet`` and ``whet --help`` stay fast.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from whet.errors import OutputError

PLAIN_LINE_SECONDS = 5.0  # without a terminal: at most one progress line in this time
PLAIN_TABLE_WIDTH = 160  # columns of a table that is not drawn on a terminal
TORCH_WRITE_FAILED = ("inline_container.cc", "iostream error")  # how torch.save says so: at its end, or before

_said: set[str] = set()


def notice(text: str, key: str | None = None) -> None:
    """Print ``note: text`` on stderr, once per key (default: the text itself)."""
    say("note", text, key)


def warn(text: str, key: str | None = None) -> None:
    """Print ``warning: text`` on stderr, once per key (default: the text itself)."""
    say("warning", text, key)


def forget_notices() -> None:
    """Let every notice be said again: a new run in the same process starts with this."""
    _said.clear()


def say(level: str, text: str, key: str | None = None) -> None:
    """Print ``level: text`` on stderr, once per level and key; ``say(*remark)`` says a remark of a config."""
    mark = f"{level}:{text if key is None else key}"
    if mark in _said:
        return
    _said.add(mark)
    print(f"{level}: {text}", file=sys.stderr, flush=True)


class Progress:
    """A bar with count, figures and time left, as a context manager. Plain lines where stderr is no terminal.

    Args:
        title: what is being done, for example "training".
        total: how many units in all; None when nobody knows.
        unit: what is counted, for example "step".
    """

    def __init__(self, title: str, total: int | None, unit: str = "it") -> None:
        self.title, self.total, self.unit = title, total, unit
        self.count = 0
        self._fields = ""
        self._bar: Any = None
        self._task: Any = None
        self._started = self._last_line = 0.0

    def __enter__(self) -> Progress:
        self._started = self._last_line = time.monotonic()
        if sys.stderr.isatty():
            self._bar = _rich_bar()
            self._task = self._bar.add_task(self.title, total=self.total, unit=self.unit, fields="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.count:
            self._plain_line(time.monotonic())

    def advance(self, n: int = 1, **fields: float | int | str) -> None:
        """Count ``n`` more units and show the figures given, such as ``loss=1.234``."""
        self.count += n
        if fields:
            self._fields = "  ".join(f"{name}={format_figure(value)}" for name, value in fields.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=self.count, fields=self._fields)
            return
        now = time.monotonic()
        if now - self._last_line >= PLAIN_LINE_SECONDS:
            self._plain_line(now)

    def _plain_line(self, now: float) -> None:
        self._last_line = now
        spent = now - self._started
        parts = [f"{self.title}: {self.count:,}" + (f"/{self.total:,}" if self.total else "") + f" {self.unit}"]
        if self._fields:
            parts.append(self._fields)
        if self.total and 0 < self.count < self.total:
            parts.append(f"{format_seconds(spent / self.count * (self.total - self.count))} left")
        else:
            parts.append(f"{format_seconds(spent)} spent")
        print("  ".join(parts), file=sys.stderr, flush=True)


def _rich_bar() -> Any:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=24),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[unit]}  {task.fields[fields]}", markup=False),
        progress.TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
    )


def format_figure(value: float | int | str) -> str:
    """A number as people read it: 2,310 / 1.234 / 2e-05."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.3g}"


def format_seconds(seconds: float) -> str:
    """Seconds as ``8s``, ``3m05s`` or ``2h10m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Print a table on stdout. Cells are shown as they are (no markup); columns of numbers stand to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(title) if title else None, box=box.SIMPLE_HEAD, title_justify="left")
    for index, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        drawn.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(format_figure(cell) if isinstance(cell, int | float) else str(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else PLAIN_TABLE_WIDTH).print(drawn)


class MetricsLog:
    """Appends one JSON object a line, flushed at once, so that a killed run keeps what it measured.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def write(self, **fields: Any) -> None:
        """Append one line. NaN and infinities, which JSON does not know, are written as null."""
        line = json.dumps(_finite(fields), ensure_ascii=False, default=str, allow_nan=False)
        with output_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text_atomic(path: Path | str, text: str) -> None:
    """Write beside ``path``, then rename: readers see the old file or the whole new one.

    Raises:
        OutputError: the place cannot be written to.
    """
    target = Path(path)
    part = _beside(target)
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)


def write_json_atomic(path: Path | str, obj: Any) -> None:
    """As :func:`write_text_atomic`, for one JSON value (indented; NaN as null)."""
    write_text_atomic(path, json.dumps(_finite(obj), indent=2, ensure_ascii=False, default=str, allow_nan=False) + "\n")


@contextlib.contextmanager
def staged_folder(path: Path | str, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside ``path``; at success it becomes ``path``, at failure it is removed.

    Where ``path`` already holds files, the new files go into it and those of other names stay
    (``--out .`` must never delete what a user keeps there). ``replace=True`` swaps the whole folder;
    it is for folders that whet alone owns, such as ``RUN/adapter``.

    Raises:
        OutputError: the place cannot be written to.
    """
    target = Path(path)
    stage = _beside(target)
    with output_errors(target):
        if target.exists() and not target.is_dir():
            raise OutputError(f"{target} is a file", "a folder", "name another folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir()
        try:
            yield stage
            _settle(stage, target, replace)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def _settle(stage: Path, target: Path, replace: bool) -> None:
    if target.exists() and any(target.iterdir()) and not replace:
        for item in sorted(stage.iterdir()):
            _move_over(item, target / item.name)
    else:
        _move_over(stage, target)


def _move_over(source: Path, target: Path) -> None:
    """Rename, moving an older folder or file of that name out of the way first and deleting it last."""
    if target.is_dir():
        old = target.with_name(f".{target.name}.old-{os.getpid()}")
        os.replace(target, old)
        os.replace(source, target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(source, target)


def _beside(target: Path) -> Path:
    whole = Path(os.path.abspath(target))  # "." has no name of its own
    return whole.with_name(f".{whole.name}.part-{os.getpid()}")


@contextlib.contextmanager
def output_errors(path: Path | str) -> Iterator[None]:
    """Turn a full disk or a place without write permission into :class:`OutputError`; other errors pass."""
    try:
        yield
    except OutputError:
        raise
    except Exception as error:
        translated = as_output_error(error, path)
        if translated is None:
            raise
        raise translated from error


def as_output_error(error: BaseException, path: Path | str | None = None) -> OutputError | None:
    """The :class:`OutputError` that says what ``error`` means, or None when it is no output problem.

    safetensors and pyarrow wrap the system's error in types of their own and keep only its text; torch keeps not
    even that.
    """
    code = error.errno if isinstance(error, OSError) else None
    place = path if path is not None else getattr(error, "filename", None) or "the output folder"
    if isinstance(error, RuntimeError) and any(mark in str(error) for mark in TORCH_WRITE_FAILED):
        return OutputError(
            f"cannot write {place}: the disk is probably full", fix="free some space, or name another --out"
        )
    if code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
        return OutputError(f"the disk is full: cannot write {place}", fix="free some space, or name another --out")
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"not allowed to write {place}", "a place you may write to", "name another --out")
    if code in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return OutputError(
            f"cannot write {place}: a file or folder of that name is in the way", fix="name another --out"
        )
    return None
