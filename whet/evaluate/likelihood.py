"""How likely a model finds given answers: the basis of perplexity and of preference accuracy.

Only the hidden states of the answers' tokens reach the head, in chunks: no [tokens, vocabulary] tensor is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from whet.engine.loss import IGNORE, module_logprobs
from whet.evaluate.generate import evaluating, pad_id
from whet.models.parts import halves
from whet.text.encode import Encoded

TOKENS_AT_ONCE = 8_192  # of a batch, padding included: bounds the memory, on a GPU too


def answer_logprobs(
    model: Any, tokenizer: Any, rows: Sequence[Encoded], on_done: Callable[[int], None] | None = None
) -> list[float]:
    """The sum of the log-probabilities of each row's trained tokens, nats (0.0 for a row without any).

    Args:
        rows: prompt and answer; ``trained`` are the answer's tokens, terminator included.
        on_done: called with the number of rows of each batch.
    """
    parts = halves(model)
    device = model.get_input_embeddings().weight.device
    pad = pad_id(tokenizer, [0])
    found = [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    with evaluating(model), torch.inference_mode():
        for batch in _batches(order, rows):
            width = len(rows[batch[0]].ids)
            ids_BT = torch.full((len(batch), width), pad, dtype=torch.long)
            labels_BT = torch.full((len(batch), width), IGNORE, dtype=torch.long)
            mask_BT = torch.zeros((len(batch), width), dtype=torch.long)
            for place, number in enumerate(batch):
                size = len(rows[number].ids)
                ids_BT[place, :size] = torch.tensor(rows[number].ids)
                labels_BT[place, :size] = torch.tensor(rows[number].labels)
                mask_BT[place, :size] = 1
            sums = _sums(model, parts, ids_BT.to(device), labels_BT.to(device), mask_BT.to(device))
            for number, value in zip(batch, sums, strict=True):
                found[number] = value
            if on_done is not None:
                on_done(len(batch))
    return found


def _batches(order: list[int], rows: Sequence[Encoded]) -> list[list[int]]:
    """Rows of like length, longest first, at most ``TOKENS_AT_ONCE`` tokens together (but at least one row)."""
    batches: list[list[int]] = []
    for number in order:
        last = batches[-1] if batches else []
        if last and (len(last) + 1) * len(rows[last[0]].ids) <= TOKENS_AT_ONCE:
            last.append(number)
        else:
            batches.append([number])
    return batches


def _sums(model: Any, parts: Any, ids_BT: torch.Tensor, labels_BT: torch.Tensor, mask_BT: torch.Tensor) -> list[float]:
    targets_BT = torch.nn.functional.pad(labels_BT[:, 1:], (0, 1), value=IGNORE)
    rows_N = (targets_BT.flatten() != IGNORE).nonzero().squeeze(1)
    targets_N = targets_BT.flatten()[rows_N]
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT, "use_cache": False}
    if parts is not None:
        hidden_ND = parts.backbone(**inputs)[0].flatten(0, 1).index_select(0, rows_N)
        logp_N = module_logprobs(hidden_ND, parts.head, targets_N)
    else:
        logits_NV = model(**inputs).logits.flatten(0, 1).index_select(0, rows_N)
        logp_N = module_logprobs(logits_NV, _as_they_are, targets_N)
    total_B = torch.zeros(len(ids_BT), dtype=logp_N.dtype, device=logp_N.device)
    total_B.index_add_(0, rows_N // ids_BT.shape[1], logp_N)
    return [float(value) for value in total_B.tolist()]


def _as_they_are(logits_NV: torch.Tensor) -> torch.Tensor:
    return logits_NV
