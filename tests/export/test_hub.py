"""Uploads, against a server that speaks the hub's calls: what arrives, what is private, what a second try sends."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import TOKEN, Hub, Repo, running_hub

from whet.errors import ExportError
from whet.export.hub import check_repo, push_folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The server in the place of the hub. Its own storage for large files (xet) has no server here: LFS is used."""
    with running_hub() as found:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between its own tries
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four large files and two small ones."""
    made = tmp_path / "files"
    made.mkdir()
    for number in range(4):
        (made / f"model-{number}.safetensors").write_bytes(random.Random(number).randbytes(50_000))
    (made / "README.md").write_text("---\nlicense: mit\n---\n# é\n")
    (made / "config.json").write_text("{}")
    return made


def same(hub: Hub, repo: str, folder: Path) -> bool:
    names = {file.name for file in folder.iterdir()}
    return set(hub.repos[repo].files) == names and all(
        hub.content(repo, name) == (folder / name).read_bytes() for name in names
    )


def test_all_files_arrive_in_a_private_repository(hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = push_folder(folder, "me/model", token=TOKEN)
    assert address == f"{hub.url}/me/model"
    assert hub.repos["me/model"].private
    assert same(hub, "me/model", folder)
    assert "pushing 6 files (0.2 MB)" in capsys.readouterr().err
    push_folder(folder, "bare", token=TOKEN, private=False)
    assert not hub.repos["me/bare"].private


@pytest.mark.parametrize("refusal", [0, 403])
def test_a_push_that_broke_off_goes_on_where_it_was(hub: Hub, folder: Path, refusal: int) -> None:
    hub.refuse_uploads_after, hub.refusal = 2, refusal
    with pytest.raises(ExportError, match="may not write" if refusal else r"broke off|run the same command again"):
        push_folder(folder, "me/model", token=TOKEN)
    first = list(hub.uploads)
    assert len(first) == 2 and hub.repos["me/model"].files == {}
    hub.refuse_uploads_after = None
    push_folder(folder, "me/model", token=TOKEN)
    assert same(hub, "me/model", folder)
    assert len(hub.uploads) == len(set(hub.uploads)) == 4, "a file was sent twice"
    assert hub.uploads[:2] == first


def test_what_has_not_changed_is_not_sent_again(hub: Hub, folder: Path) -> None:
    push_folder(folder, "me/model", token=TOKEN)
    push_folder(folder, "me/model", token=TOKEN)
    assert len(hub.uploads) == 4 and len(hub.repos["me/model"].commits) == 1
    (folder / "model-1.safetensors").write_bytes(b"new")
    push_folder(folder, "me/model", token=TOKEN)
    assert len(hub.uploads) == 5 and len(hub.repos["me/model"].commits) == 2
    assert same(hub, "me/model", folder)


def test_nothing_private_goes_into_a_public_repository(
    hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repos |= {"me/open": Repo(False), "me/closed": Repo(True)}
    with pytest.raises(ExportError, match="exists and is public"):
        push_folder(folder, "me/open", token=TOKEN)
    assert hub.uploads == [] and hub.repos["me/open"].files == {}
    push_folder(folder, "me/open", token=TOKEN, private=False)
    push_folder(folder, "me/closed", token=TOKEN, private=False)
    assert hub.repos["me/closed"].private
    assert "it stays so" in capsys.readouterr().err


def test_tokens_that_are_missing_wrong_or_too_weak(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    for nothing in (None, "", "  "):
        with pytest.raises(ExportError, match="nobody is logged in"):
            push_folder(folder, "me/model", token=nothing)
    assert hub.calls == []
    with pytest.raises(ExportError, match="does not accept the token"):
        push_folder(folder, "me/model", token="hf_wrong")
    hub.read_only = True
    with pytest.raises(ExportError, match=r"may not write there.*rights to create"):
        push_folder(folder, "me/model", token=TOKEN)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: TOKEN)
    hub.read_only = False
    push_folder(folder, "me/model")
    assert same(hub, "me/model", folder)


def test_offline_is_respected(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ExportError, match="HF_HUB_OFFLINE"):
        push_folder(folder, "me/model", token=TOKEN)
    assert hub.calls == []


def test_nobody_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    with pytest.raises(ExportError, match=r"connection to the hub broke off[^Z]*only what is missing"):
        push_folder(folder, "me/model", token=TOKEN)


@pytest.mark.parametrize("name", ["a/b/c", "me/", "/model", "me/mo del", "me/--x", "me/x.git", ""])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ExportError, match="owner/name"):
        check_repo(name)
