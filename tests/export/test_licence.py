"""LICENSE: what the user says, else what lies beside the base model."""

from __future__ import annotations

from pathlib import Path

import pytest
from modelfile_reader import read_modelfile

from whet.errors import ExportError
from whet.export.licence import licence_name, licence_text
from whet.export.modelfile import modelfile
from whet.export.run import export_run
from whet.models.names import starter_folder

CARD = "---\nlicense: {}\nlanguage: en\n---\n# A model\n"


def test_what_the_user_says_comes_first(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("the base's")
    (tmp_path / "mine.txt").write_text("mine,\nall of it")
    assert licence_text(str(tmp_path / "mine.txt"), tmp_path) == "mine,\nall of it"
    assert licence_text("mit", tmp_path) == "mit"
    assert licence_text("Use it well.\nOr not.", tmp_path) == "Use it well.\nOr not."
    assert licence_text("", tmp_path) is None
    assert licence_text(None, tmp_path) == "the base's"
    assert licence_text(None, None) is None


@pytest.mark.parametrize("missing", ["LICENSE.txt", "folder/COPYING"])
def test_a_file_that_is_not_there_is_not_taken_for_a_text(missing: str) -> None:
    with pytest.raises(ExportError, match="no licence file"):
        licence_text(missing, None)


def test_the_card_of_the_base_names_it(tmp_path: Path) -> None:
    assert licence_text(None, tmp_path) is None
    for card, expected in [
        (CARD.format("apache-2.0"), "apache-2.0"),
        (CARD.format("other\nlicense_name: my-licence"), "my-licence"),
        (CARD.format("[a, list]"), None),
        ("---\nlicense: mit\nnever closed", None),
        ("---\n: {[\n---\n", None),
        ("# no front matter", None),
    ]:
        (tmp_path / "README.md").write_text(card)
        assert licence_name(tmp_path) == expected
        assert licence_text(None, tmp_path) == expected


def test_white_space_of_a_real_licence_file_is_kept_in_a_form_that_ollama_reads(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_bytes("\ufeffTitle\r\n\x0cPage two\u00a0and \u201cquotes\u201d\n".encode())
    text = licence_text(None, tmp_path)
    assert text == "Title\n Page two and \u201cquotes\u201d"
    assert ("license", text) in read_modelfile(modelfile("m.gguf", None, license=text))
    (tmp_path / "LICENSE").write_text("zero\u200bwidth")
    assert licence_text(None, tmp_path) is None


def test_no_text_and_far_too_much_text(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ExportError, match="is no text"):
        licence_text(str(tmp_path / "LICENSE"), None)
    (tmp_path / "LICENSE").write_text("x" * 300_000)
    with pytest.raises(ExportError, match="300,000 characters"):
        licence_text(str(tmp_path / "LICENSE"), None)


def test_an_export_carries_the_licence_of_its_base(tmp_path: Path) -> None:
    assert licence_name(starter_folder()) == "apache-2.0"
    for given, expected in ((None, "apache-2.0"), ("mit", "mit"), ("", None)):
        export_run("starter", tmp_path, ["q8_0"], license=given, parameters={"temperature": 0}, proof=False)
        commands = dict(read_modelfile((tmp_path / "Modelfile").read_text()))
        assert commands.get("license") == expected
        assert commands["temperature"] == "0"
