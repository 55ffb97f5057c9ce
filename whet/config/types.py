"""The kinds of value a key can have. Numbers may be given as text ("5e-5"); true is never a number."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainValidator, StringConstraints
from pydantic_core import PydanticCustomError

TRUE_WORDS = ("true", "yes", "on")
FALSE_WORDS = ("false", "no", "off")


def wrong(expected: str) -> PydanticCustomError:
    """The validation error that says what would have been right; ``load.py`` adds place and value."""
    return PydanticCustomError("wrong_value", "{expected}", {"expected": expected})


def _number(value: Any) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise wrong("a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise wrong("a number")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        number = _number(value)
    except PydanticCustomError:
        raise wrong("a whole number") from None
    if number != int(number):
        raise wrong("a whole number")
    return int(number)


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in TRUE_WORDS + FALSE_WORDS:
        return value.lower() in TRUE_WORDS
    raise wrong("true or false")


def _truth_or_auto(value: Any) -> bool | Literal["auto"]:
    if value == "auto":
        return "auto"
    try:
        return _truth(value)
    except PydanticCustomError:
        raise wrong("auto, true or false") from None


def _names(value: Any) -> list[str] | str:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return value
    raise wrong("a name, or a list of names")


def _checkpointing(value: Any) -> bool | str:
    """Other trainers name more variants here; those that are not whet's all mean: recompute to save memory."""
    if value in ("offload", "offload_disk"):
        return True
    if value in ("auto", "unsloth"):
        return str(value)
    try:
        return _truth(value)
    except PydanticCustomError:
        raise wrong("auto, unsloth, true or false") from None


Text = Annotated[str, StringConstraints(min_length=1)]
Int = Annotated[int, BeforeValidator(_whole)]
Float = Annotated[float, BeforeValidator(_number)]
Bool = Annotated[bool, BeforeValidator(_truth)]
BoolOrAuto = Annotated[
    bool | Literal["auto"], PlainValidator(_truth_or_auto, json_schema_input_type=bool | Literal["auto"])
]
Names = Annotated[list[str] | str, PlainValidator(_names, json_schema_input_type=list[Text] | Text)]
_CHECKPOINTING = bool | Literal["auto", "unsloth", "offload", "offload_disk"]
Checkpointing = Annotated[
    bool | Literal["auto", "unsloth"], PlainValidator(_checkpointing, json_schema_input_type=_CHECKPOINTING)
]
