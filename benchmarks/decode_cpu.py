"""Decoding the starter on a CPU: whet's decoder, transformers.generate, and its GGUF files in llama.cpp.

    python benchmarks/decode_cpu.py

Prompts of the sample task, 48 new tokens each, greedy, nothing ends early (llama.cpp: the text may end, tokens are
counted). One sequence, and 16 at once in torch. Tokens/s of whole calls, prompt included, in turns, medians of three
rounds; llama.cpp takes 16 prompts one after the other. All use the machine's cores. Writes results/decode_cpu.json.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import record, spread

from whet.engine.attached import decoder_of
from whet.engine.decode import Decoder
from whet.engine.generate import Options, generate
from whet.evaluate.prompts import chat_ids
from whet.export.gguf import write_gguf
from whet.export.live import LiveSource
from whet.llamacpp import LlamaServer
from whet.models.load import load_for_inference
from whet.sample.rows import heldout_rows

NEW, BATCH, ROUNDS = 48, 16, 3
QUANTS = ("f16", "q8_0")
Call = Callable[[], int]  # makes tokens, returns how many


def whet(decoder: Decoder, prompts: list[list[int]]) -> Call:
    return lambda: sum(map(len, generate(decoder, prompts, Options(NEW))))


def peer(model: Any, prompts: list[list[int]]) -> Call:
    width = max(map(len, prompts))
    ids = torch.tensor([[3] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])

    def call() -> int:
        with torch.inference_mode():
            made = model.generate(
                ids, attention_mask=mask, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=3
            )
        return int(made[:, width:].numel())

    return call


def llama(server: LlamaServer, prompts: list[list[int]]) -> Call:
    return lambda: sum(len(server.greedy_ids(prompt, NEW)[0]) for prompt in prompts)


def main() -> None:
    model, tokenizer = load_for_inference("starter")
    model.float().eval()
    decoder = decoder_of(model)
    assert isinstance(decoder, Decoder)
    prompts = [chat_ids(tokenizer, [{"role": "user", "content": row.question}]) for row in heldout_rows()[:BATCH]]
    calls: dict[str, Call] = {}
    for number, name in ((1, "one"), (BATCH, str(BATCH))):
        calls[f"whet, {name}"] = whet(decoder, prompts[:number])
        calls[f"transformers, {name}"] = peer(model, prompts[:number])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tokenizer.save_pretrained(folder / "tokenizer")
        source = LiveSource(model, folder / "tokenizer")
        for quant in QUANTS:
            write_gguf(source, folder / "tokenizer", folder / f"{quant}.gguf", quant, name="starter")
        rates: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            for name, call in calls.items():
                rates.setdefault(name, []).append(rate(call))
            for quant in QUANTS:
                with LlamaServer(folder / f"{quant}.gguf", n_ctx=1024) as server:
                    rates.setdefault(f"GGUF {quant}, one", []).append(rate(llama(server, prompts[:2])))
    figures = {name: spread(values, 1) for name, values in rates.items()}
    for name, values in rates.items():
        print(f"{name:20} {statistics.median(values):8.1f} tokens/s", flush=True)
    lengths = [len(prompt) for prompt in prompts]
    record("decode_cpu", settings={"new": NEW, "prompts": lengths, "dtype": "float32"}, tokens_per_s=figures)


def rate(call: Call) -> float:
    """Tokens/s, after a call that is not counted."""
    call()
    start = time.perf_counter()
    count = call()
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
