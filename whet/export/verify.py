"""The proof: an exported model against the trained one, both read exactly.

A GGUF is read by llama.cpp, a merged folder by transformers. Compared are the token ids of probe conversations, the
prompt that the template in the file makes of them, where an answer ends, next-token distributions over the whole
vocabulary at a stated number of positions of the probes and of held-out rows, and answers at temperature 0. llama.cpp
runs with a float32 KV cache and without flash attention, so that what differs is the file and not the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whet.console import Progress
from whet.errors import MissingDependency, ModelError, Unproved
from whet.export.gguf_header import read_header
from whet.export.greedy import Answer, judge_answers
from whet.export.heldout import HeldOut
from whet.export.modelfile import Template
from whet.export.probes import DEFAULT_PROBES, Messages, RenderedProbe, render_probes
from whet.export.recipes import QUANTS, file_type
from whet.export.reference import Reference
from whet.export.texts import Texts, texts_of
from whet.export.verdict import THRESHOLDS, Thresholds, Verdict, judge, verdict_path, write_verdict
from whet.export.vocabulary import prompt_lead
from whet.llamacpp import LlamaServer, available
from whet.text.chat import chat_template_of

POSITIONS = 64
ANSWER_TOKENS = 48  # of a greedy answer
CONTEXT_STEP = 256  # llama.cpp rounds its context to this


def verify_gguf(
    gguf_path: Path | str,
    reference_model: Any,
    tokenizer: Any,
    probes: Sequence[Messages] | None = None,
    positions: int = POSITIONS,
    *,
    template: Template | None = None,
    threads: int | None = None,
    held_out: HeldOut | None = None,
    base_gguf: Path | str | None = None,
) -> Verdict:
    """Compare a GGUF with the trained model and write the verdict beside it (``<file>.verify.json``).

    Args:
        reference_model: the trained model in transformers, float32; or a :class:`Reference`.
        tokenizer: its tokenizer, as saved with it.
        probes: conversations; None takes ``DEFAULT_PROBES``.
        positions: next-token distributions to compare: half of them in the held-out rows, where there are any.
        template: what the model was trained with, where that is not the tokenizer's own.
        held_out: rows for half of the positions, for the perplexity and for answers.
        base_gguf: ``gguf_path`` is a LoRA adapter, and this the model that it belongs on.

    Raises:
        Unproved: llama.cpp is not installed here; the message has the command that installs it.
        ModelError: llama.cpp cannot load the file.
    """
    require_llamacpp(gguf_path)
    reference = _reference(reference_model, tokenizer)
    rendered = render_probes(tokenizer, template, DEFAULT_PROBES if probes is None else probes)
    texts = texts_of(tokenizer, rendered, held_out, positions)
    room = -(-(texts.longest + ANSWER_TOKENS + 16) // CONTEXT_STEP) * CONTEXT_STEP
    model, loras = (gguf_path, []) if base_gguf is None else (base_gguf, [gguf_path])
    with LlamaServer(model, n_ctx=room, threads=threads, kv_f32=True, loras=loras) as server:
        properties = server.properties()
        same = (
            _same_tokens(server, rendered, texts, tokenizer),
            _same_template(server, rendered, tokenizer, properties),
            properties.get("eos_token") == tokenizer.eos_token,
        )
        ends, stops = terminators(tokenizer)
        terminators_end = all(server.ends_at(token) for token in ends)
        answers = _answers(server, texts.prompts, stops)
        read, places = [*texts.documents, *_read_answers(answers)], [*texts.places, *_answer_places(answers)]
        trained = reference.logprobs(read, places)
        reference_PV = np.concatenate(trained[: len(texts.places)])
        found_PV = _found_logprobs(server, texts, reference_PV.shape[1])
    verdict = judge(
        _kind(model),
        reference_PV,
        found_PV,
        len(rendered),
        *same,
        next_P=texts.next_P,
        perplexity_on=texts.what,
        greedy=judge_answers(answers, trained[len(texts.documents) :], ends),
        terminators_end=terminators_end,
    )
    write_verdict(gguf_path, verdict)
    return verdict


def _reference(model: Any, tokenizer: Any) -> Reference:
    return model if isinstance(model, Reference) else Reference(model, tokenizer)


def _kind(path: Path | str) -> str:
    """The quantisation that a file says it has; whet's name, or the number in the file."""
    number = read_header(path).get("general.file_type")
    return next((quant for quant in QUANTS if file_type(quant) == number), f"file type {number}")


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


def terminators(tokenizer: Any) -> tuple[list[int], list[str]]:
    """Token ids at which an answer ends, and the stop texts that are no single token."""
    template = chat_template_of(tokenizer)
    texts = [tokenizer.eos_token, *(template.stops if template is not None else ())]
    ids, stops = [], []
    vocabulary = tokenizer.get_vocab()
    for text in dict.fromkeys(text for text in texts if text):
        if text in vocabulary:
            ids.append(vocabulary[text])
        else:
            stops.append(text)
    return ids, stops


def _same_tokens(server: LlamaServer, rendered: Sequence[RenderedProbe], texts: Texts, tokenizer: Any) -> bool:
    for probe, ids in zip(rendered, texts.documents, strict=False):  # the probes come first
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


def _answers(server: LlamaServer, prompts: Sequence[list[int]], stops: Sequence[str]) -> list[Answer]:
    answers = []
    with Progress("answering in llama.cpp", len(prompts), "prompts") as progress:
        for prompt in prompts:
            tokens, ended = server.greedy_ids(prompt, ANSWER_TOKENS, stops)
            answers.append(Answer(list(prompt), tokens, ended))
            progress.advance()
    return [answer for answer in answers if answer.tokens]


def _read_answers(answers: Sequence[Answer]) -> list[list[int]]:
    return [answer.prompt + answer.tokens[:-1] for answer in answers]


def _answer_places(answers: Sequence[Answer]) -> list[list[int]]:
    """The token before each written one: what follows it is compared."""
    return [[len(answer.prompt) - 1 + step for step in range(len(answer.tokens))] for answer in answers]


def _found_logprobs(server: LlamaServer, texts: Texts, vocab: int) -> np.ndarray:
    rows = []
    with Progress("proving in llama.cpp", total=len(texts.next_P), unit="positions") as progress:
        for ids, places in zip(texts.documents, texts.places, strict=True):
            for place in places:
                rows.append(server.next_logprobs(ids[: place + 1], vocab))
                progress.advance()
    return np.stack(rows)


__all__ = [
    "POSITIONS",
    "THRESHOLDS",
    "Thresholds",
    "Verdict",
    "judge",
    "require_llamacpp",
    "verdict_path",
    "verify_gguf",
]
