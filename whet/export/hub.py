"""Uploads to the Hugging Face hub, through its own client.

The token comes from the caller or from the hub's own login, goes into requests only, and into no file and no message.
An upload that broke off is made again with the same call: the hub asks only for what it does not have.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from whet.console import notice
from whet.errors import ExportError

LOGIN = "hf auth login (it keeps the token for you), or give token="
AGAIN = "run the same command again: only what is missing is uploaded"
STATUS = {
    401: ("the hub does not accept the token", LOGIN),
    403: (
        "the token may not write there",
        "make a token with write access to that name, then log in with it",
    ),
    404: ("the hub knows no such place, or hides it from this token", "check the name and the token"),
    409: ("the repository was changed meanwhile", AGAIN),
    429: ("the hub asks to wait: too many requests", AGAIN),
}


@contextmanager
def hub_errors(what: str, token: str | None) -> Iterator[None]:
    """Turn what the hub's client raises into an error that says what to do. The token is in none of them.

    Raises:
        ExportError: instead of an HTTP, network or offline error.
    """
    try:
        yield
    except Exception as error:
        translated = _translated(error, what, token)
        if translated is None:
            raise
        raise translated from None  # what the client raised may quote requests


def push_folder(folder: Path, repo: str, *, private: bool = True, token: str | None = None, message: str = "") -> str:
    """Upload all files of a folder into a model repository, which is made where there is none.

    Args:
        repo: ``owner/name``; a bare name is put under the token's own user.
        private: whether a new repository is private. An existing public one is only written to with False.
        token: None takes the hub's own login.
        message: of the commit.

    Returns:
        The address of the repository.

    Raises:
        ExportError: offline, no token, no right to write, a public repository, a connection that broke off.
    """
    token = usable_token(token)
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with hub_errors(f"cannot push to {repo}", token):
        address = _repository(api, repo, private)
        names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        size = sum((folder / name).stat().st_size for name in names)
        notice(f"pushing {len(names)} files ({size / 1e6:,.1f} MB) to {address}")
        api.upload_folder(repo_id=address.repo_id, folder_path=folder, commit_message=message or "Upload by whet")
    return str(address)


def usable_token(token: str | None) -> str:
    """The token to push with.

    Raises:
        ExportError: the hub's offline mode is on, or there is no token.
    """
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise ExportError("the hub is switched off here (HF_HUB_OFFLINE)", fix="unset HF_HUB_OFFLINE to push")
    found = (token or "").strip() or get_token()
    if not found:
        raise ExportError("nobody is logged in to the hub here", "a token with write access", LOGIN)
    return found


def check_repo(repo: str) -> None:
    """Refuse a name that the hub would refuse, before the long work.

    Raises:
        ExportError: not ``owner/name``, or characters that no name has.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise ExportError(f"{repo!r} is no name of a repository", "owner/name of letters, digits, - _ and .") from None


def _repository(api: Any, repo: str, private: bool) -> Any:
    """The repository's address, made if need be; nothing meant to be private goes into a public one."""
    from huggingface_hub.errors import RepositoryNotFoundError

    whole = repo if "/" in repo else f"{api.whoami()['name']}/{repo}"
    try:
        known = api.repo_info(whole)
    except RepositoryNotFoundError:
        return api.create_repo(whole, private=private)
    if private and not known.private:
        raise ExportError(f"{whole} exists and is public", "a private repository", "say --public (private=False)")
    if known.private and not private:
        notice(f"{whole} exists and is private; it stays so")
    return api.create_repo(whole, private=bool(known.private), exist_ok=True)


def _translated(error: Exception, what: str, token: str | None) -> ExportError | None:
    chain = list(_causes(error))
    for cause in chain:
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status is not None:
            reason, fix = STATUS.get(status, (f"the hub answered {status}", AGAIN))
            said = getattr(cause, "server_message", None)
            return ExportError(f"{what}: {reason}" + (f" ({_without(said, token)})" if said else ""), fix=fix)
    for cause in chain:
        library = type(cause).__module__.partition(".")[0]
        if library.startswith(("httpx", "httpcore")) or isinstance(cause, ConnectionError | TimeoutError):
            return ExportError(f"{what}: the connection to the hub broke off ({type(cause).__name__})", fix=AGAIN)
    library = type(error).__module__.partition(".")[0]
    if library in ("huggingface_hub", "hf_xet") or isinstance(error, RuntimeError):
        return ExportError(f"{what}: {_without(str(error), token)}", fix=AGAIN)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _without(text: str, token: str | None) -> str:
    """The first line of a text; should a token stand in it, it does no longer."""
    line = next(iter(text.strip().splitlines()), "")
    return line.replace(token, "***") if token else line
