"""Tables as readers have them in a notebook: a data set, a pandas frame, a list of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa  # type: ignore[import-untyped]

from whet.errors import DataError


def column_names(table: Any) -> list[str]:
    """The columns of a ``datasets.Dataset``, a pandas ``DataFrame`` or a list of rows.

    Raises:
        DataError: something else, or no rows.
    """
    if isinstance(table, datasets.Dataset):
        names = list(table.column_names)
    elif isinstance(table, pd.DataFrame):
        names = [str(name) for name in table.columns]
    elif isinstance(table, list | tuple) and all(isinstance(row, Mapping) for row in table):
        names = list(dict.fromkeys(str(name) for row in table for name in row))
    else:
        raise _no_table(table)
    if not len(table):
        raise DataError("the data set is empty", "at least one row")
    return names


def column_values(table: Any, name: str) -> list[Any]:
    """One column as Python values; 32-bit floats stay such (numpy), class numbers become their names."""
    if isinstance(table, datasets.Dataset):
        return _dataset_values(table, name)
    if isinstance(table, pd.DataFrame):
        series = table.iloc[:, [str(column) for column in table.columns].index(name)]
        plain = isinstance(series.dtype, np.dtype) and series.dtype.kind == "f"
        values = list(series.to_numpy() if plain else series)
        return [value.tolist() if isinstance(value, np.ndarray) else value for value in values]
    return [row.get(name) for row in table]


def as_dataset(table: Any, without: str | None = None) -> datasets.Dataset:
    """The whole table as a data set, or all but one column of it.

    Raises:
        DataError: columns of mixed types.
    """
    if isinstance(table, datasets.Dataset):
        return table.remove_columns([without]) if without in table.column_names else table
    try:
        if isinstance(table, pd.DataFrame):
            kept = table[[name for name in table.columns if str(name) != without]]
            return datasets.Dataset.from_pandas(kept, preserve_index=False)
        names = [name for name in column_names(table) if name != without]
        return datasets.Dataset.from_dict({name: [row.get(name) for row in table] for name in names})
    except pa.ArrowException as error:
        raise DataError(f"a column holds values of several types: {error}", "one type in each column") from error


def _dataset_values(table: datasets.Dataset, name: str) -> list[Any]:
    values: list[Any] = []
    for batch in table.select_columns([name]).with_format("arrow").iter(batch_size=1000):
        column = batch.column(0)
        if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
            values += list(column.to_numpy())
        else:
            values += column.to_pylist()
    feature = table.features[name]
    if isinstance(feature, datasets.ClassLabel):
        return [None if value is None or value < 0 else feature.int2str(value) for value in values]
    return values


def _no_table(given: Any) -> DataError:
    expected = "a datasets.Dataset, a pandas DataFrame, or a list of rows (dicts)"
    if isinstance(given, datasets.DatasetDict):
        names = ", ".join(given)
        return DataError(
            f"a data set with several splits: {names}", expected, f'choose one: dataset["{next(iter(given), "train")}"]'
        )
    if isinstance(given, datasets.IterableDataset):
        return DataError("a streamed data set", expected, "load it without streaming=True")
    return DataError(f"the data is a {type(given).__name__}", expected)
