"""Which template did rows of plain text really use?

Many notebooks format their rows by hand ("### Input:\n{}\n\n### Response:\n{}" + eos) and train on the whole text. The
model then knows that frame, not the tokenizer's chat template, and an export must carry the frame. Here it is found
from what the rows share (``pieces.py`` says how), and it counts only if it writes nearly all rows again, exactly.

The slot after the last piece is the answer; where a piece announces the answer ("### Response:"), everything after it
is the answer, whatever it shares. One slot before it is the user's; two are the system's and the user's. A template
made of a frame has no other place for a system message, and it is written again in each turn, because each row was one
question. The generation prompt stops before the spaces at the end of the last piece: in training they were part of the
answer's first token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from whet.text import pieces as author
from whet.text.jinja import own_bos
from whet.text.rows import in_own_template
from whet.text.template import Turn, TurnTemplate, from_jinja

LOOKED_AT = 48  # rows that the pieces are taken from
CHECKED = 300  # rows that the result must write again
NEARLY_ALL = 0.97

Kind = Literal["tokenizer", "frame", "unknown"]


@dataclass(frozen=True)
class RowsTemplate:
    """The template of a set of rows, and why. For "tokenizer" it is None where the Jinja is not of pieces."""

    kind: Kind
    template: TurnTemplate | None
    reason: str


def infer_frame(texts: Sequence[str], eos: str | None) -> TurnTemplate | None:
    """The frame of hand-formatted rows, each one question and its answer; None if they do not show one.

    Args:
        texts: at least two different rows, as they are trained on; a few hundred of them are looked at.
        eos: the tokenizer's end token. What all rows end with, this or another token-like marker, is the terminator.
    """
    checked = sample(texts, CHECKED)
    after = _terminator(checked, eos)
    if after is None:
        return None
    bodies = [text.removesuffix(after) for text in checked]
    for looked_at in _tries(bodies):
        template = _frame_of(looked_at, after)
        if template is not None:
            found = [author.slots(body, _pieces(template)) for body in bodies]
            if _writes_again(template, found, checked):
                return template
    return None


def infer_pair_frame(pairs: Sequence[tuple[str, str]], eos: str) -> TurnTemplate | None:
    """The same for rows whose border is known: ``(prompt, completion)``, trained as one text with ``eos`` after it."""
    checked = sample(pairs, CHECKED)
    texts = [prompt + completion.removesuffix(eos) + eos for prompt, completion in checked]
    for looked_at in _tries([prompt for prompt, _ in checked]):
        end = author.shared_end(looked_at)
        template = _template([*author.split([prompt.removesuffix(end) for prompt in looked_at]), end], eos)
        if template is not None:
            found = [_pair_slots(template, prompt, completion.removesuffix(eos)) for prompt, completion in checked]
            if _writes_again(template, found, texts):
                return template
    return None


def template_of_rows(tokenizer: Any, texts: Sequence[str]) -> RowsTemplate:
    """The template that rows of text are in: the tokenizer's own, a frame of their own, or unknown.

    Args:
        texts: the rows as they are trained on, with the end token where the training adds one.
    """
    looked_at = sample(texts, CHECKED)
    if in_own_template(tokenizer, looked_at):
        return _own(tokenizer)
    bos = own_bos(tokenizer)
    return _as_rows(bos, infer_frame([text.removeprefix(bos) for text in looked_at], tokenizer.eos_token))


def template_of_pairs(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> RowsTemplate:
    """The same for ``(prompt, completion)`` rows; the end token that training adds is not part of them."""
    looked_at = sample(pairs, CHECKED)
    if in_own_template(tokenizer, [prompt + completion for prompt, completion in looked_at]):
        return _own(tokenizer)
    bos = own_bos(tokenizer)
    pairs = [(prompt.removeprefix(bos), completion) for prompt, completion in looked_at]
    return _as_rows(bos, infer_pair_frame(pairs, tokenizer.eos_token))


def _own(tokenizer: Any) -> RowsTemplate:
    return RowsTemplate("tokenizer", from_jinja(tokenizer), "the rows are in the tokenizer's own chat template")


def _as_rows(bos: str, template: TurnTemplate | None) -> RowsTemplate:
    if template is None:
        return RowsTemplate("unknown", None, "the rows share no frame of question and answer that could be found")
    template = replace(template, bos=bos)
    inputs = "a system and a user part" if template.system else "a user part"
    last = template.assistant.before.strip().rpartition("\n")[2]
    return RowsTemplate("frame", template, f"the rows share a frame with {inputs}; the answer follows {last!r}")


def sample(rows: Sequence[Any], size: int) -> list[Any]:
    """At most ``size`` rows, evenly spread."""
    if len(rows) <= size:
        return list(rows)
    return [rows[i * len(rows) // size] for i in range(size)]


def _tries(rows: list[str]) -> list[list[str]]:
    """Three sets of rows to look at: a stray row in one of them is not in the others."""
    sets = [list(dict.fromkeys(sample(rows[start::3] or rows, LOOKED_AT))) for start in range(3)]
    if len(rows) <= LOOKED_AT:
        sets = [list(dict.fromkeys(rows))]
    return [each for each in sets if len(each) > 1]


def _terminator(texts: list[str], eos: str | None) -> str | None:
    """What ends every row: eos, another marker, or nothing; None if some rows end with eos and some do not."""
    ended = sum(bool(eos) and text.endswith(str(eos)) for text in texts)
    if texts and ended == len(texts):
        return eos
    return author.shared_terminator(texts) if texts and ended == 0 else None


def _frame_of(texts: list[str], after: str) -> TurnTemplate | None:
    found = author.split(texts)
    last = next((i for i, piece in enumerate(found) if i and author.announces_answer(piece)), len(found) - 1)
    if last < 1:
        return None
    return _template([*found[:last], author.cut_before_answer(found[last])], after)


def _template(pieces: list[str], after: str) -> TurnTemplate | None:
    """Pieces around one slot (user) or two (system, user); the last piece comes before the answer."""
    ends_in = pieces[-1].rstrip(" \t")
    generation = ends_in if ends_in != pieces[-1] else None
    assistant = Turn(pieces[-1], after)
    if len(pieces) == 2:
        return TurnTemplate(Turn(pieces[0]), assistant, generation=generation)
    if len(pieces) == 3:
        return TurnTemplate(
            Turn(pieces[1]), assistant, Turn(pieces[0]), "", generation=generation, system_place="each_turn"
        )
    return None


def _pieces(template: TurnTemplate) -> list[str]:
    system = [template.system.before] if template.system else []
    return [*system, template.user.before, template.assistant.before]


def _pair_slots(template: TurnTemplate, prompt: str, completion: str) -> list[str] | None:
    *pieces, end = _pieces(template)
    if not prompt.endswith(end):
        return None
    found = author.slots(prompt[: len(prompt) - len(end)], pieces)
    return None if found is None else [*found, completion]


def _writes_again(template: TurnTemplate, slots: Sequence[list[str] | None], texts: Sequence[str]) -> bool:
    """Whether nearly all rows are one question and one answer in this template, and no other frame is mixed in."""
    if author.hidden_titles([slot for found in slots for slot in (found or [])[:-1]]):
        return False
    good = sum(found is not None and _one_turn(template, found, text) for found, text in zip(slots, texts, strict=True))
    return good >= NEARLY_ALL * len(texts)


def _one_turn(template: TurnTemplate, found: list[str], text: str) -> bool:
    again = template.assistant.before
    if again.strip() and again in found[-1]:
        return False  # a second turn within the row
    roles = ["system", "user", "assistant"][-len(found) :]
    messages = [{"role": role, "content": slot} for role, slot in zip(roles, found, strict=True)]
    return template.render(messages) == text
