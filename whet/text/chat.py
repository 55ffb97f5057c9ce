"""A chat template in all its forms: Jinja, pieces, Ollama's Go, stops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from whet.config.chat_templates import SPELLINGS
from whet.errors import DataError
from whet.text.derive import derive
from whet.text.jinja import own_bos, printed
from whet.text.literal import specials_of
from whet.text.probes import ANSWER, NEXT, USER, Renderer, between, marked
from whet.text.template import TurnTemplate
from whet.text.template_string import first_special
from whet.text.templates import FORMATS
from whet.text.templates.format import Format

STOPS_KEY = "extra_eos_tokens"  # in tokenizer_config.json, where transformers keeps keys that it does not know
_KEPT = 32  # templates whose parsed form is remembered
_known: dict[tuple[object, ...], ChatTemplate] = {}


@dataclass(frozen=True)
class ChatTemplate:
    """The one parsed object.

    Attributes:
        jinja: what the tokenizer and the GGUF hold; the truth.
        pieces: the same as fixed texts around each message, proved on probe conversations; None where it is not so.
        go: the TEMPLATE of an Ollama Modelfile; None where none renders the same text.
        no_go: why there is no Go form; "" where there is one.
        stops: texts at which generation ends: turn terminators only.
        ends_answers: whether an answer is followed by more than white space, so that a model can learn to stop.
    """

    jinja: str
    pieces: TurnTemplate | None
    go: str | None
    no_go: str
    stops: tuple[str, ...]
    ends_answers: bool


def chat_template_of(tokenizer: Any) -> ChatTemplate | None:
    """The tokenizer's own chat template; None where it has none.

    Of a tokenizer with several templates it is the default one. The result is remembered for the same Jinja and
    special tokens.
    """
    if not tokenizer.chat_template:
        return None
    jinja = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else tokenizer.get_chat_template()
    specials, kept = specials_of(tokenizer).texts, kept_stops(tokenizer)
    key = (jinja, tokenizer.bos_token, tokenizer.eos_token, specials, own_bos(tokenizer), kept)
    if key not in _known:
        while len(_known) >= _KEPT:
            del _known[next(iter(_known))]
        pieces, reason = derive(tokenizer)
        if pieces is None:
            found = _of_jinja(tokenizer, jinja, reason, specials)
        else:
            found = of_pieces(_stopped(pieces, specials), jinja)
        _known[key] = replace(found, stops=tuple(dict.fromkeys([*found.stops, *kept])))
    return _known[key]


def _stopped(pieces: TurnTemplate, specials: Sequence[str]) -> TurnTemplate:
    """The template that stops at the first special token after an answer, where more text follows it."""
    first = first_special(pieces.assistant.after, specials)
    return pieces if first in (None, *pieces.stops) else replace(pieces, stop=first)


def kept_stops(tokenizer: Any) -> tuple[str, ...]:
    """Texts that end an answer beside the template's own: those that were saved with the tokenizer."""
    found = tokenizer.init_kwargs.get(STOPS_KEY) or []
    return tuple(text for text in found if isinstance(text, str))


def of_pieces(pieces: TurnTemplate, jinja: str | None = None) -> ChatTemplate:
    """All forms of a template of pieces; its own Jinja where none is given."""
    go = None if pieces.no_go else pieces.go()
    jinja = pieces.jinja() if jinja is None else jinja
    return ChatTemplate(jinja, pieces, go, pieces.no_go, pieces.stops, pieces.ends_answers)


def bundled_pieces(name: str, tokenizer: Any = None) -> TurnTemplate:
    """A template that comes with whet, by name or alias.

    Args:
        tokenizer: its bos and end token are written; None writes those of the format's own models.

    Raises:
        DataError: an unknown name (the message has the nearest one), or a template that is more than pieces.
    """
    known, form = _format(name)
    if form.write is None:
        raise DataError(
            f"the chat template {known} as pieces", "it is written in Jinja", "use bundled_chat_template(name)"
        )
    eos = form.eos if tokenizer is None else tokenizer.eos_token or ""
    bos, prefix = _beginning(form, tokenizer)
    return replace(form.write(eos), bos=bos, prefix=prefix)


def bundled_chat_template(name: str, tokenizer: Any = None) -> ChatTemplate:
    """A template that comes with whet, by name or alias, in all its forms.

    Raises:
        DataError: an unknown name; the message has the nearest one.
    """
    _, form = _format(name)
    if form.write is not None:
        return of_pieces(bundled_pieces(name, tokenizer))
    jinja = printed("".join(_beginning(form, tokenizer))) + form.jinja
    return ChatTemplate(jinja, None, None, form.no_go, form.stops, True)


def _format(name: str) -> tuple[str, Format]:
    if name not in SPELLINGS:
        near = get_close_matches(name, SPELLINGS, n=1, cutoff=0.0)
        raise DataError(
            f"chat template {name!r}",
            "one of " + ", ".join(FORMATS),
            f"use {near[0]}, if that is meant" if near else "",
        )
    return SPELLINGS[name], FORMATS[SPELLINGS[name]]


def _beginning(form: Format, tokenizer: Any) -> tuple[str, str]:
    """What begins every text: the token that the tokenizer adds by itself, and what the template must write."""
    if tokenizer is None:
        return form.bos, ""
    own = own_bos(tokenizer)
    wanted = (tokenizer.bos_token or "") if form.bos else ""
    return own, "" if wanted == own else wanted


def _of_jinja(tokenizer: Any, jinja: str, reason: str, specials: Sequence[str]) -> ChatTemplate:
    """What can be said of a template that is more than pieces."""
    render = Renderer(tokenizer)
    last = between(render(marked(USER, ANSWER)), [USER, ANSWER])
    earlier = between(render(marked(USER, ANSWER, NEXT)), [USER, ANSWER, NEXT])
    if last is None:
        return ChatTemplate(jinja, None, None, reason, tuple(filter(None, [tokenizer.eos_token])), True)
    stop = _terminator(last[2], earlier[2] if earlier else last[2], specials)
    return ChatTemplate(jinja, None, None, reason, (stop,) if stop else (), bool(last[2].strip()))


def _terminator(last: str, earlier: str, specials: Sequence[str]) -> str:
    """What ends an answer: a special token, else what follows both the last and an earlier answer, up to a line end."""
    after = (last if last.strip() else earlier).strip()
    found = [token for token in specials if after.startswith(token)]
    if found:
        return max(found, key=len)
    shared = next((i for i, pair in enumerate(zip(last, earlier, strict=False)) if pair[0] != pair[1]), len(last))
    return last[:shared].strip().partition("\n")[0].strip()
