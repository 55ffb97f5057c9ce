"""Files as they lie on the disk: plain, compressed (.gz .bz2 .xz .zst), or a member of a .zip."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib
import importlib.util
import lzma
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, cast

from whet.errors import DataError, MissingDependency

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
ARCHIVE = ".zip"
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, gzip.BadGzipFile, NotImplementedError)


@dataclass(frozen=True)
class Stored:
    """One file of rows. ``member``: its name inside of the zip at ``path``; ``size``: its bytes on the disk."""

    path: Path
    size: int
    member: str | None = None

    @property
    def place(self) -> str:
        """How messages name it."""
        return str(self.path) if self.member is None else f"{self.path}/{self.member}"

    @property
    def compression(self) -> str:
        """The suffix of the compression, in lower case; empty without one."""
        suffix = self.path.suffix.lower()
        return suffix if self.member is None and suffix in COMPRESSIONS else ""

    @property
    def suffix(self) -> str:
        """The suffix that says the format: ``.jsonl`` for ``rows.jsonl.gz``."""
        return format_suffix(self.member or self.path.name)


class Opened(NamedTuple):
    """A file that is being read. ``done()``: bytes of it on the disk that have been read."""

    stream: IO[bytes]
    done: Callable[[], int]


def format_suffix(name: str) -> str:
    """The last suffix of a name that is no compression, in lower case."""
    path = PurePosixPath(name)
    return (PurePosixPath(path.stem) if path.suffix.lower() in COMPRESSIONS else path).suffix.lower()


def stored(file: Path) -> list[Stored]:
    """The files that ``file`` holds: itself, or the members of a zip. Hidden ones and macOS's shadows are left out.

    Raises:
        DataError: it cannot be read, or is a damaged zip.
    """
    with reading(str(file)):
        if file.suffix.lower() != ARCHIVE:
            return [Stored(file, file.stat().st_size)]
        with zipfile.ZipFile(file) as archive:
            members = [item for item in archive.infolist() if not item.is_dir() and not _hidden(item.filename)]
    if not members:
        raise DataError(f"{file}: the archive is empty", "a zip with files of rows")
    return [Stored(file, item.compress_size, item.filename) for item in sorted(members, key=lambda i: i.filename)]


def _hidden(member: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(member).parts)


@contextlib.contextmanager
def reading(place: str) -> Iterator[None]:
    """Turn what goes wrong between the disk and the bytes into a :class:`DataError`."""
    try:
        yield
    except _DAMAGED as error:
        what = str(error) or type(error).__name__
        raise DataError(f"{place}: the compressed file is damaged: {what}", "a whole file", "fetch it again") from error
    except OSError as error:
        if "invalid data stream" in str(error).lower():  # how bz2 says it
            given = f"{place}: the compressed file is damaged: {error}"
            raise DataError(given, "a whole file", "fetch it again") from error
        raise DataError(f"{place}: cannot be read ({error.strerror or error})", "a readable file") from error


@contextlib.contextmanager
def open_stored(file: Stored) -> Iterator[Opened]:
    """The bytes of a file, without its compression.

    Raises:
        DataError: it cannot be read.
        MissingDependency: a .zst, and nothing here can read it.
    """
    if file.member is not None:
        with zipfile.ZipFile(file.path) as archive, _member(archive, file) as opened:
            yield opened
        return
    with file.path.open("rb") as raw:
        if not file.compression:
            yield Opened(raw, raw.tell)
            return
        with _decompressed(file.compression, raw, file.place) as stream:
            yield Opened(stream, raw.tell)


@contextlib.contextmanager
def _member(archive: zipfile.ZipFile, file: Stored) -> Iterator[Opened]:
    whole = max(archive.getinfo(str(file.member)).file_size, 1)
    try:
        opened = archive.open(str(file.member))
    except RuntimeError as error:  # how zipfile asks for a password
        raise DataError(f"{file.place}: locked with a password", "a zip without one", "unpack it first") from error
    with opened as stream:
        yield Opened(stream, lambda: file.size * stream.tell() // whole)


def _decompressed(compression: str, raw: IO[bytes], place: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    if compression == ".zst":
        return _zstandard(raw, place)
    openers: dict[str, Callable[[IO[bytes]], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return cast(contextlib.AbstractContextManager[IO[bytes]], openers[compression](raw))


def _zstandard(raw: IO[bytes], place: str) -> Any:
    """Python reads it by itself from 3.14 on; before that with the package ``zstandard``."""
    if importlib.util.find_spec("compression") is not None:
        return importlib.import_module("compression.zstd").open(raw)
    if importlib.util.find_spec("zstandard") is None:
        raise MissingDependency(
            f"{place}: this Python cannot read .zst", "the package zstandard, or Python 3.14", "pip install zstandard"
        )
    return importlib.import_module("zstandard").ZstdDecompressor().stream_reader(raw, read_across_frames=True)


@contextlib.contextmanager
def seekable(file: Stored) -> Iterator[IO[bytes]]:
    """As :func:`open_stored`, for formats read out of order: what is compressed is unpacked to a temporary file."""
    with open_stored(file) as opened:
        if file.member is None and not file.compression:
            yield opened.stream
            return
        with tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(opened.stream, unpacked, 1 << 20)
            unpacked.seek(0)
            yield unpacked
