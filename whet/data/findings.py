"""From figures to findings: what stands out, what it means, what to do.

Errors are what makes training useless or impossible; warnings what probably is not meant; notes what is good to know.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from whet.data.audit_report import Classes, Finding, Leakage, Side
from whet.data.prepare import CUT_BEFORE_ANSWER, TOO_LONG

SMALL_SHARE = 0.01  # trained tokens / tokens below which a note is worth its line
LOPSIDED = 10  # rows of the most frequent class for each row of the rarest
ONE_CLASS = 0.9  # share of the most frequent class
MANY = 0.05  # share of rows left out or cut for length that is a warning
BADLY_FILLED = 0.5  # fill of packed rows
MOST_NAMED = 3  # examples in a sentence


class Fits(NamedTuple):
    """What fits: the run's limit, the model's, and what happens to longer rows."""

    sequence_len: int
    longest: int | None
    excess: str


def findings_of(
    train: Side,
    valid: Side | None,
    leakage: Leakage | None,
    *,
    sequence_len: int,
    longest: int | None,
    excess: str,
    packing: bool,
) -> tuple[Finding, ...]:
    """All findings, errors first.

    Args:
        longest: tokens that the model reads at most; None where nobody knows.
    """
    fits = Fits(sequence_len, longest, excess)
    found = [
        *_nothing_to_train(train),
        *_endings(train),
        *_lengths(train, "training", fits),
        *_reading(train, "training"),
        *_contents(train),
        *_copies(train),
        *(_validation(train, valid, fits) if valid else ()),
        *(_leaks(leakage, valid) if leakage and valid else ()),
        *_answers(train),
        *_epoch(train, sequence_len, packing),
    ]
    order = {"error": 0, "warning": 1, "note": 2}
    return tuple(sorted(found, key=lambda finding: order[finding.level]))


def rows(count: int) -> str:
    """A number of rows in words."""
    return f"{count:,} row" + ("" if count == 1 else "s")


def part_of(count: int, side: Side) -> str:
    """A number of rows with its share of all."""
    share = 100 * count / side.rows if side.rows else 0.0
    return f"{rows(count)} ({'under 0.1' if share < 0.1 else format(share, '.1f')}%)"


def _nothing_to_train(side: Side) -> Iterator[Finding]:
    if not side.rows:
        yield Finding("error", "there are no training rows", "nothing can be learned", "check path, split and type")
    elif not side.kept or not side.trained_tokens:
        why = "; ".join(f"{count:,} {reason}" for reason, count in side.dropped.items()) or "no token is trained"
        yield Finding(
            "error",
            f"none of the {rows(side.rows)} can be trained on",
            why,
            "check that the rows have answers and fit into sequence_len",
        )
    elif side.trained_tokens < SMALL_SHARE * side.tokens:
        yield Finding(
            "note",
            f"only {100 * side.trained_share:.2f}% of the tokens are trained",
            "most of the time goes into reading prompts",
            "shorten the prompts if they hold what the model does not need",
        )


def _endings(side: Side) -> Iterator[Finding]:
    if not side.unfinished:
        return
    if side.unfinished == side.rows:
        yield Finding(
            "error",
            "no answer ends in a terminator",
            "the model would never learn to stop: it talks on until it is cut off",
            "use a chat template that writes an end token after the assistant's turn, or end the texts with one",
        )
    else:
        yield Finding(
            "warning",
            f"{part_of(side.unfinished, side)} with an answer that does not end in a terminator",
            "from these rows the model learns to talk on after its answer",
            "end each answer with the tokenizer's end token",
        )


def _lengths(side: Side, name: str, fits: Fits) -> Iterator[Finding]:
    if not side.longer:
        return
    longest = side.lengths.quantiles["max"]
    what = f"{part_of(side.longer, side)} of {name} longer than sequence_len ({fits.sequence_len:,} tokens)"
    if fits.excess == "error":
        yield Finding(
            "error",
            what,
            f"excess_length_strategy is error: training stops there; the longest has {longest:,} tokens",
            'raise sequence_len, or set excess_length_strategy to "drop" or "truncate"',
        )
        return
    dropped = side.longer - side.truncated
    done = [f"{dropped:,} left out"] if dropped else []
    done += [
        f"{side.truncated:,} cut ({'split into several rows' if fits.excess == 'split' else 'at whole answers'})"
    ] * (side.truncated > 0)
    yield Finding(
        "warning" if side.longer >= MANY * side.rows else "note",
        what,
        f"{', '.join(done)}; the longest has {longest:,} tokens",
        _to_keep(longest, fits),
    )


def _to_keep(longest: int, fits: Fits) -> str:
    if fits.longest is not None and longest > fits.longest:
        if fits.sequence_len < fits.longest:
            return f"to keep more of them, set sequence_len to {fits.longest:,}, the most that the model reads"
        return f"the model reads at most {fits.longest:,} tokens: shorten these rows, or take another model"
    return f"to keep them whole, set sequence_len to {_next_length(longest):,}"


def _next_length(tokens: int) -> int:
    """The next multiple of 64."""
    return -(-tokens // 64) * 64


def _reading(side: Side, name: str) -> Iterator[Finding]:
    if side.damaged:
        yield Finding(
            "warning",
            f"{side.damaged:,} damaged lines of {name} skipped",
            "these lines are no rows; what they held is lost",
            "mend the files, or set damaged: error to stop at the first one",
        )
    for reason, count in side.dropped.items():
        if reason not in (TOO_LONG, CUT_BEFORE_ANSWER) and side.kept:
            yield Finding("note", f"{rows(count)} of {name} left out: {reason}", "training does not see them", "")


def _contents(side: Side) -> Iterator[Finding]:
    if side.empty_answers:
        yield Finding(
            "warning",
            f"{part_of(side.empty_answers, side)} with an empty answer",
            "the model learns to say nothing",
            "remove these rows, or fill in the answers",
        )
    if side.literal:
        yield Finding(
            "note",
            f"{part_of(side.literal, side)} with the text of a special token in the contents",
            "it is encoded as plain text, so no row can forge a turn",
            "clean the rows if these texts are leftovers of another template",
        )
    if side.alike:
        yield Finding(
            "warning",
            f"{part_of(side.alike, side)} whose chosen and rejected answers are the same",
            "such a row teaches no preference",
            "remove these rows",
        )


def _copies(side: Side) -> Iterator[Finding]:
    if side.duplicates:
        yield Finding(
            "warning" if side.duplicates >= MANY * side.rows else "note",
            f"{part_of(side.duplicates, side)} are exact copies of earlier rows",
            "copies weigh more than other rows",
            "remove them unless the weight is meant",
        )
    if side.conflicting:
        yield Finding(
            "note",
            f"{part_of(side.conflicting, side)} with the prompt of another row and another answer",
            "the model learns a mixture of these answers",
            "keep them if several answers are right; else remove the wrong ones",
        )


def _validation(train: Side, valid: Side, fits: Fits) -> Iterator[Finding]:
    if not valid.kept:
        yield Finding("error", "no validation row can be used", "the loss could not be measured", "check test_datasets")
    yield from _lengths(valid, "validation", fits)
    yield from _reading(valid, "validation")
    if train.classes and valid.classes:
        new = [name for name in valid.classes.counts if name not in train.classes.counts]
        if new:
            named = ", ".join(f'"{name}"' for name in new[:MOST_NAMED])
            yield Finding(
                "warning",
                f"answers of validation that no training row has: {named}",
                "the model cannot learn them",
                "add training rows with these answers, or check their spelling",
            )


def _leaks(leakage: Leakage, valid: Side) -> Iterator[Finding]:
    if leakage.same:
        yield Finding(
            "warning",
            f"{part_of(leakage.same, valid)} of validation are also training rows, token for token",
            "the validation loss looks better than it is",
            "remove them from one of the two sides",
        )
    if leakage.same_prompt:
        yield Finding(
            "warning",
            f"{part_of(leakage.same_prompt, valid)} of validation with the prompt of a training row, another answer",
            "the question has been seen in training, and its answer contradicts",
            "split by prompt, so that each stands on one side only",
        )
    if leakage.near:
        pairs = ", ".join(f"{m.held:,} and {m.other:,} ({m.similarity:.2f})" for m in leakage.matches[:MOST_NAMED])
        yield Finding(
            "warning",
            f"{part_of(leakage.near, valid)} of validation nearly the same as a training row",
            f"the validation loss looks better than it is; validation and training row (similarity): {pairs}",
            "look at these pairs; keep each text on one side only",
        )
    if leakage.not_compared:
        count = rows(leakage.not_compared)
        yield Finding("note", f"{count} of validation not searched for near copies", "only exact copies were found", "")


def _answers(side: Side) -> Iterator[Finding]:
    classes = side.classes
    if classes is None:
        return
    (top, most), *others = classes.counts.items()
    if not others:
        yield Finding(
            "warning", f'every answer is "{top}"', "there is nothing to tell apart", "check the column of the answers"
        )
        return
    rarest = min(classes.counts.values())
    lopsided = most > LOPSIDED * rarest or classes.majority >= ONE_CLASS
    yield Finding(
        "warning" if lopsided else "note",
        f"the answers look like {len(classes.counts)} classes: {_named(classes)}",
        f'accuracy to beat: {100 * classes.majority:.1f}%, by always answering "{top}"',
        "collect more rows of the rare classes, or weigh them" if lopsided else "",
    )


def _named(classes: Classes) -> str:
    total, items = sum(classes.counts.values()), list(classes.counts.items())
    named = [f'"{name}" {100 * count / total:.0f}%' for name, count in items[:5]]
    return ", ".join(named) + (f" and {len(items) - 5} more" if len(items) > 5 else "")


def _epoch(side: Side, sequence_len: int, packing: bool) -> Iterator[Finding]:
    if abs(side.multiplier - 1) > 0.005:
        yield Finding(
            "note",
            f"an epoch sees {side.multiplier:.2f} times the tokens of the rows",
            "the weights of the data sets repeat or leave out rows",
            "",
        )
    if packing and side.fill is not None and side.packed_rows and side.fill < BADLY_FILLED and side.kept > 1:
        longest = min(side.lengths.quantiles["max"], sequence_len)
        yield Finding(
            "note",
            f"packed rows are {100 * side.fill:.0f}% full ({rows(side.packed_rows)} of {sequence_len:,} tokens)",
            "there are few rows, or they fit badly into sequence_len",
            f"set sequence_len to {_next_length(longest):,}" if _next_length(longest) < sequence_len else "",
        )
