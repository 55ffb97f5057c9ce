"""From a name to the folder that is meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import whet
from whet.errors import ModelError
from whet.models.names import adapter_settings, locate, starter_folder


def adapter_folder(folder: Path, base: object, tokenizer: bool = False) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    if tokenizer:
        (folder / "tokenizer_config.json").write_text("{}")
    return folder


def test_starter_is_the_folder_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "starter").mkdir()
    monkeypatch.chdir(tmp_path)  # a folder of that name does not take its place
    found = locate("starter")
    assert found.base == found.tokenizer == str(starter_folder()) == str(whet.starter_path())
    assert found.adapter is None


def test_a_checkpoint_folder(tiny_llama_dir: Path) -> None:
    found = locate(str(tiny_llama_dir))
    assert (found.base, found.adapter, found.tokenizer) == (str(tiny_llama_dir), None, str(tiny_llama_dir))


@pytest.mark.parametrize("own_tokenizer", [True, False])
def test_an_adapter_folder_leads_to_its_base(tmp_path: Path, tiny_llama_dir: Path, own_tokenizer: bool) -> None:
    adapter = adapter_folder(tmp_path / "adapter", str(tiny_llama_dir), own_tokenizer)
    found = locate(str(adapter))
    assert (found.base, found.adapter) == (str(tiny_llama_dir), adapter)
    assert found.tokenizer == str(adapter if own_tokenizer else tiny_llama_dir)


def test_a_run_folder_leads_to_its_adapter_or_model(tmp_path: Path, tiny_llama_dir: Path) -> None:
    adapter = adapter_folder(tmp_path / "run" / "adapter", "starter")
    (tmp_path / "run" / "config.yml").write_text("base_model: starter\n")
    assert locate(str(tmp_path / "run")).adapter == adapter
    full = tmp_path / "full"
    full.mkdir()
    (full / "config.yml").write_text("base_model: starter\n")
    (full / "model").symlink_to(tiny_llama_dir)
    assert locate(str(full)).base == str(full / "model")


def test_home_is_understood(tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny_llama_dir.parent))
    assert locate(f"~/{tiny_llama_dir.name}").base == str(tiny_llama_dir)


@pytest.mark.parametrize("name", ["gpt2", "owner/name"])
def test_what_is_no_folder_is_a_name_on_the_hub(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate(name).base == locate(name).tokenizer == name


@pytest.mark.parametrize("name", ["./none", "../none", "/none/here", "~/none-of-this-name", "a/b/c", "a//b", ""])
def test_a_path_that_does_not_exist(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "":  # Path("") is the working directory, which holds no model
        with pytest.raises(ModelError, match="holds no model"):
            locate(name)
        return
    with pytest.raises(ModelError, match="no folder") as caught:
        locate(name)
    assert '"starter"' in caught.value.expected


def test_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds no weights"):
        locate(str(tmp_path))


def test_an_empty_folder_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model: there is no config\.json"):
        locate(str(tmp_path))
    (tmp_path / "model.gguf").write_text("x")
    with pytest.raises(ModelError, match="is a file"):
        locate(str(tmp_path / "model.gguf"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ("{}", "is damaged"),
        ('{"base_model_name_or_path": null}', "names no base"),
    ],
)
def test_a_damaged_adapter(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match=words):
        adapter_settings(tmp_path)
    with pytest.raises(ModelError, match=words):
        locate(str(tmp_path))


def test_an_adapter_on_an_adapter(tmp_path: Path) -> None:
    below = adapter_folder(tmp_path / "below", "starter")
    above = adapter_folder(tmp_path / "above", str(below))
    with pytest.raises(ModelError, match="on top of the adapter"):
        locate(str(above))
