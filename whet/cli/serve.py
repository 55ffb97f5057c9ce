"""``whet serve``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def serve(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A run folder, adapter, model folder or GGUF.", show_default=False)
    ],
    host: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Where to listen [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, metavar="N", help="0: a free one [8080].")] = None,
    api_key: Annotated[str | None, typer.Option(metavar="KEY", help="What clients must send.")] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The key, in a file (other users see command lines).")
    ] = None,
    backend: Annotated[str | None, typer.Option(metavar="NAME", help="llama.cpp, or torch [llama.cpp].")] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="The model's name in the API.")] = None,
    parallel: Annotated[int | None, typer.Option(min=1, metavar="N", help="Answers at the same time [4].")] = None,
    context: Annotated[
        int | None, typer.Option(min=64, metavar="N", help="Tokens of each, answer included [at most 8192].")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The longest answer [the context].")
    ] = None,
    waiting: Annotated[int | None, typer.Option(min=0, metavar="N", help="Answers that may wait [64].")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, metavar="S", help="Limit of one request [600].")] = None,
    body_mb: Annotated[float | None, typer.Option(min=0.001, metavar="MB", help="The largest request [4].")] = None,
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help="CPU threads of llama.cpp.")] = None,
    cache: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where exported models are kept.")] = None,
    log: Annotated[bool, typer.Option("--log", help="A line on stderr for each request, without its text.")] = False,
) -> None:
    """Serve a model over OpenAI's API, with a chat page at /."""
    from whet import api

    given: dict[str, Any] = {
        "host": host,
        "port": port,
        "api_key": _key(api_key, api_key_file),
        "backend": backend,
        "name": name,
        "parallel": parallel,
        "context": context,
        "max_tokens": max_tokens,
        "waiting": waiting,
        "seconds": seconds,
        "body_mb": body_mb,
        "threads": threads,
        "cache": cache,
    }
    # What is not given is not passed on: the defaults stand in whet.serve.openai.run alone.
    api.serve(path, log=log, **{key: value for key, value in given.items() if value is not None})


def _key(key: str | None, file: Path | None) -> str | None:
    from whet.errors import WhetError

    if file is None:
        return key
    if key is not None:
        raise WhetError("--api-key and --api-key-file were given", "one of them")
    try:
        return file.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise WhetError(f"cannot read the key in {file}: {error}", "a file that holds the key alone") from error
