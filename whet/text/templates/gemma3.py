"""Gemma 3: as Gemma 2; a system message begins the first question, with an empty line after it."""

from __future__ import annotations

from dataclasses import replace

from whet.text.template import Turn
from whet.text.templates.format import Format
from whet.text.templates.gemma2 import TURNS

GEMMA_3 = Format(lambda eos: replace(TURNS, system=Turn("", "\n\n"), system_place="first_user"), bos="<bos>")
