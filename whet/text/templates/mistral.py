"""Mistral: questions in [INST] marks; a system message begins the first one, with an empty line after it.

The space before an answer belongs to the answer's first token, so a prompt ends before it.
"""

from __future__ import annotations

from whet.text.template import Turn, TurnTemplate
from whet.text.templates.format import Format


def _pieces(eos: str) -> TurnTemplate:
    return TurnTemplate(
        user=Turn("[INST] ", " [/INST]"),
        assistant=Turn(" ", eos),
        system=Turn("", "\n\n"),
        generation="",
        system_place="first_user",
    )


MISTRAL = Format(_pieces, bos="<s>", eos="</s>")
