"""Pre-train the starter model on one GPU.

    python scripts/pretrain_starter.py --data DATA --out OUT [--tokens 8e8] [--seconds 500]

DATA comes from prepare_starter_data.py. When the seconds are up the state is kept in OUT/state.pt and the same command
goes on from there; at the end OUT/starter holds the model (bf16 safetensors in shards), its tokenizer and training.json.
Hidden matrices are trained by Muon (Jordan et al. 2024, as torch.optim ships it), embeddings and norms by AdamW; the learning
rate warms up, stays, and falls linearly to zero over the last 40%.

Shapes: B rows, T positions, D hidden, H heads, G key-value heads, K head size, V vocabulary.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

SHAPE = {
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 768,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
}
ROPE_THETA = 10000.0
BATCH_TOKENS = 131_072
LONG_FROM = 0.8  # share of the training after which rows have 2,048 tokens instead of 1,024


def rotate(x_BHTK: torch.Tensor, cos_TK: torch.Tensor, sin_TK: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding in the half-split form of transformers' Llama."""
    a, b = x_BHTK.chunk(2, -1)
    return x_BHTK * cos_TK + torch.cat((-b, a), -1) * sin_TK


class Layer(nn.Module):
    """One pre-norm decoder layer; the submodules carry transformers' names so that the weights load there unchanged."""

    def __init__(self, d: int, f: int, heads: int, groups: int, k: int, eps: float) -> None:
        super().__init__()
        self.heads, self.groups, self.k = heads, groups, k
        self.input_layernorm = nn.RMSNorm(d, eps)
        self.post_attention_layernorm = nn.RMSNorm(d, eps)
        line = lambda i, o: nn.Linear(i, o, bias=False)  # noqa: E731
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": line(d, heads * k),
                "k_proj": line(d, groups * k),
                "v_proj": line(d, groups * k),
                "o_proj": line(heads * k, d),
            }
        )
        self.mlp = nn.ModuleDict({"gate_proj": line(d, f), "up_proj": line(d, f), "down_proj": line(f, d)})

    def forward(self, x_BTD: torch.Tensor, cos_TK: torch.Tensor, sin_TK: torch.Tensor) -> torch.Tensor:
        b, t, _ = x_BTD.shape
        n, a = self.input_layernorm(x_BTD), self.self_attn
        q = rotate(a["q_proj"](n).view(b, t, self.heads, self.k).transpose(1, 2), cos_TK, sin_TK)
        k = rotate(a["k_proj"](n).view(b, t, self.groups, self.k).transpose(1, 2), cos_TK, sin_TK)
        v = a["v_proj"](n).view(b, t, self.groups, self.k).transpose(1, 2)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x_BTD = x_BTD + a["o_proj"](o.transpose(1, 2).reshape(b, t, -1))
        n, m = self.post_attention_layernorm(x_BTD), self.mlp
        return x_BTD + m["down_proj"](F.silu(m["gate_proj"](n)) * m["up_proj"](n))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        s, d, eps = SHAPE, int(SHAPE["hidden_size"]), float(SHAPE["rms_norm_eps"])
        self.embed_tokens = nn.Embedding(int(s["vocab_size"]), d)
        self.layers = nn.ModuleList(
            Layer(
                d,
                int(s["intermediate_size"]),
                int(s["num_attention_heads"]),
                int(s["num_key_value_heads"]),
                int(s["head_dim"]),
                eps,
            )
            for _ in range(int(s["num_hidden_layers"]))
        )
        self.norm = nn.RMSNorm(d, eps)
        for name, p in self.named_parameters():
            if p.ndim == 2:  # residual writers start smaller, as in GPT-2
                deep = math.sqrt(2 * len(self.layers)) if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                nn.init.normal_(p, std=0.02 / deep)

    def forward(self, ids_BT: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy in nats; labels are already shifted."""
        k = int(SHAPE["head_dim"])
        t = torch.arange(ids_BT.shape[1], device=ids_BT.device).float()
        angle = t[:, None] / ROPE_THETA ** (torch.arange(0, k, 2, device=t.device).float() / k)
        cos_TK, sin_TK = (torch.cat((f, f), -1).to(torch.bfloat16) for f in (angle.cos(), angle.sin()))
        x_BTD = self.embed_tokens(ids_BT)
        for layer in self.layers:
            x_BTD = layer(x_BTD, cos_TK, sin_TK)
        logits_BTV = F.linear(self.norm(x_BTD), self.embed_tokens.weight)
        return F.cross_entropy(logits_BTV.float().flatten(0, 1), labels_BT.flatten())


@dataclass
class Rows:
    """Shuffled rows of one long token stream; every epoch cuts it at another offset."""

    stream: torch.Tensor

    def batch(self, step_in_phase: int, row_tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        size = BATCH_TOKENS // row_tokens
        per_epoch = ((len(self.stream) - 2 * row_tokens) // row_tokens) // size
        epoch, index = divmod(step_in_phase, per_epoch)
        rng = torch.Generator().manual_seed(seed * 1000 + epoch)
        offset = int(torch.randint(row_tokens, (1,), generator=rng))
        order = torch.randperm(per_epoch * size, generator=rng)[index * size : (index + 1) * size]
        start = (order * row_tokens + offset).to(self.stream.device)
        window = start[:, None] + torch.arange(row_tokens + 1, device=self.stream.device)
        rows = self.stream[window].long()
        return rows[:, :-1], rows[:, 1:]


def learning_rate(share: float, steps: int, step: int) -> float:
    return min(1.0, (step + 1) / 200) * min(1.0, (1 - share) / 0.4)


@torch.no_grad()
def perplexities(model: nn.Module, data: Path, device: str) -> dict[str, float]:
    """Held-out perplexity per source over rows of 1,024 tokens (at most 256 rows)."""
    found = {}
    for file in sorted(data.glob("valid_*.bin")):
        ids = torch.from_numpy(np.fromfile(file, dtype=np.uint16).astype(np.int64))
        length = min(1024, len(ids) - 1)
        rows = min(256, (len(ids) - 1) // length)
        x = ids[: rows * length].view(rows, length).to(device)
        y = ids[1 : rows * length + 1].view(rows, length).to(device)
        with torch.autocast(device, torch.bfloat16):
            losses = [model(x[i : i + 32], y[i : i + 32]) * len(x[i : i + 32]) for i in range(0, rows, 32)]
        found[file.stem.removeprefix("valid_")] = round(math.exp(sum(loss.item() for loss in losses) / rows), 3)
    return found


def save(model: Model, data: Path, out: Path, facts: dict[str, object]) -> None:
    """Write the checkpoint as transformers reads it; generation stops at either end token."""
    from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
    eos, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|pad|>"])
    config = LlamaConfig(
        **SHAPE, rope_theta=ROPE_THETA, tie_word_embeddings=True, bos_token_id=None, eos_token_id=eos, pad_token_id=pad
    )
    final = LlamaForCausalLM(config)
    missing, unexpected = final.model.load_state_dict(model.state_dict(), strict=False)
    if missing or unexpected:
        raise SystemExit(f"weights do not fit transformers' Llama: missing {missing}, unexpected {unexpected}")
    final.generation_config = GenerationConfig(eos_token_id=[eos, 0], pad_token_id=pad, do_sample=False)
    final.to(torch.bfloat16).save_pretrained(out / "starter", max_shard_size="12MB")
    tokenizer.save_pretrained(out / "starter")
    (out / "starter" / "training.json").write_text(json.dumps(facts, indent=1) + "\n")


def optimizers(model: Model, rate: float) -> list[torch.optim.Optimizer]:
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(hidden, lr=rate, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=float, default=8e8)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    args.out.mkdir(parents=True, exist_ok=True)
    rows = Rows(torch.from_numpy(np.fromfile(args.data / "train.bin", dtype=np.uint16).astype(np.int32)).to(device))
    model = Model().to(device)
    opts = optimizers(model, args.rate)
    steps, first, state = int(args.tokens // BATCH_TOKENS), 0, args.out / "state.pt"
    curve: list[dict[str, float]] = []
    if state.exists():
        kept = torch.load(state, map_location=device)
        model.load_state_dict(kept["model"])
        for opt, value in zip(opts, kept["opts"], strict=True):
            opt.load_state_dict(value)
        first, curve = kept["step"], kept["curve"]
    run = torch.compile(model) if device == "cuda" else model
    began = time.time()
    for step in range(first, steps):
        share = step / steps
        long_from = int(LONG_FROM * steps)
        phase = (step, 1024) if step < long_from else (step - long_from, 2048)
        x, y = rows.batch(*phase, seed=args.seed + (step >= long_from))
        with torch.autocast(device, torch.bfloat16):
            loss = run(x, y)
        loss.backward()
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = args.rate * learning_rate(share, steps, step)
            opt.step()
            opt.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == steps - 1:
            curve.append({"tokens": (step + 1) * BATCH_TOKENS, "loss": round(loss.item(), 4)})
            rate = (step + 1 - first) * BATCH_TOKENS / (time.time() - began)
            if step % 500 == 0:
                print(f"step {step}/{steps} loss {curve[-1]['loss']:.3f} {rate / 1e6:.2f}M tokens/s", flush=True)
            if time.time() - began > args.seconds and step < steps - 1:
                kept = {
                    "model": model.state_dict(),
                    "opts": [o.state_dict() for o in opts],
                    "step": step + 1,
                    "curve": curve,
                }
                torch.save(kept, state)
                print(f"stopped at step {step + 1} of {steps}; the same command goes on", flush=True)
                return
    facts = {
        "tokens_seen": steps * BATCH_TOKENS,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": args.seed,
        "perplexity": perplexities(model, args.data, device),
        "data": json.loads((args.data / "stats.json").read_text()),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "curve": curve,
    }
    save(model, args.data, args.out, facts)
    print(json.dumps({k: v for k, v in facts.items() if k not in ("curve", "data")}), flush=True)


if __name__ == "__main__":
    main()
