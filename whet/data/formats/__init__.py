"""From rows with columns to records: which column is what, and how a prompt is written.

The types and their defaults are Axolotl's. Rows without an answer are left out and counted, a wrong row and a missing
column are errors, nothing is guessed in silence.
"""

from whet.data.formats.columns import ALPACA_FORMAT, ALPACA_NO_INPUT
from whet.data.formats.reading import FormatResult, RecordStream, open_records, to_records
from whet.data.formats.spec import FormatSpec

__all__ = [
    "ALPACA_FORMAT",
    "ALPACA_NO_INPUT",
    "FormatResult",
    "FormatSpec",
    "RecordStream",
    "open_records",
    "to_records",
]
