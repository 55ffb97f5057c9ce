"""Draw the starter's loss curve from its training.json: python scripts/plot_starter.py (needs matplotlib)."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path(__file__).resolve().parents[1] / "whet" / "models" / "starter"


def main() -> None:
    curve = json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))["curve"]
    figure, axes = plt.subplots(figsize=(7, 3.2), dpi=110)
    axes.plot([point["tokens"] / 1e6 for point in curve], [point["loss"] for point in curve], linewidth=1)
    axes.set(xlabel="tokens seen (millions)", ylabel="training loss (nats/token)", ylim=(0, 3))
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(FOLDER / "loss.png", metadata={"Software": None})


if __name__ == "__main__":
    main()
