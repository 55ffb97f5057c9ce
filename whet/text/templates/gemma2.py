"""Gemma 2: user and model in turn; there is no place for a system message."""

from __future__ import annotations

from whet.text.template import Turn, TurnTemplate
from whet.text.templates.format import Format

END = "<end_of_turn>\n"
TURNS = TurnTemplate(user=Turn("<start_of_turn>user\n", END), assistant=Turn("<start_of_turn>model\n", END))

GEMMA_2 = Format(lambda eos: TURNS, bos="<bos>")
