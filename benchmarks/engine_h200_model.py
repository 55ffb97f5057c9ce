"""A random checkpoint of a real Llama's shape, with a small tokenizer, for ``engine_h200.py``.

    python benchmarks/engine_h200_model.py FOLDER llama8b|llama1b|tiny

Weights are normal with a standard deviation of 0.02, norms are 1; 14 s for the 8B shape on an H200's machine. The
tokenizer has about 1,000 ids and the checkpoint ``words.txt``, its word list; the model's vocabulary has its real size.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

BEGIN, END, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>"
SYLLABLES = ["ka", "to", "mi", "re", "lu", "sen", "dor", "pa", "vi", "gra", "nel", "os", "ti", "qu", "be", "zan"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] + '" + END + "\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
LAYERS_A_FILE = 4


class Shape(NamedTuple):
    """Of a Llama."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    key_heads: int
    head: int
    vocab: int
    tied: bool


SHAPES = {
    "llama8b": Shape(32, 4096, 14336, 32, 8, 128, 128256, False),  # Llama-3-8B
    "llama1b": Shape(16, 2048, 8192, 32, 8, 64, 128256, True),  # Llama-3.2-1B
    "tiny": Shape(2, 256, 512, 4, 2, 64, 4096, False),
}
Tensors = dict[str, torch.Tensor]


def write_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE, trained on random words; the words beside it."""
    draw = random.Random(0)
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 3))) for _ in range(800)]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator([" ".join(draw.choices(words, k=200)) for _ in range(400)], trainer)
    inner.add_special_tokens([BEGIN, END, PAD])
    begin = [(BEGIN, inner.token_to_id(BEGIN))]
    inner.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=begin)
    special = {"bos_token": BEGIN, "eos_token": END, "pad_token": PAD}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=131072, **special)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    (folder / "words.txt").write_text("\n".join(words))
    return tokenizer


def write_config(folder: Path, shape: Shape, tokenizer: PreTrainedTokenizerFast) -> None:
    """config.json and generation_config.json."""
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_heads,
        "head_dim": shape.head,
        "intermediate_size": shape.mlp,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config | ids, indent=1))
    (folder / "generation_config.json").write_text(json.dumps(ids))


def files_of(shape: Shape) -> Iterator[Tensors]:
    """The tensors of each file."""
    ends = {"model.embed_tokens.weight": _linear(shape.vocab, shape.hidden), "model.norm.weight": _ones(shape.hidden)}
    yield ends if shape.tied else ends | {"lm_head.weight": _linear(shape.vocab, shape.hidden)}
    for first in range(0, shape.layers, LAYERS_A_FILE):
        numbers = range(first, min(first + LAYERS_A_FILE, shape.layers))
        yield {name: tensor for number in numbers for name, tensor in _layer(shape, number).items()}


def _layer(shape: Shape, number: int) -> Tensors:
    queries, keys, hidden, mlp = shape.heads * shape.head, shape.key_heads * shape.head, shape.hidden, shape.mlp
    sizes = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (mlp, hidden),
        "mlp.up_proj": (mlp, hidden),
        "mlp.down_proj": (hidden, mlp),
    }
    found = {name: _linear(*size) for name, size in sizes.items()}
    found |= {name: _ones(hidden) for name in ("input_layernorm", "post_attention_layernorm")}
    return {f"model.layers.{number}.{name}.weight": tensor for name, tensor in found.items()}


def _linear(outputs: int, inputs: int) -> torch.Tensor:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return (torch.randn(outputs, inputs, device=device) * 0.02).to(torch.bfloat16)


def _ones(size: int) -> torch.Tensor:
    return torch.ones(size, dtype=torch.bfloat16)


def write_weights(folder: Path, shape: Shape) -> int:
    """The files and their index. Returns the bytes of all tensors."""
    torch.manual_seed(0)
    count = 1 + -(-shape.layers // LAYERS_A_FILE)
    index, total = {}, 0
    with ThreadPoolExecutor(6) as pool:
        jobs = []
        for number, tensors in enumerate(files_of(shape), start=1):
            name = f"model-{number:05d}-of-{count:05d}.safetensors"
            index |= dict.fromkeys(tensors, name)
            total += sum(tensor.nbytes for tensor in tensors.values())
            jobs.append(pool.submit(_save, folder / name, tensors))
        for job in jobs:
            job.result()
    listing = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(listing))
    return total


def _save(path: Path, tensors: Tensors) -> None:
    save_file({name: tensor.cpu() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def main() -> None:
    folder, name = Path(sys.argv[1]), sys.argv[2]
    began = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, SHAPES[name], write_tokenizer(folder))
    total = write_weights(folder, SHAPES[name])
    print(f"{name}: {total / 2**30:.2f} GiB in {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
