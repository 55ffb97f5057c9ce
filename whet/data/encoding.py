"""Which encoding a text file has: a byte order mark, UTF-8, or a guess that is always said.

The guess knows the encodings that people still export tables in: GB18030 (GBK), Big5, Shift-JIS, EUC-JP, EUC-KR,
Windows-1251 (Russian) and Windows-1252 (western Europe). A candidate must decode nearly all of the sample into
characters that its language uses every day; among those that do, the one with most of its language's most frequent
characters wins. Where none does, the file counts as UTF-8 and its damaged lines are reported.
Central European, Greek, Turkish, Hebrew, Arabic and Thai one-byte encodings are never guessed: the user names them.
"""

from __future__ import annotations

import codecs
import functools
import re
from collections.abc import Iterable
from typing import NamedTuple

from whet.errors import DataError

BOMS = (  # the longer marks first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"\x84\x31\x95\x33", "gb18030"),
)
PLAUSIBLE = 0.9  # share of the characters beyond ASCII that must be usual ones
MOSTLY_UTF8 = 10  # so many good characters for each bad one: UTF-8 with some damage, not another encoding

_CJK_MARKS = "　、。，．；：？！（）「」『』《》【】〈〉〔〕“”‘’…—－～·・％／￥ー"
_WESTERN_MARKS = "“”„‘’‚–—…•€£©®™°·«»§¿¡ºª½¼¾²³×\xa0´"
# Letters beyond ASCII of one language each (lower case): a word list is not needed to tell them from mojibake.
_WESTERN = ("éèêëàâçîïôùûüœæ", "äöüßé", "áéíóúñü", "áâãàçéêíóôõúü", "åäöæøéü", "àèéìíòóùú", "éëïöüèê")
_HANZI = (
    "的一是不了在人有我他中大上个到地出道也年得就那要下以生自着去之家可里小心多天而能好都然日起成事只作想看文本情分"
)
_SIMPLE, _TRADITIONAL = "这来国说们为时会过学对后没于还发当类", "這來國說們為時會過學對後沒於還發當類個著裡"
_KANA = "のにはをたがでてとしれさいるあなかもっらりことこうすまんだきよくけめそどせわえみおつやーンスルトリ"
_SYLLABLES = "이다는의가에을하고은지로를한기사시도서자리그대아어인나일들스과라정있수것게부해보전만안주여세장니요"
_FREQUENT = {
    "gb18030": _HANZI + _SIMPLE,
    "big5": _HANZI + _TRADITIONAL,
    "cp932": _KANA,
    "euc_jp": _KANA,
    "cp949": _SYLLABLES,
    "cp1251": "оеаинтср",
}
# The most frequent letters of an alphabet are in any text; of signs for words they may be absent.
_LEAST = {"cp1251": 0.4}
_MULTIBYTE = ("gb18030", "big5", "cp932", "euc_jp", "cp949", "cp1251")


class Guess(NamedTuple):
    """An encoding, and whether it is only a guess."""

    encoding: str
    guessed: bool


def detect(head: bytes, sample: bytes) -> Guess:
    """The encoding of a file.

    Args:
        head: its first bytes, for the byte order mark.
        sample: bytes of it from the beginning of a line on, with text beyond ASCII if it has any.
    """
    for mark, name in BOMS:
        if head.startswith(mark):
            return Guess(name, False)
    wide = _wide(head)
    if wide:
        return Guess(wide, True)
    text = _decode(sample, "utf-8")
    bad = text.count("\ufffd")
    if not bad or sum(not char.isascii() for char in text) - bad >= MOSTLY_UTF8 * bad:
        return Guess("utf-8", False)
    found = _western(sample) or _other(sample) if _is_latin(sample) else _other(sample) or _western(sample)
    return Guess(found or "utf-8", found is not None)


def checked_encoding(name: str) -> str:
    """The name that a user gave, if Python can read text in it.

    Raises:
        DataError: an unknown name.
    """
    try:
        b"text".decode(name, "ignore")
    except (LookupError, UnicodeError) as error:
        raise DataError(
            f'the encoding "{name}" is not known', "a name such as utf-8, gb18030, shift_jis, cp1252 or utf-16"
        ) from error
    return name


def with_byte_order(name: str, head: bytes) -> str:
    """UTF-16 and UTF-32 without their byte order: as the mark says, else little endian."""
    plain = codecs.lookup(name).name
    if plain not in ("utf-16", "utf-32"):
        return plain
    marked = [found for mark, found in BOMS if head.startswith(mark) and found.startswith(plain)]
    return marked[0] if marked else f"{plain}-le"


def _wide(head: bytes) -> str | None:
    """UTF-16 without a mark: in mostly Latin text every second byte is zero."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if even + odd < 0.2 * len(head) or not head:
        return None
    if odd > 10 * even:
        return "utf-16-le"
    return "utf-16-be" if even > 10 * odd else None


def _decode(sample: bytes, name: str) -> str:
    """As text; what does not decode is U+FFFD. A character cut off at the end is left out."""
    return codecs.getincrementaldecoder(name)("replace").decode(sample, False)


def _is_latin(sample: bytes) -> bool:
    """Whether the words with bytes beyond ASCII consist mostly of ASCII letters: then those bytes are accents."""
    words = re.findall(rb"[A-Za-z]*[\x80-\xff][A-Za-z\x80-\xff]*", sample)
    beyond = sum(byte > 127 for word in words for byte in word)
    return sum(map(len, words)) >= 2 * beyond


def _western(sample: bytes) -> str | None:
    text = [char for char in _decode(sample, "cp1252") if not char.isascii()]
    best = max(_share(text, letters + letters.upper() + _WESTERN_MARKS) for letters in _WESTERN)
    return "cp1252" if best >= PLAUSIBLE else None


def _other(sample: bytes) -> str | None:
    best, found = 0.0, None
    for name in _MULTIBYTE:
        text = [char for char in _decode(sample, name) if not char.isascii()]
        if _share(text, _usual(name)) < PLAUSIBLE:
            continue
        letters = [char for char in text if char not in _CJK_MARKS]
        score = _share(letters, _FREQUENT[name])
        if score >= _LEAST.get(name, 0.0) and (score > best or found is None):
            best, found = score, name
    return found


def _share(text: list[str], usual: Iterable[str]) -> float:
    known = frozenset(usual)
    return sum(char in known for char in text) / len(text) if text else 0.0


@functools.cache
def _usual(name: str) -> frozenset[str]:
    """What a language writes every day: the first level of its national character set, which is sorted by use."""
    if name == "cp1251":
        return frozenset("абвгдеёжзийклмнопрстуфхцчшщъыьэюяАБВГДЕЁЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ№" + _WESTERN_MARKS)
    kana = "".join(chr(code) for code in range(0x3041, 0x30FF)) + "々"
    full_width = "".join(chr(code) for code in range(0xFF01, 0xFF5F))
    letters = {
        "gb18030": lambda: _plane("gb2312", 0xB0, 0xD7),
        "big5": lambda: _plane("big5", 0xA4, 0xC6),
        "cp932": lambda: _plane("euc_jp", 0xB0, 0xCF) + kana,
        "euc_jp": lambda: _plane("euc_jp", 0xB0, 0xCF) + kana,
        "cp949": lambda: _plane("euc_kr", 0xB0, 0xC8),
    }[name]()
    return frozenset(letters + _CJK_MARKS + full_width)


def _plane(name: str, first: int, last: int) -> str:
    """The two-byte characters of an encoding whose lead bytes are in this range."""
    trails = [*range(0x40, 0x7F), *range(0xA1, 0xFF)] if name == "big5" else range(0xA1, 0xFF)
    pairs = (bytes([lead, trail]) for lead in range(first, last + 1) for trail in trails)
    return "".join(pair.decode(name, errors="ignore") for pair in pairs)
