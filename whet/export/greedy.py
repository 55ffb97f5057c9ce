"""The file's answers at temperature 0, judged by the trained model.

llama.cpp writes an answer; the trained model reads prompt and answer in one pass and says at each place which token it
would have written. So one pass is enough however long the answers are, and where two tokens are equally likely either
is right.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

TIE = 0.05  # two best log-probabilities closer than this count as one choice
SURE = float(np.log(0.9))  # the trained model certainly ends here
NEVER = float(np.log(0.02))  # the trained model would hardly end here


@dataclass(frozen=True)
class Answer:
    """What the file wrote after one prompt. ``tokens`` holds the token that ended it, where ``ended``."""

    prompt: list[int]
    tokens: list[int]
    ended: bool


@dataclass(frozen=True)
class Greedy:
    """Figures over all answers.

    Attributes:
        agreement: share of tokens before the first one that the trained model would not have written.
        tokens: tokens written, terminators included.
        answers, ended: answers written, and those that ended by a terminator.
        ended_trained: answers that the trained model ends within the same text.
        ends_wrong: answers that ended where the trained model would not, or went on where it surely ends.
    """

    agreement: float
    tokens: int
    answers: int
    ended: int
    ended_trained: int
    ends_wrong: int

    def checks(self, bar: float) -> list[tuple[str, str, str, bool | None]]:
        """Name, figure, bar, and whether it is met."""
        reached = f"{self.ended} of {self.answers}, trained model {self.ended_trained}"
        return [
            (
                "greedy text, equal leading tokens",
                f"{self.agreement:.1%} of {self.tokens}",
                f">= {bar:.0%}" if bar else "",
                self.agreement >= bar if bar else None,
            ),
            ("answers that ended", reached, "none wrongly", self.ends_wrong == 0),
        ]


def judge_answers(
    answers: Sequence[Answer], logprobs: Sequence[np.ndarray], terminators: Collection[int]
) -> Greedy | None:
    """Compare answers with what the trained model says at their places.

    Args:
        logprobs: for each answer the trained model's log-probabilities [tokens written, vocabulary] at the places
            where these tokens stand.
        terminators: token ids that end an answer.

    Returns:
        None without answers.
    """
    if not answers:
        return None
    ends = sorted(terminators)
    leading = [_leading(answer, rows) for answer, rows in zip(answers, logprobs, strict=True)]
    written = sum(len(answer.tokens) for answer in answers)
    judged = [_ends_wrong(*pair, ends) for pair in zip(answers, logprobs, leading, strict=True)]
    trained = sum(bool(np.isin(rows.argmax(-1), ends).any()) for rows in logprobs)
    return Greedy(
        agreement=sum(leading) / max(1, written),
        tokens=written,
        answers=len(answers),
        ended=sum(answer.ended for answer in answers),
        ended_trained=trained,
        ends_wrong=sum(judged),
    )


def _leading(answer: Answer, logprobs_TV: np.ndarray) -> int:
    """Tokens before the first one that the trained model would not have written."""
    tokens = np.array(answer.tokens, dtype=np.int64)
    chosen_T = logprobs_TV[np.arange(len(tokens)), tokens]
    right_T = chosen_T >= logprobs_TV.max(-1) - TIE
    return len(tokens) if right_T.all() else int(right_T.argmin())


def _ends_wrong(answer: Answer, logprobs_TV: np.ndarray, leading: int, ends: list[int]) -> bool:
    """Whether the first difference is an end that should not be, or one that is missing."""
    if leading == len(answer.tokens) or not ends:
        return False
    end = float(np.logaddexp.reduce(logprobs_TV[leading, ends]))
    if answer.tokens[leading] in ends:
        return end < NEVER
    return end > SURE
