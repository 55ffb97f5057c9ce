"""Vicuna 1.1: an introduction, then USER: and ASSISTANT: on one line; answers end with the end token.

The space before an answer belongs to the answer's first token, so a prompt ends before it.
"""

from __future__ import annotations

from whet.text.template import Turn, TurnTemplate
from whet.text.templates.format import Format

INTRODUCTION = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def _pieces(eos: str) -> TurnTemplate:
    return TurnTemplate(
        user=Turn("USER: ", " "),
        assistant=Turn("ASSISTANT: ", eos),
        system=Turn("", " "),
        default_system=INTRODUCTION,
        generation="ASSISTANT:",
        system_place="start",
    )


VICUNA = Format(_pieces, eos="</s>")
