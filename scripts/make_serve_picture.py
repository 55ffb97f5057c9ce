"""Make the picture of docs/serve.md: the chat page of `whet serve whet-quickstart`, a question asked.

    whet quickstart
    python scripts/make_serve_picture.py whet-quickstart

Chromium draws it; Pillow makes it small.
"""

from __future__ import annotations

import sys
from pathlib import Path

from browser import Browser
from check_openai import serving
from PIL import Image

TARGET = Path(__file__).resolve().parents[1] / "docs" / "images" / "serve_page.png"
QUESTIONS = ("Which orders shipped by Nordpost cost more than 75?",)
COLOURS = 48


def main() -> None:
    """Ask, then draw."""
    with serving(sys.argv[1]) as server, Browser((820, 580)) as page:
        page.open(server.address + "/")
        page.wait("document.getElementById('model').textContent !== 'whet'")
        page.value("document.getElementById('temperature').value = '0'")
        for count, question in enumerate(QUESTIONS, 1):
            page.click("#text")
            page.type(question)
            page.press("Enter")
            page.wait(f"document.querySelectorAll('.facts').length === {count}")
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        page.picture(TARGET)
    with Image.open(TARGET) as picture:
        small = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
