"""The fixed parts of rows that were formatted by hand: what the author wrote, against what the data put in.

Text that all rows share is not always the author's: every answer may begin with "SELECT ", every context with
"CREATE TABLE table_". So a shared text is cut back to places where an author's text begins and ends:

- it begins at a line break or at a marker (``### Answer:``, ``[/INST]``, ``<|assistant|>``, ``ASSISTANT:``),
- it ends after a line break, after a label that begins a line ("SQL prompt: "), or after a marker.

The last piece, after which the answer comes, ends after a label, a heading, a marker or an empty line; a whole line
that is none of these belongs to the answers that share it. Sharing must be total: a part that one row lacks is a part
of the data.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

MANY = 0.1  # the share of rows at which a title line is the author's

_LABEL = r"[ \t]*[#*>-]*[ \t]*\w[\w /()'-]{0,39}\**[:：]\**[ \t]*"
_HEADING = r"[ \t]*(?:#{1,6}|={2,}|-{2,}|\*{2,}).*"
_WORDS = (
    "USER|ASSISTANT|SYSTEM|HUMAN|BOT|Human|User|Assistant|System|Bot|Question|Answer|Q|A|Input|Output|Instruction|"
    "Response|Context|Prompt|Completion|用户|助手|系统|问题|回答|答案|问|答|输入|输出|指令|响应|上下文"
)
_MARKER = (
    r"(?:<\|[^|<>\n]{1,40}\|>|</?s>|<</?SYS>>|<(?:start|end)_of_turn>|\[/?[A-Z_]{2,20}\]"
    rf"|#{{2,6}}[ \t]?\w[\w ]{{0,30}}[:：]|(?<!\w)(?:{_WORDS})[:：])"
)

_LABEL_AT = re.compile(rf"(?:\A|(?<=\n)){_LABEL}")
_MARKER_AT = re.compile(rf"[ \t]*{_MARKER}[ \t]*")
_TERMINATOR = re.compile(r"(?:<\|[^|<>\n]{1,40}\|>|</s>|<end_of_turn>)\s*\Z")
_LINE_BREAKS = re.compile(r"[ \t]*\n+")
_TITLE_LINE = re.compile(rf"(?:{_LABEL}|{_HEADING}|.*{_MARKER}\w*[ \t]*|[ \t]*)\Z")
_TITLE_ALONE = re.compile(rf"[ \t]*#{{2,6}}[ \t]*\w.*\Z|{_LABEL}\Z")
_ANSWER_WORD = re.compile(
    r"(?<![a-z])(?:response|answer|assistant|output|completion|reply|model|bot)s?(?![a-z])"
    r"|\[/INST\]|响应|回答|答案|输出|回复|助手|antwort|réponse|respuesta|risposta|resposta",
    re.IGNORECASE,
)


def split(texts: Sequence[str]) -> list[str]:
    """Pieces p0, p1, ... so that every text is p0 slot p1 slot ... pn slot; p0 may be empty, the others are not."""
    shared = _common_start(texts)
    head = shared[: _end(shared)]
    return [head, *_middle([text[len(head) :] for text in texts])]


def shared_end(texts: Sequence[str]) -> str:
    """The author's piece that all texts end with; "" if there is none."""
    shared = _common_start([text[::-1] for text in texts])[::-1]
    start = _start(shared)
    return shared[start:] if start is not None else ""


def shared_terminator(texts: Sequence[str]) -> str:
    """The token-like marker that all texts end with ("<|end|>", "</s>"), with the line break after it; else ""."""
    found = _TERMINATOR.search(_common_start([text[::-1] for text in texts])[::-1])
    return found.group() if found else ""


def cut_before_answer(piece: str) -> str:
    """The piece without what the answers after it share."""
    return piece[: _end(piece, before_answer=True) or _end(piece)]


def announces_answer(piece: str) -> bool:
    """Whether the titles at the end of the piece name the answer ("### Response:", "SQL" after it or not)."""
    for line in reversed(piece.splitlines()):
        if not _TITLE_LINE.match(line):
            return False
        if _ANSWER_WORD.search(line):
            return True
    return False


def slots(text: str, pieces: Sequence[str]) -> list[str] | None:
    """What stands between the pieces: the first place of each counts. None if the text is not of this form."""
    if not text.startswith(pieces[0]):
        return None
    rest, found = text[len(pieces[0]) :], []
    for piece in pieces[1:]:
        slot, hit, rest = rest.partition(piece)
        if not hit:
            return None
        found.append(slot)
    return [*found, rest]


def hidden_titles(values: Sequence[str]) -> bool:
    """Whether many of these slot values hold the same title line: then the rows have more than one frame."""
    counts = Counter(line for value in values for line in set(value.splitlines()) if _TITLE_ALONE.match(line))
    return any(count >= max(2, MANY * len(values)) for count in counts.values())


def _middle(texts: list[str]) -> list[str]:
    """Pieces inside of texts that do not begin with one."""
    piece = max(_shared_pieces(texts), key=len, default="")
    if not piece:
        return []
    parts = [text.partition(piece) for text in texts]
    return [*_middle([part[0] for part in parts]), piece, *_middle([part[2] for part in parts])]


def _shared_pieces(texts: list[str]) -> Iterator[str]:
    """The author's pieces among the texts that all rows share."""
    for window in _shared_windows(texts):
        start = _start(window)
        if start is None:
            continue
        piece = window[start : start + _end(window[start:])]
        if len(piece.strip()) > 1:
            yield piece


def _shared_windows(texts: list[str]) -> Iterator[str]:
    """The substrings of the shortest text that are in all texts and cannot be made longer."""
    shortest = min(texts, key=len)
    others = [text for text in dict.fromkeys(texts) if text != shortest]
    start = end = last = 0
    while start < len(shortest):
        while end < len(shortest) and all(shortest[start : end + 1] in text for text in others):
            end += 1
        if end > last:
            yield shortest[start:end]
            last = end
        start += 1
        end = max(end, start)


def _common_start(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)  # in sorted order, these two differ first
    same = next((i for i, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    return first[:same]


def _start(text: str) -> int | None:
    """Where the first author's piece can begin."""
    found = [match.start() for match in (re.search(r"\n", text), _MARKER_AT.search(text)) if match]
    return min(found, default=None)


def _end(text: str, before_answer: bool = False) -> int:
    """Where the last author's piece can end; 0 if nowhere."""
    ends = [match.end() for pattern in (_LABEL_AT, _MARKER_AT) for match in pattern.finditer(text)]
    for match in _LINE_BREAKS.finditer(text):
        line = text[: match.start()].rpartition("\n")[2]
        if not before_answer or match.group().count("\n") > 1 or _TITLE_LINE.match(line):
            ends.append(match.end())
    return max(ends, default=0)
