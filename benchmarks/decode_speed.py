"""Decoding on one GPU: whet against transformers.generate, in one process on one model.

    python benchmarks/decode_speed.py --shape 8b|1b|tiny [--out FOLDER] [--kernels decode_kernels.json] [--seconds 285]

Random weights of Llama-3-8B's shape (Llama-3.2-1B's, or a tiny one that also runs on a CPU), made on the device, in
bfloat16 and then in NF4 (bitsandbytes, double quantisation). Batch 1 and 16, prompts of 512 random tokens, 512 new
tokens, greedy, nothing ends early. Figures of each:

    tokens_per_s       new tokens of all sequences / seconds of the whole call, prompt included
    decode_per_s       the same after the first token (a call for one token taken off)
    of_limit           decode_per_s to that of a device that reads weights, keys and values at its memory's rate and
                       does nothing else: 3,350 GB/s of an H100 SXM's data sheet, or ``--gb-per-s``

transformers makes fewer tokens (its time is that of its steps). It runs with its default cache and with
``cache_implementation="static"``, not compiled; with ``--compiled`` also as it compiles itself. Before that,
correctness: whet's logits token by token against the model's own forward on the same tokens, beside what the model's
own cached decoding differs from that forward. Peers that the time does not allow are named as left out. Writes
decode_gpu.json (decode_tiny.json); exit code 1 where the logits are wrong.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()

import torch  # noqa: E402
from record import record  # noqa: E402
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM  # noqa: E402

from whet.engine.decode import Decoder  # noqa: E402
from whet.engine.generate import Options, generate  # noqa: E402
from whet.engine.kernels import gemv_nf4_triton, gemv_triton  # noqa: E402

SHAPES: dict[str, dict[str, Any]] = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True},
    "tiny": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 4096},
}  # fmt: skip
PROMPT, NEW, BATCHES, REPEATS = 512, 512, (1, 16), 3
PEER_NEW = {"bf16": 256, "nf4": 96}  # new tokens of transformers, which takes as long for each: 512 would be minutes
PEER_STEP_S = 0.1  # guess, to leave out what the time does not allow
CHECKED = 24  # tokens of the comparison of logits
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def said(*words: object) -> None:
    print(f"[{time.perf_counter() - BEGAN:5.0f} s]", *words, flush=True)


def model_of(shape: str, device: str) -> Any:
    config = LlamaConfig(
        **SHAPES[shape],
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.generation_config = GenerationConfig(eos_token_id=None, pad_token_id=0)
    return model.eval().requires_grad_(False)


def to_nf4(model: Any) -> None:
    """The linear layers of the decoder as bitsandbytes holds them."""
    import bitsandbytes as bnb

    for layer in model.model.layers:
        for name, module in list(layer.named_modules()):
            if name.rpartition(".")[2] in LINEAR:
                four = bnb.nn.Linear4bit(
                    module.in_features, module.out_features, bias=False, compute_dtype=torch.bfloat16,
                    compress_statistics=True, quant_type="nf4", device="meta",
                )  # fmt: skip
                four.weight = bnb.nn.Params4bit(
                    module.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4", module=four
                ).to(module.weight.device)
                if not hasattr(four.weight, "quant_state") or four.weight.quant_state is None:
                    four.weight = four.weight._quantize(module.weight.device)
                layer.set_submodule(name, four)


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def timed(call: Callable[[], Any], device: str) -> float:
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start


def figures(call: Callable[[int], Any], batch: int, new: int, repeats: int, device: str) -> dict[str, Any]:
    """``call(n)`` makes n tokens of each sequence."""
    call(4)
    first = statistics.median(timed(lambda: call(1), device) for _ in range(3))
    whole = [timed(lambda: call(new), device) for _ in range(repeats)]
    seconds = statistics.median(whole)
    return {
        "tokens_per_s": round(batch * new / seconds, 1),
        "decode_per_s": round(batch * (new - 1) / (seconds - first), 1),
        "first_token_s": round(first, 4),
        "new_tokens": new,
        "seconds": [round(value, 3) for value in whole],
    }


def read_bytes(model: Any) -> dict[str, int]:
    """Of one step: weights of the linear layers and the head; keys and values of one sequence at the middle of the
    answer."""
    from whet.engine.quantised import read_nf4

    modules = [m for layer in model.model.layers for n, m in layer.named_modules() if n.rpartition(".")[2] in LINEAR]
    weights = 0
    for module in [*modules, model.lm_head]:
        packed = read_nf4(module)
        tensors = [module.weight] if isinstance(packed, str) else packed.tensors()
        weights += sum(t.numel() * t.element_size() for t in tensors)
    config = model.config
    width = config.num_key_value_heads * (config.hidden_size // config.num_attention_heads)
    return {"weights": weights, "sequence": 2 * 2 * width * config.num_hidden_layers * (PROMPT + NEW // 2)}


def logits_check(model: Any, decoder: Decoder, device: str) -> dict[str, Any]:
    """Root mean square distances from the model's own forward over all tokens at once, to the logits' deviation."""
    torch.manual_seed(1)
    ids = torch.randint(0, model.config.vocab_size, (1, 64 + CHECKED), device=device)
    with torch.inference_mode():
        own = model(ids).logits[0, 63:-1].float()
        out = model(ids[:, :64], use_cache=True)
        cached = [out.logits[0, -1:].float()]
        for at in range(64, 64 + CHECKED - 1):
            out = model(ids[:, at : at + 1], past_key_values=out.past_key_values, use_cache=True)
            cached.append(out.logits[0, -1:].float())
        found = {"transformers_cached": torch.cat(cached)}
        for slots in (1, 16):
            cache = decoder.cache(slots, 64 + CHECKED)
            prompts = [ids[0, :64].tolist()] * slots
            rows = [decoder.prefill(prompts, range(slots), cache)[-1:]]
            for at in range(64, 64 + CHECKED - 1):
                row_ids, where = ids[0, at].repeat(slots), torch.full((slots,), at, device=device)
                rows.append(decoder.step(row_ids, where, cache)[-1:])
            found[f"whet_{slots}"] = torch.cat(rows).float()
    distance = {name: float((rows - own).pow(2).mean().sqrt() / own.std()) for name, rows in found.items()}
    best = {name: float((rows.argmax(-1) == own.argmax(-1)).float().mean()) for name, rows in found.items()}
    noise = max(distance["transformers_cached"], 2e-3)
    right = all(value <= 3 * noise for name, value in distance.items())
    return {"right": right, "distance": distance, "same_best_token": best}


def whet_call(decoder: Decoder, prompts: list[list[int]]) -> Callable[[int], Any]:
    return lambda new: generate(decoder, prompts, Options(max_new_tokens=new))


def peer_call(model: Any, prompts: list[list[int]], kind: str, device: str) -> Callable[[int], Any]:
    ids = torch.tensor(prompts, device=device)
    fixed: dict[str, Any] = {"do_sample": False, "attention_mask": torch.ones_like(ids)}
    extra: dict[str, Any] = {} if kind == "default" else {"cache_implementation": "static"}
    if kind == "static":
        extra["disable_compile"] = True

    def call(new: int) -> Any:
        with torch.inference_mode():
            return model.generate(ids, max_new_tokens=new, min_new_tokens=new, **fixed, **extra)

    return call


class Run:
    """What is measured, and how much time there is."""

    def __init__(self, arguments: argparse.Namespace, device: str) -> None:
        self.arguments, self.device = arguments, device
        self.results: dict[str, Any] = {}

    def late(self, seconds: float) -> bool:
        return time.perf_counter() - BEGAN + seconds > self.arguments.seconds

    def weights(self, kind: str, model: Any) -> bool:
        decoder = Decoder.attach(model)
        if not isinstance(decoder, Decoder):
            raise SystemExit(f"whet's decoder does not take the model: {decoder.reason}")
        said(kind, "decoder attached")
        check = logits_check(model, decoder, self.device)
        said(kind, "logits", json.dumps(check))
        sizes = read_bytes(model)
        self.results[kind] = {"check": check, "bytes": sizes}
        for batch in BATCHES:
            generator = torch.Generator().manual_seed(batch)
            vocab = model.config.vocab_size
            prompts = torch.randint(0, vocab, (batch, PROMPT), generator=generator).tolist()
            case: dict[str, Any] = {"whet": figures(whet_call(decoder, prompts), batch, NEW, REPEATS, self.device)}
            step_bytes = sizes["weights"] + batch * sizes["sequence"]
            limit = batch * self.arguments.gb_per_s * 1e9 / step_bytes
            case["limit_per_s"] = round(limit, 1)
            case["whet"]["of_limit"] = round(case["whet"]["decode_per_s"] / limit, 3)
            self.results[kind][f"batch {batch}"] = case
            self.save()
            said(kind, batch, "whet", json.dumps(case["whet"]), "limit", case["limit_per_s"])
            for peer in ["default", "static", *(["compiled"] if self.arguments.compiled else [])]:
                new = PEER_NEW[kind] if peer == "default" else PEER_NEW["nf4"]
                if self.late(PEER_STEP_S * new):
                    case[peer] = "left out: no time"
                    continue
                case[peer] = figures(peer_call(model, prompts, peer, self.device), batch, new, 1, self.device)
                said(kind, batch, "transformers", peer, json.dumps(case[peer]))
            ran = {peer: found for peer, found in case.items() if isinstance(found, dict) and peer != "whet"}
            known = [found["tokens_per_s"] for found in ran.values()]
            decoding = [found["decode_per_s"] for found in ran.values()]
            if known and decoding:
                case["times_transformers"] = round(case["whet"]["tokens_per_s"] / max(known), 2)
                case["times_transformers_decode"] = round(case["whet"]["decode_per_s"] / max(decoding), 2)
            self.save()
        decoder.kept = None
        return bool(check["right"])

    def save(self) -> None:
        name = "decode_gpu" if self.arguments.shape == "8b" else f"decode_{self.arguments.shape}"
        settings = {"shape": self.arguments.shape, "prompt": PROMPT, "new": NEW, "gb_per_s": self.arguments.gb_per_s}
        tilings = {"dense": [gemv_triton.ONE, gemv_triton.MANY], "nf4": [gemv_nf4_triton.ONE, gemv_nf4_triton.MANY]}
        record(name, self.arguments.out, settings=settings, tilings=tilings, **self.results)


def take_tilings(path: Path) -> None:
    """The fastest of decode_kernels.py in place of the shipped ones."""
    found = json.loads(path.read_text())
    for module, kind in ((gemv_triton, "bf16"), (gemv_nf4_triton, "nf4")):
        for name, rows in (("ONE", 1), ("MANY", 16)):
            if best := found[f"{kind} {rows}"]["best"]:
                setattr(module, name, gemv_triton.Tiling(*map(int, best.split("x"))))
    said("tilings", gemv_triton.ONE, gemv_triton.MANY, gemv_nf4_triton.ONE, gemv_nf4_triton.MANY)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=list(SHAPES), default="8b")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--kernels", type=Path)
    parser.add_argument("--weights", choices=("bf16", "nf4", "both"), default="both")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--seconds", type=float, default=285)
    parser.add_argument("--gb-per-s", type=float, default=3350)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    said("imports done,", torch.cuda.get_device_name() if device == "cuda" else "CPU")
    if arguments.kernels and arguments.kernels.exists():
        take_tilings(arguments.kernels)
    run = Run(arguments, device)
    model = model_of(arguments.shape, device)
    said("model made")
    right = True
    if arguments.weights != "nf4":
        right = run.weights("bf16", model)
    if arguments.weights != "bf16":
        to_nf4(model)
        said("quantised")
        right = run.weights("nf4", model) and right
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
