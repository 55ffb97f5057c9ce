"""ChatML: <|im_start|>role, a line break, the content, <|im_end|> and a line break."""

from __future__ import annotations

from whet.text.template import Turn, TurnTemplate
from whet.text.templates.format import Format

TURNS = TurnTemplate(
    system=Turn("<|im_start|>system\n", "<|im_end|>\n"),
    user=Turn("<|im_start|>user\n", "<|im_end|>\n"),
    assistant=Turn("<|im_start|>assistant\n", "<|im_end|>\n"),
)

CHATML = Format(lambda eos: TURNS)
