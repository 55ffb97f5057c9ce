"""From the host to a device, without waiting for it."""

from __future__ import annotations

import torch


def to_device(t: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A tensor of the host on the device. A plain ``to`` of a GPU would wait until all work before it is done."""
    return t.pin_memory().to(device, non_blocking=True) if torch.device(device).type == "cuda" else t.to(device)
