"""Make the pictures of docs/compare.md from pages that `whet compare` wrote.

    python scripts/make_compare_pictures.py NAME=PAGE.html[?vote] ...

NAME becomes docs/images/compare_NAME.png. Chromium draws the top of the page; a font with Chinese characters should be
installed, and Pillow.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from make_preview_pictures import COLOURS, IMAGES, LARGEST, MARGIN  # beside this file
from PIL import Image, ImageChops

SIZE = (1000, 1500)  # pixels of the window: the top of the page
BROWSER = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]


def draw(name: str, page: str) -> None:
    """One picture, in few colours; too large a file is an error."""
    file, _, place = page.partition("?")
    address = Path(file).absolute().as_uri() + (f"?{place}" if place else "")
    target = IMAGES / f"compare_{name}.png"
    size = f"--window-size={SIZE[0]},{SIZE[1]}"
    subprocess.run([*BROWSER, size, f"--screenshot={target}", address], check=True, capture_output=True)
    with Image.open(target) as picture:
        whole = picture.convert("RGB")
    empty = Image.new("RGB", whole.size, whole.getpixel((0, whole.height - 1)))
    box = ImageChops.difference(whole, empty).getbbox() or (0, 0, *whole.size)
    whole = whole.crop((0, 0, whole.width, min(box[3] + MARGIN, whole.height)))
    for colours in COLOURS:
        whole.quantize(colours, dither=Image.Dither.NONE).save(target, optimize=True)
        if target.stat().st_size <= LARGEST:
            print(target)
            return
    raise ValueError(f"{target} has {target.stat().st_size:,} bytes, more than {LARGEST:,}")


def main() -> None:
    """Draw all that are named."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for argument in sys.argv[1:]:
        name, _, page = argument.partition("=")
        draw(name, page)


if __name__ == "__main__":
    main()
