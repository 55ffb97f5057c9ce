"""How far a GGUF in llama.cpp is from the model in transformers: starter and a tiny random Qwen2, every quantisation.

    python benchmarks/gguf_error.py

KL(transformers || llama.cpp) in nats a token over 64 positions, float32 KV cache, no flash attention; answers
at temperature 0; perplexity. The bars in whet/export/verdict.py stand above these.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from record import record
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from whet.export.recipes import QUANTS
from whet.export.run import export_run
from whet.models.names import STARTER, starter_folder

FIELDS = ("max_abs_logprob_diff", "kl_mean", "kl_p99", "top1_agreement", "positions", "tokens_identical")
FIELDS += ("greedy", "perplexity_trained", "perplexity_file", "perplexity_on", "passed", "failed")


def tiny_qwen2(folder: Path) -> Path:
    """Two random layers with biases, and the starter's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(starter_folder())
    torch.manual_seed(12)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measure(model: str, out: Path) -> dict[str, dict[str, object]]:
    report = export_run(model, out, QUANTS)
    return {
        file.quant: {"megabytes": round(file.bytes / 1e6, 2)}
        | {k: v for k, v in asdict(file.verdict).items() if k in FIELDS}
        for file in report.files
        if file.verdict is not None
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        figures = {
            "starter": measure(STARTER, folder / "starter"),
            "tiny_qwen2": measure(str(tiny_qwen2(folder / "qwen2")), folder / "q"),
        }
        if len(sys.argv) > 1:  # a run folder, for example of the quickstart
            figures["run"] = measure(sys.argv[1], folder / "run")
    record("gguf_error", **figures)


if __name__ == "__main__":
    main()
