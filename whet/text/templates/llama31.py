"""Llama 3.1 and 3.3: as Llama 3, and every conversation begins with a system turn that tells two dates.

Both dates are fixed, as in the public format: a template that wrote today's date would write another text tomorrow.
"""

from __future__ import annotations

from dataclasses import replace

from whet.text.template import Turn
from whet.text.templates.format import Format
from whet.text.templates.llama3 import END, TURNS, header

DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"

LLAMA_31 = Format(
    lambda eos: replace(
        TURNS, system=Turn(header("system") + DATES, END), later_system=Turn(header("system"), END), default_system=""
    ),
    bos="<|begin_of_text|>",
)
