"""The PARAMETERs of a Modelfile: their names, their kinds, and what the user gave for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from whet.config.nearest import did_you_mean
from whet.errors import ExportError

Value = int | float | str

# Ollama's options that a model may carry (api/types.go). typical_p is not among them: newer versions refuse it there.
KINDS: dict[str, type[int] | type[float] | type[str]] = {
    "num_ctx": int,
    "num_batch": int,
    "num_gpu": int,
    "num_keep": int,
    "num_predict": int,
    "num_thread": int,
    "seed": int,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "temperature": float,
    "repeat_last_n": int,
    "repeat_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "stop": str,
}
SHARES = ("top_p", "min_p")


def read_parameters(texts: Sequence[str]) -> dict[str, Value]:
    """``["temperature=0", "seed=1"]`` as typed values; a name given twice keeps the last value.

    Raises:
        ExportError: not ``NAME=VALUE``, an unknown name, a value that Ollama would refuse.
    """
    given: dict[str, Value] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ExportError(f"the parameter {text!r}", "NAME=VALUE, for example temperature=0")
        given[name.strip()] = value
    return check_parameters(given)


def check_parameters(given: Mapping[str, Value]) -> dict[str, Value]:
    """The same parameters, each of its kind, in the order of :data:`KINDS`.

    Raises:
        ExportError: an unknown name (the message has the nearest one), or a value that Ollama would refuse.
    """
    for name in given:
        if name not in KINDS:
            raise ExportError(
                f"Ollama has no parameter {name!r}", f"one of {', '.join(KINDS)}", did_you_mean(name, KINDS)
            )
    return {name: typed(name, given[name]) for name in KINDS if name in given}


def typed(name: str, value: Value) -> Value:
    """``value`` as the kind of the parameter ``name``, which must be a known one."""
    kind = KINDS[name]
    try:
        number = kind(value)
    except ValueError:
        raise ExportError(f"{name}={value!r}", "a whole number" if kind is int else "a number") from None
    if isinstance(value, float) and number != value:
        raise ExportError(f"{name}={value!r}", "a whole number")
    if isinstance(number, str):
        return number
    if not math.isfinite(number) or (name == "temperature" and number < 0):
        raise ExportError(f"{name}={value}", "a number that is not negative")
    if name in SHARES and not 0 <= number <= 1:
        raise ExportError(f"{name}={value}", "a share between 0 and 1")
    if name == "num_ctx" and number < 1:
        raise ExportError(f"{name}={value}", "tokens of context, at least 1")
    return number


def parameter_text(value: Value) -> str:
    """A number as Ollama reads it: 0 and not 0.0, with all its digits."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
