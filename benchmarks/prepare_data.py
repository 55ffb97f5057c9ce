"""Rows to prepared tokens: the speed of the whole way against the tokenizer alone, and the memory of a large file.

    python benchmarks/prepare_data.py [--repeats 3] [--rows 1000000] [--only speed|memory]

Speed: WikiSQL's training rows (53,669) from a JSONL file to token arrays on disk: read, render, encode, mask, write.
Beside it, in the same process and in turns, ``tokenizers`` alone on the finished texts, in batches of the same size:
with offsets (``encode_batch``) and without (``encode_batch_fast``, which tells nothing about where an answer begins).

Memory: a JSONL of a million conversations (about 1 GB), prepared in a process of its own; its peak resident memory,
rows and bytes a second, and the seconds that the second run needs, which finds the prepared copy.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import record, spread

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
BATCH = 1000
LENGTH = 2048


def _source(path: Path) -> Any:
    from whet.data.collect import Source
    from whet.data.formats import FormatSpec, open_records
    from whet.data.stream import open_rows

    rows, spec = open_rows(path), FormatSpec()
    return Source(rows, open_records(rows, spec), spec)


def _prepare(path: Path, cache: Path) -> tuple[float, Any]:
    """Seconds, and what was prepared."""
    from whet.data.collect import collect
    from whet.models.load import tokenizer_of

    tokenizer = tokenizer_of("starter")
    began = time.perf_counter()
    found = collect([_source(path)], tokenizer, sequence_len=LENGTH, cache=cache)
    return time.perf_counter() - began, found


def _messages(question: str, context: str, answer: str) -> str:
    roles = (("system", context), ("user", question), ("assistant", answer))
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in roles]}, ensure_ascii=False)


def _wikisql(folder: Path) -> Path:
    path = folder / "wikisql.jsonl"
    with (SHARED / "wikisql" / "train.jsonl").open(encoding="utf-8") as rows, path.open("w", encoding="utf-8") as out:
        for line in rows:
            row = json.loads(line)
            out.write(_messages(row["question"], row["context"], row["answer"]) + "\n")
    return path


def _raw(texts: list[str]) -> dict[str, float]:
    """Seconds of the tokenizer alone."""
    from whet.models.load import tokenizer_of

    backend = tokenizer_of("starter").backend_tokenizer
    found = {}
    for name in ("encode_batch", "encode_batch_fast"):
        began = time.perf_counter()
        for start in range(0, len(texts), BATCH):
            getattr(backend, name)(texts[start : start + BATCH], add_special_tokens=False)
        found[name] = time.perf_counter() - began
    return found


def speed(repeats: int) -> dict[str, Any]:
    """Rows a second of the whole way and of the tokenizer alone, in turns."""
    from whet.data.formats import FormatSpec, open_records
    from whet.data.stream import open_rows
    from whet.data.tokens import RecordEncoder
    from whet.models.load import tokenizer_of

    seconds: dict[str, list[float]] = {"whet": [], "encode_batch": [], "encode_batch_fast": []}
    with tempfile.TemporaryDirectory() as scratch:
        path = _wikisql(Path(scratch))
        encode = RecordEncoder(tokenizer_of("starter"))
        texts = [marked.text for marked in encode.mark(list(open_records(open_rows(path), FormatSpec())))]
        for repeat in range(repeats):
            took, found = _prepare(path, Path(scratch) / str(repeat))
            seconds["whet"].append(took)
            for name, value in _raw(texts).items():
                seconds[name].append(value)
    rows = len(texts)
    rates = {name: spread([rows / value for value in values], 1) for name, values in seconds.items()}
    middle = {name: rate["median"] for name, rate in rates.items()}
    return {
        "rows": rows,
        "tokens": found.prepared.stats.tokens,
        "rows_per_second": rates,
        "share_of_encode_batch": round(middle["whet"] / middle["encode_batch"], 3),
        "share_of_encode_batch_fast": round(middle["whet"] / middle["encode_batch_fast"], 3),
    }


def _large(path: Path, rows: int) -> None:
    """Conversations of about a kilobyte out of real sentences, each one different."""
    sentences = [line.strip() for line in (SHARED / "corpus" / "public_domain_english.txt").open(encoding="utf-8")]
    sentences = [line for line in sentences if len(line) > 40]
    draw = random.Random(1)
    with path.open("w", encoding="utf-8") as out:
        for number in range(rows):
            question, answer = (" ".join(draw.choices(sentences, k=count)) for count in (2, 4))
            out.write(_messages(f"{number}: {question}", "Answer in the style of the question.", answer) + "\n")


def memory(rows: int) -> dict[str, Any]:
    """Peak memory and rows a second of a large file, and of the second run."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "large.jsonl"
        _large(path, rows)
        runs = [
            json.loads(subprocess.check_output([sys.executable, __file__, "--child", str(path), scratch]))
            for _ in range(2)
        ]
        size = path.stat().st_size
    first, second = runs
    return {
        "rows": rows,
        "bytes": size,
        "tokens": first["tokens"],
        "seconds": first["seconds"],
        "rows_per_second": round(rows / first["seconds"]),
        "megabytes_per_second": round(size / 1e6 / first["seconds"], 1),
        "peak_rss_bytes": first["peak_rss_bytes"],
        "peak_rss_of_a_worker_bytes": first["peak_rss_of_a_worker_bytes"],
        "second_run": {key: second[key] for key in ("seconds", "peak_rss_bytes")},
    }


def child(path: Path, scratch: Path) -> None:
    """One preparation, its figures as JSON."""
    seconds, found = _prepare(path, scratch / "cache")
    peaks = {
        who: resource.getrusage(getattr(resource, who)).ru_maxrss * 1024 for who in ("RUSAGE_SELF", "RUSAGE_CHILDREN")
    }
    figures = {
        "seconds": round(seconds, 2),
        "tokens": found.prepared.stats.tokens,
        "peak_rss_bytes": peaks["RUSAGE_SELF"],
        "peak_rss_of_a_worker_bytes": peaks["RUSAGE_CHILDREN"],  # mostly pages shared with the first process
    }
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", choices=("speed", "memory"))
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    if arguments.only != "memory":
        record("prepare_speed", **speed(arguments.repeats))
    if arguments.only != "speed":
        record("prepare_memory", **memory(arguments.rows))


if __name__ == "__main__":
    main()
