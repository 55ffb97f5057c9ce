"""One model four ways: transformers' generate, whet's decoding, merged, and a GGUF in llama.cpp write the same text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from whet.evaluate.generate import greedy_config, greedy_ids, until_stop
from whet.evaluate.prompts import chat_ids, stop_ids
from whet.export.gguf import write_gguf
from whet.export.live import LiveSource
from whet.export.merged import write_merged
from whet.llamacpp import LlamaServer
from whet.models.adapters import add_lora
from whet.models.load import load_for_inference
from whet.sample.rows import heldout_rows

PROMPTS, TOKENS = 50, 16
NEAR = 0.01  # logits: closer than this, float rounding may choose either token


def one_by_one(model, prompts, stops):
    answers = []
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([prompt])
            config = greedy_config(TOKENS, stops, 3)
            made = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
            answers.append(until_stop(made[0, len(prompt) :].tolist(), stops))
    return answers


def near(model, ids) -> bool:
    with torch.inference_mode():
        best = model(torch.tensor([ids])).logits[0, -1].topk(2).values
    return float(best[0] - best[1]) <= NEAR


def test_four_ways_to_decode_write_the_same(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    model, tokenizer = load_for_inference("starter")
    model = add_lora(model.float(), rank=8, alpha=16).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    prompts = [chat_ids(tokenizer, [{"role": "user", "content": row.question}]) for row in heldout_rows()[:PROMPTS]]
    stops = stop_ids(model, tokenizer)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    source = LiveSource(model, tmp_path / "tokenizer")

    found = {"whet": greedy_ids(model, tokenizer, prompts, TOKENS), "transformers": one_by_one(model, prompts, stops)}
    write_merged(source, tmp_path / "merged", "float32", tmp_path / "tokenizer")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    found["merged"] = greedy_ids(merged, tokenizer, prompts, TOKENS)
    write_gguf(source, tmp_path / "tokenizer", tmp_path / "model.gguf", "f32", name="model")
    with LlamaServer(tmp_path / "model.gguf", n_ctx=1024, kv_f32=True) as server:
        found["gguf"] = [until_stop(server.greedy_ids(prompt, TOKENS)[0], stops) for prompt in prompts]

    for name, answers in found.items():
        same = 0
        for prompt, wanted, answer in zip(prompts, found["transformers"], answers, strict=True):
            shared = next((i for i, (a, b) in enumerate(zip(wanted, answer, strict=False)) if a != b), None)
            if shared is None:
                shared = None if len(wanted) == len(answer) else min(len(wanted), len(answer))
            same += shared is None
            assert shared is None or near(model, prompt + wanted[:shared]), name
        assert same >= PROMPTS - 2, name
    assert len({tuple(answer) for answer in found["whet"]}) > PROMPTS // 2  # the answers are answers to something
