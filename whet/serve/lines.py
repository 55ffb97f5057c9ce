"""Messages from a terminal or a pipe: history, pasted lines, blocks."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from whet.serve.places import cache_folder

FENCE = '"""'
HISTORY_LINES = 1000
HISTORY = "chat_history"


class LineReader:
    """One message after the other.

    At a terminal the arrow keys bring back earlier messages, also those of earlier conversations; a paste of several
    lines is one message (where the terminal marks pastes, as nearly all do). Everywhere, what stands between two lines
    with three quotation marks is one message.

    Args:
        history: the file of earlier messages; None: in the user's cache folder.
    """

    def __init__(self, history: Path | None = None) -> None:
        self._file = cache_folder() / HISTORY if history is None else history
        self._readline = _readline() if sys.stdin.isatty() else None
        if self._readline is not None:
            with contextlib.suppress(OSError):
                self._readline.read_history_file(self._file)

    def read(self) -> str | None:
        """The next message; None when the input is over."""
        line = self._line("> ")
        if line is None or not line.lstrip().startswith(FENCE):
            return line
        first = line.lstrip().removeprefix(FENCE)
        if first.rstrip().endswith(FENCE):
            return first.rstrip().removesuffix(FENCE)
        lines = [first] if first.strip() else []
        while (line := self._line(". ")) is not None:
            if line.rstrip().endswith(FENCE):
                return "\n".join([*lines, *([rest] if (rest := line.rstrip().removesuffix(FENCE)) else [])])
            lines.append(line)
        return "\n".join(lines)

    def close(self) -> None:
        """Keep the history, for this user's eyes only."""
        if self._readline is None:
            return
        with contextlib.suppress(OSError):  # a place that cannot be written costs the history, not the conversation
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._readline.set_history_length(HISTORY_LINES)
            os.close(os.open(self._file, os.O_CREAT | os.O_WRONLY, 0o600))
            self._readline.write_history_file(self._file)

    def _line(self, mark: str) -> str | None:
        if not sys.stdin.isatty():
            line = sys.stdin.readline()
            return line.rstrip("\n") if line else None
        try:
            return input(mark)
        except EOFError:
            print(file=sys.stderr)
            return None


def _readline() -> Any:
    """GNU readline or what stands for it; Windows has none, and brings arrow keys itself."""
    try:
        import readline
    except ImportError:
        return None
    with contextlib.suppress(Exception):
        readline.parse_and_bind("set enable-bracketed-paste on")
    return readline
