"""Several GGUF files in one pass over the weights: each tensor is read once, encoded for each file, and written.

Reading, encoding and writing overlap, so that the whole takes as long as the slowest of the three. What is in memory:
the tensor being encoded, and at most ``AHEAD_BYTES`` of tensors read ahead and of bytes not yet written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import gguf
import numpy as np
import torch

from whet.errors import OutputError
from whet.export.blocks import encode, encoded_bytes
from whet.export.importance import Importance

AHEAD_BYTES = 2**29


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the file, and how to get it in float32."""

    name: str
    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    read: Callable[[], torch.Tensor]

    @property
    def read_bytes(self) -> int:
        return 4 * int(np.prod(self.shape, dtype=np.int64))

    @property
    def written_bytes(self) -> int:
        return encoded_bytes(self.shape, self.kind)


@dataclass(frozen=True)
class GgufFile:
    """A file being written: its header's writer, its tensors in order, and its name for messages."""

    writer: gguf.GGUFWriter
    plan: list[PlannedTensor]
    target: Path


def write_tensors(
    files: Sequence[GgufFile],
    importance: Importance | None = None,
    device: torch.device | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Write headers and tensors of all files. Their plans name the same tensors in the same order.

    Raises:
        ExportError: a weight that its type cannot hold.
        OutputError: the disk is full.
    """
    try:
        for file in files:
            _write_header(file)
        first = files[0].plan
        with _Writer(on_bytes) as writer, _Reader(first) as reader:
            for index, tensor in enumerate(first):
                weight = reader.get(index)
                known = importance.of(tensor.name) if importance is not None else None
                for file in files:
                    writer.wait_for_room(file.plan[index].written_bytes)
                    writer.put(file, encode(weight, file.plan[index].kind, known, device, tensor.name))
                del weight
    finally:
        for file in files:
            file.writer.close()


def _write_header(file: GgufFile) -> None:
    for tensor in file.plan:
        dtype = np.dtype(np.float32)  # not looked at: shape and type are given
        file.writer.add_tensor_info(tensor.name, tensor.shape, dtype, tensor.written_bytes, raw_dtype=tensor.kind)
    file.writer.write_header_to_file()
    file.writer.write_kv_data_to_file()
    file.writer.write_ti_data_to_file()


class _Reader:
    """Reads the next tensors in a thread of its own while the present one is encoded."""

    def __init__(self, plan: list[PlannedTensor]) -> None:
        self._plan, self._next = plan, 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="whet-read")
        self._ahead: deque[tuple[int, Future[torch.Tensor]]] = deque()

    def __enter__(self) -> _Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def get(self, index: int) -> torch.Tensor:
        """The tensor, which leaves the reader; what follows is asked for, as far as there is room."""
        present = self._plan[index].read_bytes
        self._ask(present + AHEAD_BYTES)
        weight = self._ahead.popleft()[1].result()
        self._ask(AHEAD_BYTES - present)
        return weight

    def _ask(self, room: int) -> None:
        held = sum(size for size, _ in self._ahead)
        while self._next < len(self._plan):
            size = self._plan[self._next].read_bytes
            if (held or room < AHEAD_BYTES) and held + size > room:
                return
            self._ahead.append((size, self._pool.submit(self._plan[self._next].read)))
            held, self._next = held + size, self._next + 1


class _Writer:
    """Writes encoded tensors in a thread of its own, in the order given."""

    def __init__(self, on_bytes: Callable[[int], None] | None) -> None:
        self._on_bytes = on_bytes
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="whet-write")
        self._waiting: deque[tuple[int, Future[None]]] = deque()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._settle(0)
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def wait_for_room(self, size: int) -> None:
        self._settle(max(0, AHEAD_BYTES - size))

    def put(self, file: GgufFile, encoded: np.ndarray) -> None:
        self._waiting.append((encoded.nbytes, self._pool.submit(self._write, file, encoded)))

    def _settle(self, most: int) -> None:
        while self._waiting and (self._waiting[0][1].done() or sum(size for size, _ in self._waiting) > most):
            self._waiting.popleft()[1].result()

    def _write(self, file: GgufFile, encoded: np.ndarray) -> None:
        try:
            file.writer.write_tensor_data(encoded)
        except OSError as error:
            if error.errno is None:  # numpy's tofile says only how much it could write
                raise OutputError(
                    f"the disk is full: cannot write {file.target} ({error})",
                    fix="free some space, or name another --out",
                ) from error
            raise
        if self._on_bytes is not None:
            self._on_bytes(encoded.nbytes)
