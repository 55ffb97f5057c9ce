"""Templates and conversations that the tests of all three forms share."""

from __future__ import annotations

from whet.text.template import Turn, TurnTemplate, bundled

EOS = "<|im_end|>"

TEMPLATES = {
    "chatml": bundled("chatml"),
    "default system": TurnTemplate(
        Turn("<|im_start|>user\n", "<|im_end|>\n"),
        Turn("<|im_start|>assistant\n", "<|im_end|>\n"),
        Turn("<|im_start|>system\n", "<|im_end|>\n"),
        default_system="You are a helpful assistant.",
    ),
    "prefix, no system": TurnTemplate(Turn("Q: ", "\n"), Turn("A: ", "\n\n"), prefix="Questions.\n\n"),
    "prefix and default": TurnTemplate(
        Turn("U ", "\n"), Turn("A ", "\n"), Turn("S ", "\n"), default_system="none", prefix="# Chat\n"
    ),
    "frame, one slot": TurnTemplate(
        Turn("Below is an instruction.\n\n### Input:\n"),
        Turn("\n\n### Response:\nSQL: ", EOS),
        generation="\n\n### Response:\nSQL:",
    ),
    "frame, two slots": TurnTemplate(
        Turn("\n\n### Input:\nSQL prompt: "),
        Turn("\n\n### Response:\nSQL: ", EOS),
        Turn("Below is an instruction.\n\n### Instruction:\nCompany database: "),
        default_system="",
        generation="\n\n### Response:\nSQL:",
        system_place="each_turn",
    ),
    "each turn, no default": TurnTemplate(
        Turn("U: ", "\n"), Turn("A: ", "\n"), Turn("S: ", "\n"), system_place="each_turn"
    ),
    "hostile": TurnTemplate(
        Turn('{{ .Content }} """ \\n {% if %} \'{'),
        Turn("}} `A`\t\u00a0\u200d{{", '"</s>\r\n'),
        Turn("{# 分类 🙂", "{"),
        generation='"',
    ),
}


def chat(*turns: str) -> list[dict[str, str]]:
    """ "s...", "u...", "a..." -> messages."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[turn[0]], "content": turn[1:]} for turn in turns]


CHATS = [
    chat("uHow many?"),
    chat("u 分类 🙂\n", "a\n积极 ", "unext"),
    chat("uone", "atwo", "uthree", "afour", 'u{{ .Content }} """ {% x %}'),
    chat("u"),
]
SYSTEM_CHATS = [[*chat("sOnly SQL."), *each] for each in CHATS] + [chat("u1", "a2", "slater", "u3")]


def chats(template: TurnTemplate) -> list[list[dict[str, str]]]:
    return CHATS + (SYSTEM_CHATS if template.system else [])
