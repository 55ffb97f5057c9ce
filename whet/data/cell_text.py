"""Cells of a table as the text that a person would have typed; missing ones are None.

pandas and Arrow store a column of whole numbers with gaps as floats, and a gap as NaN. Read back naively, such cells
become "23.0" and "nan" in the prompt.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

_POSITIONAL = (1e-7, 1e16)  # outside of these sizes a float is written with an exponent
_MIDNIGHT = datetime.time()


def column_texts(values: Sequence[Any]) -> list[str | None]:
    """The texts of one column. A column whose times are all midnight is one of dates."""
    texts = [cell_text(value) for value in values]
    times = [value for value, text in zip(values, texts, strict=True) if text is not None]
    if times and all(isinstance(value, datetime.datetime) and value.time() == _MIDNIGHT for value in times):
        return [None if text is None else text[:10] for text in texts]
    return texts


def cell_text(value: Any) -> str | None:
    """One cell as text; None for a missing one: None, NaN, NaT, pandas.NA, empty text, only white space.

    Whole floats are written without ".0", other floats with as many digits as tell them apart; dates and times as in
    ISO 8601; lists and mappings as JSON.
    """
    if isinstance(value, str):
        return value if value.strip() else None
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else _number(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if (isinstance(value, Decimal) and value.is_nan()) or (isinstance(value, np.datetime64) and np.isnat(value)):
        return None
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    text = str(value)
    return text if text.strip() else None


def _number(value: float | np.floating[Any]) -> str:
    """The shortest digits that give this float back in its own width: 71.2833 stays so as a 32-bit float, too."""
    size = abs(float(value))
    if size == 0:
        return "0"
    if _POSITIONAL[0] <= size < _POSITIONAL[1]:
        return np.format_float_positional(value, trim="-")
    return str(value)
