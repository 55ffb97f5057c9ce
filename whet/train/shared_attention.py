"""A prompt that two answers share, computed once by a model's own forward.

transformers lets a program register an attention function (``AttentionInterface``); the one here is the engine's
(``whet/engine/attention.py``), which looks at shared tokens as part of both documents. It is chosen on the user's model
for the time of a training, and only where it is seen to do the same as the model's own attention; otherwise the prompt
is computed twice. Calls without ``documents`` go to transformers' own function.

B rows of T tokens, H query and G key/value heads, E head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from whet.console import notice
from whet.data.answer_loader import AnswerDataset, CollateAnswers
from whet.engine.attention import attention, attention_backward
from whet.engine.documents import Documents, Scores, documents_of

NAME = "whet_documents"
COMMON, FIRST, SECOND = 5, 9, 12  # tokens of the two documents that are tried
AGREES, AGREES_SHORT = 1e-4, 0.1  # of logits, relative to their size; the second in 16 bits
CLEARLY = 4  # how much nearer than without the common beginning, in 16 bits
UNKNOWN = "its attention takes {}, which is not known here"
IGNORED = {"position_ids", "output_attentions", "use_cache", "cache_position", "is_causal", "past_key_values"}


def forward_arguments(position_ids_BT: torch.Tensor, lengths: Any, shared: Any) -> dict[str, Any]:
    """What the model's forward is called with, beside ids and positions."""
    documents = documents_of(position_ids_BT, lengths, shared)
    # A mask of four dimensions is passed on as it is, so that none of T x T is made; the function here reads none.
    return {"documents": documents, "attention_mask": position_ids_BT.new_zeros(1, 1, 1, 1)}


def is_told(model: Any) -> bool:
    """Whether the model's own attention takes documents now."""
    return getattr(model.config, "_attn_implementation", None) == NAME


def say_shared(dataset: Any) -> None:
    """How many tokens a shared prompt spares, for people."""
    if isinstance(dataset, AnswerDataset) and dataset.spared.any():
        tokens, spared = dataset.prepared.stats.tokens, int(dataset.spared.sum())
        text = f"prompts are computed once for both answers: {tokens - spared:,} tokens a pass instead of {tokens:,}"
        if dataset.shared.differing:
            text += f"; {dataset.shared.differing:,} pairs write their prompt in two ways, and share what is the same"
        notice(text, key="shared prompts")


@contextmanager
def sharing_prompts(model: Any, datasets: Sequence[Any], collate: Any) -> Iterator[None]:
    """Within it the model's own forward computes a shared prompt once, if it can; data sets make rows accordingly.

    Args:
        model: the user's own, without an engine.
    """
    answers = [dataset for dataset in datasets if isinstance(dataset, AnswerDataset)]
    if not answers or not isinstance(collate, CollateAnswers):
        yield
        return
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = getattr(base.config, "_attn_implementation", None)
    problem = "" if before == NAME else _switched(base)
    collate.flat = not problem
    for dataset in answers:
        dataset.share = not problem
    if not problem:
        say_shared(answers[0])
    elif any(dataset.shared.tokens.any() for dataset in answers):
        notice(f"prompts are computed twice, once for each answer: {problem}", key="shared prompts")
    try:
        yield
    finally:
        if not problem and before != NAME:
            base.set_attn_implementation(before)


def documents_attention(
    module: Any,
    query_BHTE: torch.Tensor,
    key_BGTE: torch.Tensor,
    value_BGTE: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    documents: Documents | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: (B, T, H, E), no weights.

    Raises:
        ValueError: an argument that changes the result and is not known here.
    """
    if documents is None:
        sdpa: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query_BHTE, key_BGTE, value_BGTE, attention_mask, dropout=dropout, scaling=scaling,
            sliding_window=sliding_window, softcap=softcap, **more,
        )  # fmt: skip
        return sdpa
    unknown = sorted(name for name, value in more.items() if name not in IGNORED and value is not None)
    if unknown or dropout:
        raise ValueError(UNKNOWN.format(", ".join(unknown) or f"dropout {dropout}"))
    scale = scaling if scaling is not None else query_BHTE.shape[-1] ** -0.5
    given = _as_autocast(query_BHTE, key_BGTE, value_BGTE)
    heads = (t.transpose(1, 2).flatten(0, 1) for t in given)
    o_THE = _Attention.apply(*heads, documents, Scores(scale, softcap, sliding_window))
    return o_THE.unflatten(0, (query_BHTE.shape[0], -1)), None


def _as_autocast(*heads: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """As autocast treats torch's own attention: with float32 weights, rotated heads are float32 and values are not."""
    kind = heads[0].device.type
    if not torch.is_autocast_enabled(kind) or heads[0].dtype == torch.float64:
        return heads
    return tuple(t.to(torch.get_autocast_dtype(kind)) for t in heads)


class _Attention(torch.autograd.Function):
    """The engine's attention for autograd."""

    @staticmethod
    def forward(
        ctx: Any, q_THE: torch.Tensor, k_TGE: torch.Tensor, v_TGE: torch.Tensor, documents: Documents, scores: Scores
    ) -> torch.Tensor:
        o_THE, saved = attention(q_THE, k_TGE, v_TGE, documents, **scores._asdict())
        ctx.save_for_backward(q_THE, k_TGE, v_TGE, o_THE, *saved)
        ctx.documents, ctx.scores = documents, scores
        return o_THE

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        q_THE, k_TGE, v_TGE, o_THE, *saved = ctx.saved_tensors
        found = attention_backward(
            grads[0].contiguous(), q_THE, k_TGE, v_TGE, o_THE, tuple(saved), ctx.documents, **ctx.scores._asdict()
        )
        return *found, None, None


def _switched(base: Any) -> str:
    """Choose the function on a model; or why not, and then the model is as it was."""
    before = getattr(base.config, "_attn_implementation", None)
    if not hasattr(base, "set_attn_implementation") or before not in ("eager", "sdpa"):
        return f"its attention is {before!r}"
    if getattr(base.config, "attention_dropout", 0.0):
        return f"its attention_dropout is {base.config.attention_dropout:g}, not 0"
    AttentionInterface.register(NAME, documents_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    base.set_attn_implementation(NAME)
    problem = ""
    try:
        problem = _difference(base, before)
    except (TypeError, ValueError, AttributeError, RuntimeError, KeyError) as error:  # a model of another build
        problem = str(error).split("\n")[0]
    finally:
        if problem:
            base.set_attn_implementation(before)
    return problem


@torch.no_grad()
def _difference(base: Any, before: str) -> str:
    """Two documents with a common beginning, together and one after the other by the attention of before.

    In 16 bits deep models differ by some percent between two ways of computing the same. What counts as different is
    measured: the second document without its beginning.
    """
    device, training = next(base.parameters()).device, base.training
    one_1T, two_1T = (torch.arange(1, size + 1, device=device)[None] for size in (FIRST, SECOND))
    two_1T = torch.cat([one_1T[:, :COMMON], two_1T[:, COMMON:].flip(1)], 1)
    ids_1T = torch.cat([one_1T, two_1T[:, COMMON:]], 1)
    spans = (torch.arange(FIRST, device=device), torch.arange(COMMON, SECOND, device=device))
    positions_1T = torch.cat(spans)[None]

    def logits(lengths: tuple[int, int], shared: tuple[int, int]) -> torch.Tensor:
        arguments = forward_arguments(positions_1T, lengths, shared)
        found: torch.Tensor = base(input_ids=ids_1T, position_ids=positions_1T, use_cache=False, **arguments).logits[0]
        return found.float()

    base.eval()
    try:
        found_TV, apart_TV = logits((FIRST, SECOND), (0, COMMON)), logits((FIRST, SECOND - COMMON), (0, 0))
        base.set_attn_implementation(before)
        plain = [base(input_ids=ids, use_cache=False).logits[0] for ids in (one_1T, two_1T)]
    finally:
        base.set_attn_implementation(NAME)
        base.train(training)
    wanted_TV = torch.cat([plain[0], plain[1][COMMON:]])
    error, other = (
        (t - wanted_TV.float()).norm().item() / wanted_TV.float().norm().item() for t in (found_TV, apart_TV)
    )
    limit = AGREES if wanted_TV.dtype in (torch.float32, torch.float64) else min(AGREES_SHORT, other / CLEARLY)
    return "" if error <= limit else f"its logits differ by {error:.1g} when documents share tokens"
