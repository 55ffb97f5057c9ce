"""Text and tokenizer for the starter model: raw sources in, token files out.

    python scripts/prepare_starter_data.py --raw RAW --out OUT [--worlds 220000] [--workers 16]

RAW holds corpus.txt (public-domain English), gsm8k.jsonl and wikisql_train.jsonl (the train split only). The generated part
comes from starter_questions.py. OUT receives tokenizer/, train.bin and one valid_SOURCE.bin each (uint16 token ids, documents
ended by <|endoftext|>) and stats.json. Everything is seeded; one document in fifty of each source is held out.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from starter_questions import document, month_document

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
# Qwen2's split: digits stand alone, so that numbers and years spell the same way everywhere; llama.cpp knows it by name.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT = "<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n{a}<|im_end|>\n"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
REPEATS = {"corpus": 1, "gsm8k": 1, "wikisql": 1, "worlds": 1, "months": 1}  # how often a source stands in train.bin
HOLD_OUT = 50  # one document (WikiSQL: one table) in so many is never trained on
WIKISQL_PASSES = 2  # the same rows, grouped and laid out anew


def corpus_documents(raw: Path) -> Iterator[str]:
    """Pieces of about 4,000 characters, cut at blank lines."""
    piece: list[str] = []
    for paragraph in re.split(r"\n\s*\n", (raw / "corpus.txt").read_text(encoding="utf-8")):
        piece.append(paragraph.strip())
        if sum(map(len, piece)) > 4000:
            yield "\n\n".join(piece)
            piece = []
    yield "\n\n".join(piece)


def gsm8k_documents(raw: Path) -> Iterator[str]:
    rng = random.Random(2)
    for line in (raw / "gsm8k.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        answer = re.sub(r"<<.*?>>", "", row["answer"]).replace("#### ", "Answer: ")
        yield rng.choice([CHAT, "Question: {q}\n{a}\n"]).format(q=row["question"], a=answer)


def wikisql_documents(raw: Path, held: bool) -> Iterator[str]:
    """Questions about one table together, in one of four layouts; a fifth of the documents show no schema.

    Tables are held out whole, since each one comes up in every pass.
    """
    rows = [json.loads(line) for line in (raw / "wikisql_train.jsonl").read_text(encoding="utf-8").splitlines()]
    tables: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        tables.setdefault(row["context"], []).append(row)
    for turn in range(WIKISQL_PASSES):
        rng = random.Random(3 + turn)
        for number, (context, members) in enumerate(tables.items()):
            if (number % HOLD_OUT == 0) != held:
                continue
            rng.shuffle(members)
            layout = rng.choice([CHAT, "Question: {q}\nSQL: {a}\n\n", "-- {q}\n{a};\n", "{q}\n{a}\n\n"])
            for start in range(0, len(members), 8):
                body = "".join(layout.format(q=r["question"], a=r["answer"]) for r in members[start : start + 8])
                if rng.random() < 0.2:
                    yield body
                else:
                    yield (f"<|im_start|>system\n{context}<|im_end|>\n" if layout is CHAT else f"{context}\n\n") + body


def _generated(job: tuple[str, int, int]) -> list[str]:
    kind, seed, count = job
    rng = random.Random(seed)
    make: Callable[[random.Random], str] = document if kind == "worlds" else month_document
    return [make(rng) for _ in range(count)]


def generated_documents(kind: str, count: int, workers: int) -> Iterator[str]:
    """The count is cut into fixed jobs with seeds of their own: the text does not depend on the number of workers."""
    jobs = [(kind, 1000 + i, 500) for i in range(-(-count // 500))]
    with ProcessPoolExecutor(workers) as pool:
        for batch in pool.map(_generated, jobs):
            yield from batch


def train_tokenizer(texts: list[str], out: Path) -> None:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4096, special_tokens=SPECIALS, initial_alphabet=alphabet)
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|endoftext|>", "<|im_start|>"],
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(out)


def tokenize(texts: list[str], folder: Path) -> np.ndarray:
    """All documents in one uint16 array, each ended by <|endoftext|> (id 0)."""
    from tokenizers import Tokenizer

    core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids: list[np.ndarray] = []
    for start in range(0, len(texts), 4096):
        for encoding in core.encode_batch_fast(texts[start : start + 4096], add_special_tokens=False):
            ids.append(np.array([*encoding.ids, 0], dtype=np.uint16))
    return np.concatenate(ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--worlds", type=int, default=220_000, help="generated documents about made-up tables")
    parser.add_argument("--workers", type=int, default=16)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sources = {
        "corpus": list(corpus_documents(args.raw)),
        "gsm8k": list(gsm8k_documents(args.raw)),
        "wikisql": list(wikisql_documents(args.raw, held=False)),
        "worlds": list(generated_documents("worlds", args.worlds, args.workers)),
        "months": list(generated_documents("months", args.worlds // 40, args.workers)),
    }
    rng = random.Random(4)
    valid = {"wikisql": list(wikisql_documents(args.raw, held=True))}
    for name, texts in sources.items():
        rng.shuffle(texts)
        if name not in valid:
            valid[name], sources[name] = texts[: len(texts) // HOLD_OUT], texts[len(texts) // HOLD_OUT :]
    sample = [
        t for name, texts in sources.items() for t in texts[: len(texts) if name in ("corpus", "gsm8k") else 8000]
    ]
    train_tokenizer(sample, args.out / "tokenizer")
    stats, train = {}, []
    for name, texts in sources.items():
        held = tokenize(valid[name], args.out / "tokenizer")
        held.tofile(args.out / f"valid_{name}.bin")
        tokens = tokenize(texts, args.out / "tokenizer")
        train += [tokens] * REPEATS[name]
        stats[name] = {
            "documents": len(texts),
            "bytes": sum(len(t.encode()) for t in texts),
            "train_tokens": len(tokens),
            "valid_tokens": len(held),
            "repeats": REPEATS[name],
        }
        print(name, stats[name], flush=True)
    np.concatenate(train).tofile(args.out / "train.bin")
    (args.out / "stats.json").write_text(json.dumps(stats, indent=1) + "\n")


if __name__ == "__main__":
    main()
