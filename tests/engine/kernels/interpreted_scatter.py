"""The scatter kernel on a CPU. test_scatter runs it in a process with TRITON_INTERPRET=1."""

from __future__ import annotations

import torch
from scatter_cases import copies, problems

from whet.engine.kernels import scatter_triton

# Triton's interpreter cuts off the last bits of a bfloat16 instead of rounding.
for target, source, bound in (
    (torch.float32, torch.float32, 1e-6),
    (torch.bfloat16, torch.float32, 2**-7),
    (torch.bfloat16, torch.bfloat16, 2**-7),
    (torch.float16, torch.float32, 2**-9),
):
    done, buffers = copies(target, "cpu", source)
    for table in scatter_triton.tables(done, 1024):
        scatter_triton.run(table, 1024)
    assert problems(done, buffers, bound) == [], (target, source)
mixed = [*copies(torch.bfloat16, "cpu")[0], *copies(torch.float32, "cpu")[0]]
assert len(list(scatter_triton.tables(mixed, 1024))) == 2
print("every copy is right")
