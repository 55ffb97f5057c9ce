"""Which encoding a file has: known by a mark, or guessed and said."""

from __future__ import annotations

from pathlib import Path

import pytest
from source_files import all_rows, read, refused, write

from whet.data import lines
from whet.data.encoding import Guess, detect
from whet.data.stream import open_rows

TEXTS = {
    "gb18030": ["分类以下文本的情感。", "姓名,年龄\n张伟,22\n王芳,31\n", "北京,上海", "这部电影很好看，我很喜欢。"],
    "big5": ["今天天氣很好，我們去公園散步吧。", "姓名,年齡\n張偉,22\n王芳,31\n"],
    "cp932": ["今日は天気がいいので、公園を散歩しましょう。", "名前,年齢\n田中太郎,22\nスズキ,31\n"],
    "euc_jp": ["今日は天気がいいので、公園を散歩しましょう。"],
    "cp949": ["오늘은 날씨가 좋으니 공원을 산책합시다.", "이름,나이\n김철수,22\n박영희,31\n"],
    "cp1251": ["Сегодня хорошая погода, давайте погуляем в парке.", "имя,возраст\nИван,22\nМария,31\n"],
    "cp1252": ["Il était une fois une très belle forêt.", "Die Straße ist größer.", "“Hello” – it’s £5", "¿Qué comió?"],
}
CASES = [(name, text) for name, texts in TEXTS.items() for text in texts]


@pytest.mark.parametrize(("name", "text"), CASES)
def test_a_guess_from_one_line(name: str, text: str) -> None:
    data = text.encode(name)
    assert detect(data, data) == Guess(name, True)


@pytest.mark.parametrize(("name", "text"), CASES)
def test_utf8_is_no_guess(name: str, text: str) -> None:
    data = text.encode()
    assert detect(data, data) == Guess("utf-8", False)
    assert detect(data[:-1], data[:-1]) == Guess("utf-8", False), "a character cut off at the end is no damage"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cp1250", "Příliš žluťoučký kůň úpěl ďábelské ódy"),
        ("cp1250", "Zażółć gęślą jaźń"),
        ("cp1253", "Καλημέρα κόσμε, τι κάνεις σήμερα;"),
        ("cp1254", "İstanbul çok güzel değil, ığdır şehri"),
        ("cp874", "สวัสดีครับ"),
    ],
)
def test_what_is_not_known_is_not_guessed(name: str, text: str, tmp_path: Path) -> None:
    data = text.encode(name)
    assert detect(data, data) == Guess("utf-8", False)
    file = write(tmp_path / "a.txt", data)
    assert "not UTF-8 text" in refused(file) and "encoding" in refused(file)
    assert read(file, encoding=name) == [{"text": text}]


def test_a_chinese_csv_from_excel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.csv", "问题,答案\r\n这部电影怎么样,正面\r\n服务很差,负面\r\n".encode("gb18030"))
    assert read(file) == [{"问题": "这部电影怎么样", "答案": "正面"}, {"问题": "服务很差", "答案": "负面"}]
    assert "read as gb18030, a guess" in capsys.readouterr().err
    assert read(file, encoding="gbk")[1]["答案"] == "负面"
    assert "a guess" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = '名前\tquestion\r\nĊ一\t"two\r\nlines"\r\nx\ty\r\n'  # U+0A00 and U+010A hold the byte of a line break
    file = write(tmp_path / "export.tsv", text.replace("x", "\u0a00").encode(name))
    assert read(file) == [{"名前": "Ċ一", "question": "two\r\nlines"}, {"名前": "\u0a00", "question": "y"}]
    assert "guess" not in capsys.readouterr().err
    assert read(write(tmp_path / "a.json", '[{"a": "ü"}]'.encode(name))) == [{"a": "ü"}]
    assert read(write(tmp_path / "a.jsonl", '{"a": "ü"}\n'.encode(name))) == [{"a": "ü"}]


def test_utf16_without_a_mark(tmp_path: Path) -> None:
    for name in ("utf-16-le", "utf-16-be"):
        file = write(tmp_path / "a.csv", "question,answer\nwhat,that\n".encode(name))
        assert read(file) == [{"question": "what", "answer": "that"}]
        assert read(file, encoding=name) == [{"question": "what", "answer": "that"}]


def test_damaged_utf16_costs_its_line(tmp_path: Path) -> None:
    lines_ = ["a,b\n", "1,2\n", "3,\ud800\n", "5,6\n"]
    file = write(tmp_path / "a.csv", b"\xff\xfe" + "".join(lines_).encode("utf-16-le", "surrogatepass"))
    assert "a.csv:3: not UTF-16-LE text" in refused(file)
    stream = open_rows(file, damaged="skip")
    assert [row["a"] for row in all_rows(stream)] == ["1", "5"] and stream.damaged_count == 1


def test_text_beyond_ascii_is_found_far_inside(tmp_path: Path) -> None:
    text = "text\n" + "plain ascii all the way\n" * 20_000 + "这是一个很长的文件，中文在后面。\n"
    file = write(tmp_path / "a.csv", text.encode("gb18030"))
    assert read(file)[-1] == {"text": "这是一个很长的文件，中文在后面。"}


def test_utf8_with_a_damaged_line_stays_utf8(tmp_path: Path) -> None:
    text = ("这是中文\n" * 50).encode() + b"\xd6\xd0\xce\xc4\n" + "结束\n".encode()
    stream = open_rows(write(tmp_path / "a.txt", text), damaged="skip")
    assert len(all_rows(stream)) == 51
    assert stream.damaged_count == 1 and "a.txt:51: not UTF-8 text at byte 1" in stream.damaged[0]


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "x\n")
    assert 'the encoding "utf-9" is not known' in refused(file, encoding="utf-9")
    assert 'the encoding "base64" is not known' in refused(file, encoding="base64")


@pytest.mark.parametrize("name", ["utf-8", "utf-16-le", "gb18030", "cp932"])
def test_blocks_cut_nothing_in_two(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [f"{i} 表示ソー、あ漢字 ĊꙊ"[: 4 + i % 9] for i in range(200)]
    file = write(tmp_path / "a.txt", "\n".join(wanted).encode(name, "ignore"))
    for block in (1, 5, 64, 1 << 20):
        monkeypatch.setattr(lines, "BLOCK", block)
        expected = [line.encode(name, "ignore").decode(name) for line in wanted]
        assert [row["text"] for row in read(file, encoding=name)] == expected
