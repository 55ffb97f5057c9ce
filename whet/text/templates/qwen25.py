"""Qwen 2.5: ChatML with a system message of its own where none is given."""

from __future__ import annotations

from dataclasses import replace

from whet.text.templates.chatml import TURNS
from whet.text.templates.format import Format

SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

QWEN_25 = Format(lambda eos: replace(TURNS, default_system=SYSTEM))
