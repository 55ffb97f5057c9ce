"""Near duplicates: the sketches against the exact sets, what a frame hides, what is too short to judge."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from whet.data.duplicates import FEWEST_PIECES, NearDuplicates, pieces, similarity


def sentence(seed: int, words: int = 25) -> str:
    """Words that no other seed has: made of random letters."""
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(words))


def exact_pieces(text: str) -> set[bytes]:
    even = " ".join(text.casefold().split()).encode()
    return {even[i : i + 5] for i in range(len(even) - 4)}


def exact(one: str, other: str) -> float:
    a, b = exact_pieces(one), exact_pieces(other)
    return len(a & b) / len(a | b)


def found(held: list[str], others: list[str]) -> dict[int, int]:
    near = NearDuplicates()
    for i, text in enumerate(held):
        near.hold(i, text)
    for i, text in enumerate(others):
        near.compare(i, text)
    return {match.held: match.other for match in near.finish()}


def test_every_piece_has_a_hash_of_its_own(shared: Path) -> None:
    text = (shared / "data" / "corpus" / "public_domain_english.txt").read_text(encoding="utf-8")[:200_000]
    assert len(pieces(text)) == len(exact_pieces(text)) > 20_000


def test_case_and_white_space_do_not_matter() -> None:
    assert pieces("The  quick\nBrown fox").tolist() == pieces(" the quick brown FOX ").tolist()
    assert len(pieces("abcd")) == 0 and len(pieces("")) == 0 and len(pieces("abcde")) == 1


def test_small_sets_are_compared_exactly() -> None:
    one, other = "how many orders were shipped in march", "how many orders were shipped in april"
    assert similarity(pieces(one), pieces(other)) == pytest.approx(exact(one, other))
    assert similarity(pieces(""), pieces(one)) == 0


def test_a_sketch_estimates_large_sets() -> None:
    draw = random.Random(1)
    for share in (0.5, 0.8, 0.95):
        words = sentence(3, 400).split()
        changed = [word if draw.random() < share else word[::-1] for word in words]
        one, other = " ".join(words), " ".join(changed)
        estimate = similarity(pieces(one)[:128], pieces(other)[:128])
        assert estimate == pytest.approx(exact(one, other), abs=4 * 0.045)


def test_a_changed_word_is_found_and_another_text_is_not() -> None:
    held = [sentence(i) for i in range(50)]
    others = [sentence(1000 + i) for i in range(200)]
    others[77] = held[13].replace(held[13].split()[4], "something", 1)
    assert found(held, others) == {13: 77}


def test_the_nearest_of_several_is_named() -> None:
    text = sentence(5, 40)
    far, near = text.rsplit(" ", 4)[0] + " more", text.rsplit(" ", 1)[0] + " more"
    assert found([text], [far, near, far]) == {0: 1}


@pytest.mark.parametrize("rows", [8, 40, 1500])
def test_a_frame_does_not_make_rows_alike(rows: int) -> None:
    """The same long prompt around short texts of their own; fewer and more rows than are looked at for the frame."""
    frame = "Below is an instruction that describes a task. Write a response.\n\n### Input:\n{}\n\n### Response:\n"
    held = [frame.format(sentence(i, 6)) for i in range(rows // 2)]
    others = [frame.format(sentence(10_000 + i, 6)) for i in range(rows)]
    assert exact(held[0], others[0]) > 0.3
    assert found(held, others) == {}
    others[rows - 1] = held[2].replace("Write", "write") + "!"
    assert found(held, others) == {2: rows - 1}


def test_real_rows_against_all_pairs(shared: Path) -> None:
    lines = (shared / "data" / "wikisql" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:1200]]
    texts = [f"{row['question']}\n{row['context']}\n{row['answer']}" for row in rows]
    held, others = texts[:150], texts[150:]
    others += [text.replace("table_", "t_") for text in held[:20]]
    sets = [exact_pieces(text) for text in others]
    truth = set()
    for i, text in enumerate(held):
        own = exact_pieces(text)
        if max(len(own & other) / len(own | other) for other in sets) >= 0.9:
            truth.add(i)
    got = set(found(held, others))
    assert len(truth) > 10
    assert len(truth & got) >= 0.9 * len(truth)
    assert len(got - truth) <= 0.2 * len(got) + 2  # between 0.8 and 0.9 there may be more


def test_short_texts_are_not_judged() -> None:
    short = "a" * 5 + " short one"
    assert len(pieces(short)) < FEWEST_PIECES
    assert found([short], [short]) == {}


def test_chinese() -> None:
    held = [
        "我喜欢这个产品的新功能，而且客服非常有帮助，下次还会再来。",
        "食物很糟糕，毫无味道，服务员也不友好，价格太贵了。",
    ]
    assert found(held, [held[0].replace("下次", "以后")]) == {0: 0}


def test_what_is_not_held_is_counted() -> None:
    near = NearDuplicates(most=3)
    for i in range(5):
        near.hold(i, sentence(i))
    for i in range(5):
        near.compare(i, sentence(i))
    assert [match.held for match in near.finish()] == [0, 1, 2]
    assert near.not_held == 2


def test_nothing_at_all() -> None:
    assert NearDuplicates().finish() == []
    near = NearDuplicates()
    near.compare(0, sentence(1))
    assert near.finish() == []
