"""What the hardware reaches at most: matrix products, measured; and the operations a network needs, counted."""

from __future__ import annotations

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from LesionDiffusionLib.devices import synchronize

EDGES = {"cpu": 2048, "cuda": 8192}
REPEATS = 5


def matmul_tflops(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Best of several square matrix products, in 10^12 operations a second."""
    edge = EDGES.get(device.type, 2048)
    a = torch.randn(edge, edge, device=device, dtype=dtype)
    seconds = []
    for _ in range(REPEATS + 1):  # the first one warms up
        synchronize(device)
        started = time.perf_counter()
        a @ a
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * edge**3 / min(seconds[1:]) / 1e12


def forward_tflop(backbone: torch.nn.Module, x_BCDHW: torch.Tensor, context_BNC: torch.Tensor) -> float:
    """Operations (10^12) of one evaluation: convolutions, matrix products and attention."""
    timesteps = torch.zeros(len(x_BCDHW), dtype=torch.long, device=x_BCDHW.device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        backbone(x_BCDHW, timesteps, context_BNC)
    return counter.get_total_flops() / 1e12
