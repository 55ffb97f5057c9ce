"""Zephyr: <|role|>, a line break, the content, the end token and a line break."""

from __future__ import annotations

from whet.text.template import Turn, TurnTemplate
from whet.text.templates.format import Format


def _pieces(eos: str) -> TurnTemplate:
    end = f"{eos}\n"
    return TurnTemplate(
        system=Turn("<|system|>\n", end), user=Turn("<|user|>\n", end), assistant=Turn("<|assistant|>\n", end)
    )


ZEPHYR = Format(_pieces, eos="</s>")
