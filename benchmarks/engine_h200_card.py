"""What the card sustains: bf16 products of the 8B shape's largest size for some seconds, for ``engine_h200.py``.

Prints one line of JSON. A card under full load for seconds is bound by its power; the first second is not counted.
"""

from __future__ import annotations

import argparse
import json
import time

import torch

ROWS, INPUTS, OUTPUTS = 16384, 4096, 14336


def sustained(seconds: float, rows: int = ROWS) -> dict[str, float]:
    """TFLOP/s in the last two thirds of ``seconds``, and in the first tenth of a second."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(rows, INPUTS, device=device, dtype=torch.bfloat16)
    b = torch.randn(OUTPUTS, INPUTS, device=device, dtype=torch.bfloat16).T  # as a linear layer holds it
    out = torch.empty(rows, OUTPUTS, device=device, dtype=torch.bfloat16)
    torch.mm(a, b, out=out)
    _wait(device)
    ends = [time.perf_counter()]
    while ends[-1] < ends[0] + seconds:
        for _ in range(20 if device == "cuda" else 1):
            torch.mm(a, b, out=out)
        _wait(device)
        ends.append(time.perf_counter())
    done = 2e-12 * rows * INPUTS * OUTPUTS * (20 if device == "cuda" else 1)
    late = [end for end in ends if end >= ends[0] + seconds / 3]
    burst = max(1, sum(end <= ends[0] + 0.1 for end in ends) - 1)
    return {
        "sustained_tflops": round(done * (len(late) - 1) / max(late[-1] - late[0], 1e-9), 1),
        "burst_tflops": round(done * burst / (ends[burst] - ends[0]), 1),
    }


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.5)
    parser.add_argument("--rows", type=int, default=ROWS)
    options = parser.parse_args()
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(json.dumps({"card": name, **sustained(options.seconds, options.rows)}), flush=True)


if __name__ == "__main__":
    main()
