"""Random conversations: the strategies that the property tests of templates, masks and exports share.

No content holds the text of a special token; what looks like a template, a frame or a thinking block is in it.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

TRAPS = (
    "",
    " ",
    "\n",
    " lead",
    "trail ",
    "\n\nlines\n\n",
    "{{ x }}",
    "{{ .Content }}",
    "{% if x %}",
    "{# c #}",
    "### Response:",
    "### Instruction:\nGo.\n\n",
    "User: ",
    "USER: hi ASSISTANT: ",
    "[INST] x [/INST]",
    "<<SYS>>",
    '"""',
    "\\n",
    "'quoted'",
    "分类 🙂",
    "é\u0301\u00a0\u200d",
    "café",
    "word",
    "SELECT count(*) FROM orders;",
)
THOUGHTS = ("<think>\n\n</think>\n\n", "<think>\nTwo and two.\n</think>\n\n", "<think>x</think>", "</think>")

letters = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="<|[]"), max_size=8)
texts = st.lists(st.one_of(st.sampled_from(TRAPS), letters), max_size=4).map("".join)
answers = st.one_of(texts, st.tuples(st.sampled_from(THOUGHTS), texts).map("".join))


@st.composite
def conversations(draw, system=None, answered=None, max_turns=6):
    """Messages: perhaps a system message, then 1 to ``max_turns`` questions with their answers.

    Args:
        system: with a system message or without; None leaves it open.
        answered: whether the last question has its answer; None leaves it open.
    """
    messages = []
    if draw(st.booleans()) if system is None else system:
        messages.append({"role": "system", "content": draw(texts)})
    for _ in range(draw(st.integers(1, max_turns))):
        messages.append({"role": "user", "content": draw(texts)})
        messages.append({"role": "assistant", "content": draw(answers)})
    if not (draw(st.booleans()) if answered is None else answered):
        messages.pop()
    return messages


def samples(count, **kinds):
    """About ``count`` conversations, always the same ones; ``kinds`` as for ``conversations``."""
    found = []

    @settings(max_examples=count, deadline=None, database=None, derandomize=True)
    @given(conversations(**kinds))
    def collect(messages):
        found.append(messages)

    collect()
    return found
