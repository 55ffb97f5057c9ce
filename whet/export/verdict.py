"""The verdict on an exported model: the figures, and the bars that they are held against."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from whet.console import table, write_json_atomic
from whet.errors import ProofFailed
from whet.export.greedy import Greedy

TIE = 0.05  # two best log-probabilities closer than this count as one choice
VISIBLE = -50.0  # log-probabilities below are noise in float32, and left out of the largest difference


@dataclass(frozen=True)
class Thresholds:
    """The bar for one quantisation: mean KL in nats at most, the two agreements at least, perplexity at most."""

    kl_mean: float
    top1_agreement: float
    max_abs_logprob_diff: float | None = None
    greedy_agreement: float = 0.0
    perplexity_delta: float = 1.0


# Above what a right file shows and below what a wrong one does: benchmarks/results/gguf_error.json has the figures
# of the starter and of a tiny random model. Equal leading tokens are judged where the weights are all but exact: with
# fewer bits one close choice ends them early (8% to 70% of the starter's), and they are shown without a bar.
THRESHOLDS = {
    "f32": Thresholds(
        1e-6, 0.99, 5e-3, 0.99, 0.001
    ),  # Gemma's largest difference is 1e-3: ggml's GELU table is float16
    "f16": Thresholds(1e-4, 0.98, None, 0.80, 0.01),
    "bf16": Thresholds(5e-3, 0.95, None, 0.25, 0.05),
    "q8_0": Thresholds(1e-2, 0.95, None, 0.25, 0.05),
    "q6_k": Thresholds(5e-2, 0.90, None, 0.0, 0.10),
    "q5_k_m": Thresholds(0.15, 0.75, None, 0.0, 0.25),
    "q5_k_s": Thresholds(0.15, 0.75, None, 0.0, 0.25),
    "q5_0": Thresholds(0.15, 0.75, None, 0.0, 0.25),
    "q4_k_m": Thresholds(0.3, 0.60, None, 0.0, 0.50),
    "q4_k_s": Thresholds(0.3, 0.60, None, 0.0, 0.50),
    "q4_0": Thresholds(0.4, 0.55, None, 0.0, 0.60),
    "q3_k_m": Thresholds(0.8, 0.45, None, 0.0, 0.75),
    "q2_k": Thresholds(2.0, 0.25, None, 0.0, 1.5),
}
LOOSEST = "q4_k_m"  # for a file of a kind that has no bar of its own
ROUNDED_WEIGHTS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}  # a merged folder, judged as such a GGUF


@dataclass(frozen=True)
class Verdict:
    """What the comparison found. KL is KL(trained || file) in nats a token.

    Attributes:
        template_identical: None where the file or the model has no template to compare.
        perplexity_trained, perplexity_file: of the texts named in ``perplexity_on``, at ``perplexity_positions``.
        greedy: the answers that the file gives at temperature 0, judged by the trained model.
        terminators_end: whether generation ends at each token that ends an answer.
    """

    quant: str
    tokens_identical: bool
    template_identical: bool | None
    eos_identical: bool
    kl_mean: float
    kl_p99: float
    top1_agreement: float
    max_abs_logprob_diff: float
    positions: int
    probes: int
    passed: bool
    thresholds: Thresholds
    failed: tuple[str, ...] = ()
    perplexity_trained: float | None = None
    perplexity_file: float | None = None
    perplexity_positions: int = 0
    perplexity_on: str = ""
    greedy: Greedy | None = None
    terminators_end: bool | None = None

    @property
    def perplexity_delta(self) -> float | None:
        """The file's perplexity over the trained model's, less one."""
        if self.perplexity_trained is None or self.perplexity_file is None:
            return None
        return self.perplexity_file / self.perplexity_trained - 1

    def print(self, file: Path | str) -> None:
        """Every figure with its bar, on stdout."""
        table(["compared", "found", "bar"], _rows(self), f"{Path(file).name} ({self.quant})")

    def check(self, file: Path | str) -> None:
        """Raise :class:`ProofFailed` where the file is not the trained model."""
        if not self.passed:
            raise ProofFailed(
                f"{file} is not the trained model: {', '.join(self.failed)}",
                fix="do not use it; export again, and compare with the model that it was exported from",
            )


def judge(
    quant: str,
    reference_PV: np.ndarray,
    found_PV: np.ndarray,
    probes: int,
    tokens_identical: bool = True,
    template_identical: bool | None = None,
    eos_identical: bool = True,
    *,
    next_P: np.ndarray | None = None,
    perplexity_on: str = "",
    greedy: Greedy | None = None,
    terminators_end: bool | None = None,
) -> Verdict:
    """The verdict on log-probabilities of shape [positions, vocabulary].

    Args:
        next_P: the token that stands next in the text at each position; -1 where it does not count.
        perplexity_on: what texts those are.
    """
    probability_PV = np.exp(reference_PV)
    kl_P = (probability_PV * (reference_PV - found_PV)).sum(-1)
    best_P = reference_PV.max(-1)
    chosen_P = np.take_along_axis(reference_PV, found_PV.argmax(-1)[:, None], -1)[:, 0]
    visible_PV = reference_PV > VISIBLE
    trained, file, counted = _perplexities(reference_PV, found_PV, next_P)
    verdict = Verdict(
        quant=quant,
        tokens_identical=tokens_identical,
        template_identical=template_identical,
        eos_identical=eos_identical,
        kl_mean=float(kl_P.mean()),
        kl_p99=float(np.quantile(kl_P, 0.99)),
        top1_agreement=float((chosen_P >= best_P - TIE).mean()),
        max_abs_logprob_diff=float(np.abs(reference_PV - found_PV)[visible_PV].max()),
        positions=len(kl_P),
        probes=probes,
        passed=False,
        thresholds=THRESHOLDS.get(quant, THRESHOLDS[LOOSEST]),
        perplexity_trained=trained,
        perplexity_file=file,
        perplexity_positions=counted,
        perplexity_on=perplexity_on if counted else "",
        greedy=greedy,
        terminators_end=terminators_end,
    )
    return held_against_bars(verdict)


def _perplexities(
    reference_PV: np.ndarray, found_PV: np.ndarray, next_P: np.ndarray | None
) -> tuple[float | None, float | None, int]:
    places = np.flatnonzero(next_P >= 0) if next_P is not None else np.empty(0, dtype=np.int64)
    if next_P is None or not len(places):
        return None, None, 0
    tokens = next_P[places]
    trained, file = (float(np.exp(-logprobs[places, tokens].mean())) for logprobs in (reference_PV, found_PV))
    return trained, file, len(places)


def held_against_bars(verdict: Verdict) -> Verdict:
    """The verdict with ``passed``, and the names of what is below its bar in ``failed``."""
    failed = tuple(name for name, _, _, good in _checks(verdict) if good is False)
    return replace(verdict, passed=not failed, failed=failed)


def _checks(verdict: Verdict) -> list[tuple[str, str, str, bool | None]]:
    """Name, figure, bar, and whether it is met; None where there was nothing to compare."""
    bar, delta, greedy = verdict.thresholds, verdict.perplexity_delta, verdict.greedy
    largest, limit = verdict.max_abs_logprob_diff, bar.max_abs_logprob_diff
    checks: list[tuple[str, str, str, bool | None]] = [
        ("token ids of the probes", _said(verdict.tokens_identical), "same", verdict.tokens_identical),
        ("prompt of the template", _said(verdict.template_identical), "same", verdict.template_identical),
        ("end token", _said(verdict.eos_identical), "same", verdict.eos_identical),
        ("an answer ends there", _yes(verdict.terminators_end), "yes", verdict.terminators_end),
        ("mean KL, nats", f"{verdict.kl_mean:.1e}", f"<= {bar.kl_mean:g}", verdict.kl_mean <= bar.kl_mean),
        ("99th percentile of KL", f"{verdict.kl_p99:.1e}", "", None),
        (
            "same best token",
            f"{verdict.top1_agreement:.1%} of {verdict.positions}",
            f">= {bar.top1_agreement:.0%}",
            verdict.top1_agreement >= bar.top1_agreement,
        ),
        (
            "largest difference of log-probabilities",
            f"{largest:.1e}",
            "" if limit is None else f"<= {limit:g}",
            None if limit is None else largest <= limit,
        ),
    ]
    if greedy is not None:
        checks += greedy.checks(bar.greedy_agreement)
    if delta is not None:
        found = f"{verdict.perplexity_trained:.3f} -> {verdict.perplexity_file:.3f} ({delta:+.2%})"
        name = f"perplexity, {verdict.perplexity_positions} tokens of {verdict.perplexity_on}"
        checks.append((name, found, f"<= +{bar.perplexity_delta:.1%}", delta <= bar.perplexity_delta))
    return checks


def _said(same: bool | None) -> str:
    return "none" if same is None else "same" if same else "DIFFERENT"


def _yes(ends: bool | None) -> str:
    return "" if ends is None else "yes" if ends else "NO"


def _rows(verdict: Verdict) -> list[list[object]]:
    rows: list[list[object]] = [
        [name, figure, bar + (" FAILED" if good is False else "")]
        for name, figure, bar, good in _checks(verdict)
        if figure
    ]
    return [*rows, ["verdict", "passed" if verdict.passed else "FAILED", ""]]


def verdict_path(gguf_path: Path | str) -> Path:
    """Where the verdict of a file or folder stands."""
    return Path(f"{gguf_path}.verify.json")


def write_verdict(file: Path | str, verdict: Verdict) -> None:
    """Write the verdict beside its file, with the versions that it was found with."""
    versions = {name: _version(name) for name in ("whet", "xllamacpp", "transformers", "torch")}
    figures = asdict(verdict) | {"perplexity_delta": verdict.perplexity_delta}
    write_json_atomic(verdict_path(file), {"file": Path(file).name, **figures, "versions": versions})


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
