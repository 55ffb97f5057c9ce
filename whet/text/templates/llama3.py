"""Llama 3: a header with the role, two line breaks, the content and <|eot_id|>."""

from __future__ import annotations

from whet.text.template import Turn, TurnTemplate
from whet.text.templates.format import Format


def header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


END = "<|eot_id|>"
TURNS = TurnTemplate(
    system=Turn(header("system"), END), user=Turn(header("user"), END), assistant=Turn(header("assistant"), END)
)

LLAMA_3 = Format(lambda eos: TURNS, bos="<|begin_of_text|>")
