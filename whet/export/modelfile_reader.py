"""A Modelfile as the request that creates the model, as ``ollama create -f`` would send it.

Grammar and fields: Ollama's parser/parser.go and api/types.go. Our own Modelfiles and hand-written ones are read alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whet.config.nearest import did_you_mean
from whet.errors import ExportError
from whet.export.parameters import check_parameters

_PLAIN = ("template", "system", "license", "requires", "renderer", "parser")
COMMANDS = ("from", "adapter", "parameter", "message", *_PLAIN)
ROLES = ("system", "user", "assistant")
_SPACES, _LINE_ENDS = " \t", "\r\n"


@dataclass(frozen=True)
class Command:
    """One command; ``key`` is the name of a PARAMETER or the role of a MESSAGE, else empty."""

    name: str
    key: str
    value: str
    line: int


@dataclass(frozen=True)
class CreateRequest:
    """What ``POST /api/create`` gets beside the model's name.

    Attributes:
        body: the fields that do not depend on files.
        files: weights, by the name that the server is told.
        adapters: the same for adapters.
    """

    body: dict[str, Any]
    files: dict[str, Path] = field(default_factory=dict)
    adapters: dict[str, Path] = field(default_factory=dict)


def read_commands(text: str) -> Iterator[Command]:
    """The commands of a Modelfile in order.

    Raises:
        ExportError: an unknown command, or quotes that are never closed; the message has the line.
    """
    text = text.removeprefix("\ufeff")
    place = 0
    while place < len(text):
        if text[place] in _SPACES + _LINE_ENDS:
            place += 1
        elif text[place] == "#":
            place = _line_end(text, place)
        else:
            line = text.count("\n", 0, place) + 1
            name, place = _word(text, place)
            _check_command(name, line)
            key = ""
            if name.lower() in ("parameter", "message"):
                key, place = _word(text, place)
            value, place = _value(text, place, line)
            yield Command(name.lower(), key, value, line)


def create_request(modelfile: Path) -> CreateRequest:
    """The request for a Modelfile; file names in it are relative to its folder.

    Raises:
        ExportError: no such file, or a content that Ollama would refuse.
    """
    commands = list(read_commands(_read(modelfile)))
    if not any(command.name == "from" for command in commands):
        raise ExportError(f"{modelfile} has no FROM line", "FROM ./model.gguf")
    request = CreateRequest({})
    parameters: dict[str, Any] = {}
    stops: list[str] = []
    for command in commands:
        where = f"{modelfile}, line {command.line}"
        if command.name in ("from", "adapter"):
            _add_file(request, command, modelfile.parent, where)
        elif command.name == "parameter":
            parameters |= check_parameters({command.key: command.value})
            stops += [command.value] if command.key == "stop" else []
        elif command.name == "message":
            if command.key not in ROLES:
                raise ExportError(f"{where}: a MESSAGE of {command.key!r}", f"one of {', '.join(ROLES)}")
            message = {"role": command.key, "content": command.value}
            request.body.setdefault("messages", []).append(message)
        elif command.name == "license":
            request.body.setdefault("license", []).append(command.value)
        else:
            request.body[command.name] = command.value
    if parameters:
        request.body["parameters"] = parameters | ({"stop": stops} if stops else {})
    return request


def _read(modelfile: Path) -> str:
    try:
        return modelfile.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ExportError(f"there is no {modelfile}", "a Modelfile", "whet export writes one") from None
    except (OSError, ValueError) as error:
        raise ExportError(f"{modelfile} cannot be read ({error})", "a Modelfile in UTF-8") from error


def _add_file(request: CreateRequest, command: Command, folder: Path, where: str) -> None:
    """FROM or ADAPTER: a file beside the Modelfile, or (FROM) the name of a model that Ollama has."""
    path = folder / Path(command.value).expanduser()
    if path.is_file():
        table, stem = (request.files, "model") if command.name == "from" else (request.adapters, "adapter")
        table[f"{stem}-{len(table) + 1}.gguf" if table else f"{stem}.gguf"] = path
    elif path.is_dir():
        raise ExportError(f"{where}: {command.value} is a folder", "a GGUF file")
    elif command.name == "adapter" or command.value.startswith((".", "/", "~")) or command.value.endswith(".gguf"):
        raise ExportError(f"{where}: there is no file {path}", "a GGUF file beside the Modelfile")
    else:
        request.body["from"] = command.value


def _check_command(name: str, line: int) -> None:
    if name.lower() not in COMMANDS:
        known = [command.upper() for command in COMMANDS]
        raise ExportError(
            f"line {line}: {name!r} is no command of a Modelfile",
            f"one of {', '.join(known)}",
            did_you_mean(name, COMMANDS),
        )


def _word(text: str, place: int) -> tuple[str, int]:
    """The word at ``place`` and where its value begins."""
    while place < len(text) and text[place] in _SPACES:
        place += 1
    end = place
    while end < len(text) and text[end] not in _SPACES + _LINE_ENDS:
        end += 1
    return text[place:end], end


def _line_end(text: str, place: int) -> int:
    while place < len(text) and text[place] not in _LINE_ENDS:
        place += 1
    return place


def _value(text: str, place: int, line: int) -> tuple[str, int]:
    """Up to the first line end at which the quotes are closed; what is not printable is dropped."""
    kept: list[str] = []
    while True:
        end = _line_end(text, place)
        kept += [c for c in text[place:end] if c.isprintable() or c == "\t"]
        value = _unquoted("".join(kept).strip())
        if value is not None:
            return value, end
        if end >= len(text):
            raise ExportError(f"line {line}: quotes that are opened are never closed", 'a closing " or """')
        kept.append(text[end])
        place = end + 1


def _unquoted(text: str) -> str | None:
    """The value inside its quotes; None while they are open."""
    for quotes in ('"""', '"'):
        if text.startswith(quotes):
            closed = len(text) >= 2 * len(quotes) and text.endswith(quotes)
            return text[len(quotes) : -len(quotes)] if closed else None
    return text
