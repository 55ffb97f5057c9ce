"""``model.generate`` through whet's decoder: transformers' arguments in, transformers' tensor out.

Bound on one model by ``bind`` (``FastLanguageModel.for_inference`` does it); no class is changed, and ``unbind`` gives
the model its own ``generate`` back. A call that asks for something the decoder does not do (beams, returned scores,
processors of one's own) goes to transformers, and a note says why.

B rows, T tokens of the padded prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MethodType
from typing import Any

import torch

from whet.engine.attached import decoder_of, forget
from whet.engine.decode import Decoder
from whet.engine.generate import Options, stream
from whet.engine.sampling import Sampling
from whet.engine.spec import Unsupported
from whet.evaluate.generate import evaluating, say_once

NAME = "generate"
# What transformers takes where nobody says anything.
DEFAULTS: dict[str, Any] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "max_new_tokens": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
# Settings without effect on what is generated here, at any value.
IGNORED = {
    "use_cache", "cache_implementation", "cache_config", "compile_config", "disable_compile", "max_length",
    "bos_token_id", "transformers_version", "_from_model_config", "early_stopping", "length_penalty",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold", "diversity_penalty",
    "assistant_lookbehind", "target_lookbehind", "synced_gpus", "prefill_chunk_size", "max_matching_ngram_size",
    "logits_to_keep",
}  # fmt: skip
# Settings that switch something on unless they have one of these values.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "typical_p": (1.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "renormalize_logits": (False,),
}


class _Other(Exception):
    """Its text is why transformers has to do it; it never leaves this file."""


def bind(model: Any) -> None:
    """From now on ``model.generate`` of this instance goes through whet's decoder where it can."""
    setattr(model, NAME, MethodType(model_generate, model))


def unbind(model: Any) -> None:
    """The model's own ``generate`` again; the decoder's memory is given back."""
    model.__dict__.pop(NAME, None)
    forget(model)


def model_generate(
    model: Any,
    inputs: torch.Tensor | None = None,
    generation_config: Any = None,
    *,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    streamer: Any = None,
    **settings: Any,
) -> Any:
    """As transformers' ``generate`` of a decoder-only model.

    Args:
        inputs, input_ids: token ids (B, T), one of the two.
        attention_mask: (B, T); padding stands at the left.
        streamer: gets the prompt and then each token, with one row only.
        settings: of ``GenerationConfig``. Random numbers come from torch's CPU generator, as ``torch.manual_seed`` sets
            it; the tokens drawn are other ones than transformers draws.

    Returns:
        (B, T + new): prompts with their new tokens; rows that ended early are filled with the padding token.
    """
    ids_BT = inputs if inputs is not None else input_ids
    with evaluating(model):
        try:
            decoder = _decoder(model)
            chosen = _settings(model, generation_config, settings)
            prompts = _prompts(ids_BT, attention_mask, chosen)
            if streamer is not None and len(prompts) > 1:
                raise _Other("a streamer with several rows")
            options = _options(chosen)
            if problem := decoder.length_problem(max(map(len, prompts)) + options.max_new_tokens):
                raise _Other(problem)
        except _Other as reason:
            say_once(f"transformers generates, not whet's decoder: {reason}")
            given = {"input_ids": input_ids, "attention_mask": attention_mask, "streamer": streamer}
            given |= {"generation_config": generation_config}
            positional = () if inputs is None else (inputs,)
            given = {name: value for name, value in given.items() if value is not None}
            return type(model).generate(model, *positional, **given, **settings)
        assert ids_BT is not None
        return _joined(ids_BT, _made(decoder, prompts, options, streamer, ids_BT), _pad(chosen))


def _decoder(model: Any) -> Decoder:
    found = decoder_of(model)
    if isinstance(found, Unsupported):
        raise _Other(found.reason)
    return found


def _settings(model: Any, config: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that count: the call's, then the config's, then the model's own, then transformers' defaults."""
    own = getattr(model, "generation_config", None)
    found = dict(DEFAULTS)
    for source in (own.to_dict() if own is not None else {}, config.to_dict() if config is not None else {}, given):
        found |= {name: value for name, value in source.items() if value is not None}
    for name, value in found.items():
        if name in DEFAULTS or name in IGNORED or value is None or value is False or value in NEUTRAL.get(name, ()):
            continue
        raise _Other(f"{name}={value!r:.40}")
    if found["max_new_tokens"] is None:
        raise _Other("no max_new_tokens is given")
    return found


def _options(chosen: Mapping[str, Any]) -> Options:
    sampling = Sampling(repetition_penalty=float(chosen["repetition_penalty"]))
    if chosen["do_sample"]:
        sampling = Sampling(
            temperature=float(chosen["temperature"]),
            top_k=int(chosen["top_k"]),
            top_p=float(chosen["top_p"]),
            min_p=float(chosen["min_p"] or 0.0),
            repetition_penalty=float(chosen["repetition_penalty"]),
        )
    return Options(int(chosen["max_new_tokens"]), frozenset(_ends(chosen)), sampling)


def _ends(chosen: Mapping[str, Any]) -> list[int]:
    ends = chosen["eos_token_id"]
    if ends is None:
        return []
    if isinstance(ends, torch.Tensor):
        ends = ends.flatten().tolist()
    return [int(ends)] if isinstance(ends, int) else [int(end) for end in ends]


def _pad(chosen: Mapping[str, Any]) -> int:
    """transformers' choice too: the first end token where no padding token is set."""
    pad = chosen["pad_token_id"]
    return int(pad) if pad is not None else (_ends(chosen) or [0])[0]


def _prompts(ids_BT: torch.Tensor | None, mask_BT: torch.Tensor | None, chosen: Mapping[str, Any]) -> list[list[int]]:
    if ids_BT is None or ids_BT.dim() != 2 or not ids_BT.numel() or torch.is_floating_point(ids_BT):
        raise _Other("no token ids of two dimensions are given")
    if mask_BT is None:
        pad = chosen["pad_token_id"]
        padded = pad is not None and pad not in _ends(chosen) and bool((ids_BT == pad).any())
        mask_BT = ids_BT != pad if padded else torch.ones_like(ids_BT)
    if mask_BT.shape != ids_BT.shape:
        raise _Other(f"an attention mask of the shape {tuple(mask_BT.shape)}")
    lengths = (mask_BT != 0).sum(1).tolist()
    rows = [ids[ids.shape[0] - length :] for ids, length in zip(ids_BT, lengths, strict=True)]
    ends_with_text = [bool((mask[mask.shape[0] - n :] != 0).all()) for mask, n in zip(mask_BT, lengths, strict=True)]
    if not all(lengths) or not all(ends_with_text):
        raise _Other("padding stands elsewhere than at the left")
    return [row.tolist() for row in rows]


def _made(
    decoder: Decoder, prompts: list[list[int]], options: Options, streamer: Any, ids_BT: torch.Tensor
) -> list[list[int]]:
    made: list[list[int]] = [[] for _ in prompts]
    if streamer is not None:
        streamer.put(ids_BT.cpu())
    for tokens in stream(decoder, prompts, options):
        for token in tokens:
            made[token.prompt].append(token.id)
            if streamer is not None:
                streamer.put(torch.tensor([token.id]))
    if streamer is not None:
        streamer.end()
    return made


def _joined(ids_BT: torch.Tensor, made: list[list[int]], pad: int) -> torch.Tensor:
    width = max(map(len, made))
    new = torch.tensor([row + [pad] * (width - len(row)) for row in made], dtype=ids_BT.dtype, device=ids_BT.device)
    return torch.cat([ids_BT, new], dim=1)
