"""ChatML: <|im_start|>role, a line break, the content, <|im_end|> and a line break."""

from whet.text.template import Turn, TurnTemplate

CHATML = TurnTemplate(
    system=Turn("<|im_start|>system\n", "<|im_end|>\n"),
    user=Turn("<|im_start|>user\n", "<|im_end|>\n"),
    assistant=Turn("<|im_start|>assistant\n", "<|im_end|>\n"),
)
