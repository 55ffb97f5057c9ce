"""The proof: a GGUF in llama.cpp against the trained model in transformers, both read exactly.

Compared are the token ids of probe conversations, the prompt that llama.cpp makes with the template in the file, and
next-token distributions over the whole vocabulary at a stated number of positions. llama.cpp runs with a float32 KV
cache and without flash attention, so that what differs is the file and not the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whet.console import Progress, write_json_atomic
from whet.errors import MissingDependency, ModelError, Unproved
from whet.export.modelfile import Template
from whet.export.probes import DEFAULT_PROBES, Messages, RenderedProbe, render_probes
from whet.export.vocabulary import prompt_lead
from whet.llamacpp import LlamaServer, available

POSITIONS = 64
CONTEXT_STEP = 256  # llama.cpp rounds its context to this
TIE = 0.05  # two best log-probabilities closer than this count as one choice
VISIBLE = -50.0  # log-probabilities below are noise in float32, and left out of the largest difference


@dataclass(frozen=True)
class Thresholds:
    """The bar for one quantisation: mean KL in nats at most, top-1 agreement at least."""

    kl_mean: float
    top1_agreement: float
    max_abs_logprob_diff: float | None = None


# Above what a right file shows and below what a wrong one does; tests/export/test_starter.py has measured figures.
THRESHOLDS = {
    "f32": Thresholds(1e-6, 0.99, 1e-3),
    "f16": Thresholds(1e-4, 0.98),
    "bf16": Thresholds(5e-3, 0.95),
    "q8_0": Thresholds(1e-2, 0.95),
    "q6_k": Thresholds(5e-2, 0.90),
    "q4_k_m": Thresholds(0.3, 0.60),
}
# llama.cpp's name for the file type -> ours
_FILE_TYPES = {
    "all F32": "f32",
    "F16": "f16",
    "BF16": "bf16",
    "Q8_0": "q8_0",
    "Q6_K": "q6_k",
    "Q4_K - Medium": "q4_k_m",
}


@dataclass(frozen=True)
class Verdict:
    """What the comparison found. KL is KL(trained || file) in nats a token.

    ``template_identical`` is None where the file or the model has no template to compare.
    """

    quant: str
    tokens_identical: bool
    template_identical: bool | None
    eos_identical: bool
    kl_mean: float
    kl_p99: float
    top1_agreement: float
    max_abs_logprob_diff: float
    positions: int
    probes: int
    passed: bool
    thresholds: Thresholds


def verify_gguf(
    gguf_path: Path | str,
    reference_model: Any,
    tokenizer: Any,
    probes: Sequence[Messages] | None = None,
    positions: int = POSITIONS,
    *,
    template: Template | None = None,
    threads: int | None = None,
) -> Verdict:
    """Compare a GGUF with the trained model and write the verdict beside it (``<file>.verify.json``).

    Args:
        reference_model: the trained model in transformers, float32.
        tokenizer: its tokenizer, as saved with it.
        probes: conversations; None takes ``DEFAULT_PROBES``.
        positions: next-token distributions to compare, spread evenly over all probes.
        template: what the model was trained with, where that is not the tokenizer's own template.

    Raises:
        Unproved: llama.cpp is not installed here; the message has the command that installs it.
        ModelError: llama.cpp cannot load the file.
    """
    require_llamacpp(gguf_path)
    rendered = render_probes(tokenizer, template, DEFAULT_PROBES if probes is None else probes)
    documents = [_token_ids(tokenizer, probe) for probe in rendered]
    room = -(-(max(map(len, documents)) + 16) // CONTEXT_STEP) * CONTEXT_STEP
    with LlamaServer(gguf_path, n_ctx=room, threads=threads, kv_f32=True) as server:
        properties = server.properties()
        same_tokens = _same_tokens(server, rendered, documents, tokenizer)
        same_template = _same_template(server, rendered, tokenizer, properties)
        same_eos = properties.get("eos_token") == tokenizer.eos_token
        reference_PV = torch.cat(list(_reference_logprobs(reference_model, documents, positions))).numpy()
        found_PV = _found_logprobs(server, documents, positions, reference_PV.shape[1])
    quant = _FILE_TYPES.get(str(properties.get("model_ftype")), str(properties.get("model_ftype")))
    verdict = judge(quant, reference_PV, found_PV, len(rendered), same_tokens, same_template, same_eos)
    versions = {name: version(name) for name in ("whet", "xllamacpp", "transformers", "torch")}
    written = {"file": Path(gguf_path).name, **asdict(verdict), "versions": versions}
    write_json_atomic(verdict_path(gguf_path), written)
    return verdict


def verdict_path(gguf_path: Path | str) -> Path:
    """Where the verdict of a file stands."""
    return Path(f"{gguf_path}.verify.json")


def require_llamacpp(gguf_path: Path | str) -> None:
    """Raise :class:`Unproved` where llama.cpp is not there to read ``gguf_path``."""
    if available():
        return
    try:
        LlamaServer(gguf_path)
    except MissingDependency as error:
        raise Unproved(
            f"{gguf_path} is written but unproved: {error.given}", fix=f"{error.fix}, then verify again"
        ) from error


def judge(
    quant: str,
    reference_PV: np.ndarray,
    found_PV: np.ndarray,
    probes: int,
    tokens_identical: bool = True,
    template_identical: bool | None = None,
    eos_identical: bool = True,
) -> Verdict:
    """The verdict on log-probabilities of shape [positions, vocabulary]."""
    probability_PV = np.exp(reference_PV)
    kl_P = (probability_PV * (reference_PV - found_PV)).sum(-1)
    best_P = reference_PV.max(-1)
    chosen_P = np.take_along_axis(reference_PV, found_PV.argmax(-1)[:, None], -1)[:, 0]
    visible_PV = reference_PV > VISIBLE
    bar = THRESHOLDS.get(quant, THRESHOLDS["q4_k_m"])
    kl_mean, top1 = float(kl_P.mean()), float((chosen_P >= best_P - TIE).mean())
    largest = float(np.abs(reference_PV - found_PV)[visible_PV].max())
    passed = tokens_identical and eos_identical and template_identical is not False
    passed = passed and kl_mean <= bar.kl_mean and top1 >= bar.top1_agreement
    if bar.max_abs_logprob_diff is not None:
        passed = passed and largest <= bar.max_abs_logprob_diff
    return Verdict(
        quant=quant,
        tokens_identical=tokens_identical,
        template_identical=template_identical,
        eos_identical=eos_identical,
        kl_mean=kl_mean,
        kl_p99=float(np.quantile(kl_P, 0.99)),
        top1_agreement=top1,
        max_abs_logprob_diff=largest,
        positions=len(kl_P),
        probes=probes,
        passed=bool(passed),
        thresholds=bar,
    )


def _token_ids(tokenizer: Any, probe: RenderedProbe) -> list[int]:
    return list(tokenizer(probe.text, add_special_tokens=probe.plain)["input_ids"])


def _same_tokens(
    server: LlamaServer, rendered: Sequence[RenderedProbe], documents: Sequence[list[int]], tokenizer: Any
) -> bool:
    for probe, ids in zip(rendered, documents, strict=True):
        text = probe.text if probe.plain else prompt_lead(tokenizer, probe.text) + probe.text
        if server.tokenize(text, add_special=probe.plain) != ids:
            return False
    return True


def _same_template(
    server: LlamaServer, rendered: Sequence[RenderedProbe], tokenizer: Any, properties: dict[str, Any]
) -> bool | None:
    """Whether llama.cpp's prompt is ours. It always asks for an answer, and leaves out a beginning token it adds."""
    asked = [probe for probe in rendered if not probe.plain and probe.messages[-1]["role"] == "user"]
    if not asked or not properties.get("chat_template"):
        return None
    bos = getattr(tokenizer, "bos_token", None) or ""
    for probe in asked:
        try:
            prompt = server.render(probe.messages)
        except ModelError:
            return False
        text = prompt_lead(tokenizer, probe.text) + probe.text
        if prompt.removeprefix(bos) != text.removeprefix(bos):
            return False
    return True


def _chosen_positions(documents: Sequence[Sequence[int]], positions: int) -> list[list[int]]:
    """For each document the lengths of the prefixes to compare, spread evenly over all tokens of all documents."""
    everywhere = [(which, length) for which, ids in enumerate(documents) for length in range(1, len(ids) + 1)]
    count = min(positions, len(everywhere))
    picked = [everywhere[round(step)] for step in np.linspace(0, len(everywhere) - 1, count)]
    return [[length for which, length in picked if which == document] for document in range(len(documents))]


def _reference_logprobs(model: Any, documents: Sequence[list[int]], positions: int) -> Iterator[torch.Tensor]:
    """Log-probabilities of the chosen positions in float64, one tensor [chosen, vocabulary] for each document."""
    for ids, lengths in zip(documents, _chosen_positions(documents, positions), strict=True):
        with torch.inference_mode():
            ids_1T = torch.tensor([ids], device=model.device)
            logits_TV = model(input_ids=ids_1T, use_cache=False).logits[0]
            rows = torch.tensor([length - 1 for length in lengths], dtype=torch.long, device=logits_TV.device)
            yield logits_TV[rows].double().log_softmax(-1).cpu()


def _found_logprobs(server: LlamaServer, documents: Sequence[list[int]], positions: int, vocab: int) -> np.ndarray:
    chosen = _chosen_positions(documents, positions)
    rows = []
    with Progress("proving in llama.cpp", total=sum(map(len, chosen)), unit="positions") as progress:
        for ids, lengths in zip(documents, chosen, strict=True):
            for length in lengths:
                rows.append(server.next_logprobs(ids[:length], vocab))
                progress.advance()
    return np.stack(rows)
