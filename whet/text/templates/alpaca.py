"""Alpaca: an introduction, then each question and answer under a title of their own."""

from __future__ import annotations

from whet.text.template import Turn, TurnTemplate
from whet.text.templates.format import Format

INTRODUCTION = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)


def _pieces(eos: str) -> TurnTemplate:
    return TurnTemplate(
        user=Turn("### Instruction:\n", "\n\n"),
        assistant=Turn("### Response:\n", f"{eos}\n\n"),
        system=Turn("", "\n\n"),
        default_system=INTRODUCTION,
        system_place="start",
    )


ALPACA = Format(_pieces, eos="</s>")
