"""Phi 3 and 3.5: <|role|>, a line break, the content, <|end|> and a line break."""

from __future__ import annotations

from whet.text.template import Turn, TurnTemplate
from whet.text.templates.format import Format

TURNS = TurnTemplate(
    system=Turn("<|system|>\n", "<|end|>\n"),
    user=Turn("<|user|>\n", "<|end|>\n"),
    assistant=Turn("<|assistant|>\n", "<|end|>\n"),
)

PHI_3 = Format(lambda eos: TURNS)
