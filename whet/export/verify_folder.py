"""The proof of a folder that transformers loads: a merged model, or an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whet.export.adapter import Origin, find_origin
from whet.export.greedy import Answer, judge_answers
from whet.export.heldout import HeldOut
from whet.export.probes import DEFAULT_PROBES, Messages, render_probes
from whet.export.reference import Reference, load_reference
from whet.export.texts import Texts, texts_of
from whet.export.verdict import ROUNDED_WEIGHTS, Verdict, judge, write_verdict
from whet.export.verify import ANSWER_TOKENS, POSITIONS, terminators

EXACT = "f32"  # the bar for an adapter: nothing was rounded


def verify_folder(
    folder: Path | str,
    reference: Reference,
    probes: Sequence[Messages] | None = None,
    positions: int = POSITIONS,
    *,
    held_out: HeldOut | None = None,
) -> Verdict:
    """Compare a merged folder or an adapter folder with the trained model, both in float32 in torch.

    The verdict is written beside the folder (``<folder>.verify.json``). The bar is that of a GGUF whose weights are
    rounded in the same way.

    Raises:
        ModelError: the folder does not load.
    """
    origin = find_origin(folder)
    found, tokenizer = load_reference(origin, str(folder)), reference.tokenizer
    rendered = render_probes(tokenizer, None, DEFAULT_PROBES if probes is None else probes)
    theirs = render_probes(found.tokenizer, None, DEFAULT_PROBES if probes is None else probes)
    texts = texts_of(tokenizer, rendered, held_out, positions)
    ends, _ = terminators(tokenizer)
    answers = _answers(found, texts.prompts, ends)
    written = [answer.prompt + answer.tokens[:-1] for answer in answers]
    steps = [[len(answer.prompt) - 1 + step for step in range(len(answer.tokens))] for answer in answers]
    trained = reference.logprobs([*texts.documents, *written], [*texts.places, *steps])
    verdict = judge(
        _kind(origin),
        np.concatenate(trained[: len(texts.documents)]),
        np.concatenate(found.logprobs(texts.documents, texts.places)),
        len(rendered),
        _same_ids(tokenizer, found.tokenizer, texts),
        [probe.text for probe in rendered] == [probe.text for probe in theirs] if tokenizer.chat_template else None,
        tokenizer.eos_token == found.tokenizer.eos_token,
        next_P=texts.next_P,
        perplexity_on=texts.what,
        greedy=judge_answers(answers, trained[len(texts.documents) :], ends),
        terminators_end=_ends_known(found, origin, tokenizer),
    )
    write_verdict(folder, verdict)
    return verdict


def _kind(origin: Origin) -> str:
    if origin.adapter is not None:
        return EXACT
    config = origin.base.config
    return ROUNDED_WEIGHTS.get(str(config.get("dtype") or config.get("torch_dtype")), EXACT)


def _same_ids(tokenizer: Any, other: Any, texts: Texts) -> bool:
    plain = [tokenizer.decode(ids) for ids in texts.documents]
    return all(tokenizer(text)["input_ids"] == other(text)["input_ids"] for text in plain)


def _ends_known(found: Reference, origin: Origin, tokenizer: Any) -> bool | None:
    """Whether ``generate`` of the merged folder ends where the trained model's answers do; an adapter has no say."""
    if origin.adapter is not None:
        return None
    file = origin.base.folder / "generation_config.json"
    if not file.is_file():
        return None
    from transformers import GenerationConfig

    known = GenerationConfig.from_pretrained(origin.base.folder).eos_token_id
    ends = set(known) if isinstance(known, list) else {known}
    return tokenizer.eos_token_id in ends


def _answers(found: Reference, prompts: Sequence[list[int]], ends: Sequence[int]) -> list[Answer]:
    """Answers at temperature 0; none of a model that is read from the disk for each token."""
    if found.streamed:
        return []
    return [_answer(found.model, prompt, set(ends)) for prompt in prompts]


def _answer(model: Any, prompt: Sequence[int], ends: set[int]) -> Answer:
    tokens: list[int] = []
    cache = None
    ids = list(prompt)
    with torch.inference_mode():
        while len(tokens) < ANSWER_TOKENS:
            out = model(input_ids=torch.tensor([ids], device=model.device), past_key_values=cache, use_cache=True)
            cache, token = out.past_key_values, int(out.logits[0, -1].argmax())
            tokens.append(token)
            if token in ends:
                return Answer(list(prompt), tokens, True)
            ids = [token]
    return Answer(list(prompt), tokens, False)
