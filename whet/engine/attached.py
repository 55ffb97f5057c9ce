"""One decoder for each model in use: made and compared with the model once, made anew when the model changes."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from whet.engine.decode import Decoder
from whet.engine.spec import Unsupported

_DECODERS: WeakKeyDictionary[Any, Decoder] = WeakKeyDictionary()


def decoder_of(model: Any) -> Decoder | Unsupported:
    """The decoder of a loaded model in eval mode, or why there is none; see ``Decoder.attach``.

    It goes when the model goes. Weights in other memory, another active adapter, a merged or switched-off one are
    noticed.
    """
    known = _DECODERS.get(model)
    if known is not None and known.still_fits():
        return known
    _DECODERS.pop(model, None)  # its cache is given back before another one is made
    found = Decoder.attach(model)
    if isinstance(found, Decoder):
        _DECODERS[model] = found
    return found


def forget(model: Any) -> None:
    """Give the memory of a model's decoder back."""
    _DECODERS.pop(model, None)
