"""Any text in a page."""

from __future__ import annotations

import re
from html import escape

_CONTROL = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
_SURROGATE = re.compile("[\ud800-\udfff]")


def safe(value: object) -> str:
    """``value`` as text, safe inside of elements and attributes; control characters become their visible signs."""
    return escape(_SURROGATE.sub("\ufffd", str(value)).translate(_CONTROL), quote=True)
