"""What a bundled template's file holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from whet.text.template import TurnTemplate


@dataclass(frozen=True)
class Format:
    """A public chat format.

    Attributes:
        write: from the text of the end token to the pieces; None where the format is more than pieces (then ``jinja``).
        bos: the text that begins every conversation in the format's own models; "" where none is part of the format.
            A tokenizer's own token takes its place.
        eos: the end token of the format's own models, where answers end with the tokenizer's end token.
        jinja: the template as Jinja, where it is more than pieces.
        no_go: why it has no Go form then.
        stops: the turn terminators then.
    """

    write: Callable[[str], TurnTemplate] | None = None
    bos: str = ""
    eos: str = ""
    jinja: str = ""
    no_go: str = ""
    stops: tuple[str, ...] = ()
