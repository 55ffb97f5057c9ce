"""Write the sample task's database and questions again.

    python scripts/make_sample.py [FOLDER]

Without a folder the files inside the package are replaced; a test keeps them equal to what this writes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from whet.sample.make import make_sample
from whet.sample.rows import database_path


def main(arguments: list[str]) -> None:
    folder = Path(arguments[0]) if arguments else database_path().parent
    folder.mkdir(parents=True, exist_ok=True)
    make_sample(folder)
    for path in sorted(folder.iterdir()):
        print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
