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
    "at the start, default": TurnTemplate(
        Turn("U: ", "\n"), Turn("A: ", "<end>\n"), Turn("S:\nDate: 1 May.\n", "\n"), "", system_place="start"
    ),
    "a later system message": TurnTemplate(
        Turn("U: ", "\n"), Turn("A: ", "<end>\n"), Turn("S:\nDate: 1 May.\n", "\n"), "", later_system=Turn("S:\n", "\n")
    ),
    "in the first question": TurnTemplate(
        Turn("[INST] ", " [/INST]"),
        Turn(" ", "</s>"),
        Turn("<<SYS>>\n", "\n<</SYS>>\n\n"),
        generation="",
        system_place="first_user",
    ),
    "in the first question, default": TurnTemplate(
        Turn("U: ", "\n"), Turn("A: ", "</s>"), Turn("", "\n\n"), "Be brief.", system_place="first_user"
    ),
    "empty system skipped": TurnTemplate(
        Turn("U: ", "\n"), Turn("A: ", "</s>"), Turn("S: ", "\n"), "Be brief.", skip_empty_system=True
    ),
    "trims": TurnTemplate(Turn("U: ", "\n"), Turn("A: ", "</s>\n"), Turn("S: ", "\n"), trim=True),
    "trims, first question": TurnTemplate(
        Turn("<u>\n", "</u>\n"), Turn("<m>\n", "</u>\n"), Turn("", "\n\n"), trim=True, system_place="first_user"
    ),
    "trims, but not the system's": TurnTemplate(
        Turn("<u>\n", "</u>\n"),
        Turn("<m>\n", "</u>\n"),
        Turn("", "\n\n"),
        trim=True,
        trim_system=False,
        system_place="first_user",
    ),
    "ends in eos": TurnTemplate(Turn("<u>", "<e>"), Turn("<a>", "<e>"), Turn("<s>", "<e>"), suffix="<|im_end|>"),
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
SYSTEM_CHATS = [[*chat(system), *each] for system in ("sOnly SQL.", "s", "s\n x ") for each in CHATS]
LATER_CHATS = [chat("u1", "a2", "slater", "u3"), chat("s0", "u1", "a2", "slater", "u3")]


def chats(template: TurnTemplate) -> list[list[dict[str, str]]]:
    if template.system is None:
        return CHATS
    return CHATS + SYSTEM_CHATS + (LATER_CHATS if template.system_place in ("turn", "each_turn") else [])
