"""Records to tokens on all cores, in order.

The tokenizer's own threads leave the Python part of the work on one core, and that part is a third of it. So large
sources are encoded by worker processes that are forked from this one: they have the tokenizer without loading it, get
batches of records and give back arrays. At most a few batches are on their way, so memory stays bounded. Where
processes cannot be forked (Windows, macOS, a GPU already in use) everything is done here, with the tokenizer's threads.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, islice

from whet.data.records import Record
from whet.data.tokens import RecordEncoder
from whet.text.encode import EncodedRows

ALONE = 20  # batches up to which forking is not worth its time
AHEAD = 2  # batches for each worker that wait or are done before their turn

_encode: RecordEncoder | None = None  # in a worker: set once, when it begins


def encode_in_order(encode: RecordEncoder, batches: Iterable[list[Record]]) -> Iterator[EncodedRows]:
    """Encode batches in order; the result does not depend on the number of cores.

    Raises:
        DataError: what a batch raises, when its turn comes.
    """
    iterator = iter(batches)
    first = list(islice(iterator, ALONE + 1))
    everything = chain(first, iterator)
    workers = _cores()
    if len(first) <= ALONE or workers < 2 or not _can_fork():
        yield from (encode(records) for records in everything)
        return
    yield from _by_workers(encode, everything, workers)


def _by_workers(encode: RecordEncoder, batches: Iterable[list[Record]], workers: int) -> Iterator[EncodedRows]:
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(encode,))
    waiting: deque[Future[EncodedRows]] = deque()
    try:
        for records in batches:
            waiting.append(pool.submit(_work, records))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(encode: RecordEncoder) -> None:
    global _encode
    _encode = encode
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that the user sees
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # this process is one of many: one thread each


def _work(records: list[Record]) -> EncodedRows:
    assert _encode is not None
    return _encode(records)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _can_fork() -> bool:
    """A process that uses a GPU must not be forked, and on macOS system libraries forbid it."""
    torch = sys.modules.get("torch")
    uses_gpu = torch is not None and torch.cuda.is_initialized()
    return sys.platform.startswith("linux") and not uses_gpu
