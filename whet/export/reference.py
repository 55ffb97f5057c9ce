"""The trained model that an export is compared with: transformers with PEFT's adapter on top, in float32, not merged.

Where it does not fit into memory, or its base is in NF4, the model is built without weights, and each decoder layer's
are read when its turn comes: memory then holds one layer, the embedding and the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whet import runtime
from whet.console import notice
from whet.export.adapter import Origin
from whet.export.fourbit import FourBitSource
from whet.export.streamed import streamed_model
from whet.main_memory import free_main_memory
from whet.models.load import load_model, load_tokenizer
from whet.models.names import locate

MEMORY_SHARE = 0.8  # of the free memory that a model may take; activations need the rest
TOKENS_AT_ONCE = 2048  # of a streamed pass: each pass reads all weights
FLOAT32 = 4


@dataclass(frozen=True)
class Reference:
    """A model that answers ``model(input_ids=...).logits``, and its tokenizer.

    Attributes:
        streamed: its weights are read anew in every pass, so that few passes are better than many.
    """

    model: Any
    tokenizer: Any
    streamed: bool = False

    def logprobs(self, documents: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-probabilities of the next token in float64, after the tokens at ``places`` of each document.

        Returns:
            For each document an array [places, vocabulary].
        """
        size = TOKENS_AT_ONCE if self.streamed else 1
        found: list[np.ndarray] = []
        for group in _groups(documents, size):
            found += self._pass([documents[i] for i in group], [places[i] for i in group])
        return found

    def _pass(self, documents: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """One forward over documents padded at the right, where causal attention never looks."""
        width = max(map(len, documents))
        rows = [[*ids, *[ids[-1]] * (width - len(ids))] for ids in documents]
        with torch.inference_mode():
            ids_BT = torch.tensor(rows, device=self.model.device)
            logits_BTV = self.model(input_ids=ids_BT, use_cache=False).logits
            return [
                logits_BTV[b, torch.tensor(wanted, dtype=torch.long, device=logits_BTV.device)]
                .double()
                .log_softmax(-1)
                .cpu()
                .numpy()
                for b, wanted in enumerate(places)
            ]


def load_reference(origin: Origin, name: str) -> Reference:
    """The trained model in float32.

    Args:
        name: what the user calls it, as ``load_model`` takes it.

    Raises:
        ModelError: the model or its adapter does not load.
    """
    needed = FLOAT32 * sum(torch.Size(origin.base.shape(each)).numel() for each in origin.base.names())
    free = _free_memory()
    fits = needed <= MEMORY_SHARE * free
    if fits and _loads_in_transformers(origin, name):
        return Reference(*load_model(name, dtype=torch.float32))
    if not fits:
        notice(
            f"the trained model takes {needed / 2**30:.0f} GiB in float32, {free / 2**30:.0f} GiB are free: it is read "
            "from the disk layer by layer"
        )
    model = streamed_model(origin, runtime.device())
    return Reference(model, load_tokenizer(str(origin.tokenizer_dir), {}), streamed=True)


def _loads_in_transformers(origin: Origin, name: str) -> bool:
    """Whether ``load_model(name)`` gives this model: not where another base was named, or the base is in NF4."""
    if isinstance(origin.base, FourBitSource):
        return False
    meant = locate(name).base
    return not Path(meant).is_dir() or Path(meant).resolve() == Path(origin.place.base).resolve()


def _groups(documents: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """Numbers of documents that are read together: as many as fit into ``tokens`` with padding, at least one."""
    groups: list[list[int]] = []
    for number in range(len(documents)):
        wider = [*groups[-1], number] if groups else [number]
        if groups and len(wider) * max(len(documents[i]) for i in wider) <= tokens:
            groups[-1] = wider
        else:
            groups.append([number])
    return groups


def _free_memory() -> int:
    if runtime.device().type == "cuda":
        return torch.cuda.mem_get_info()[0]
    return free_main_memory()
