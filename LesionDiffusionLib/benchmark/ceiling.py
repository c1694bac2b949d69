"""What the hardware reaches at most: matrix products, measured; and the operations a network needs, counted."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from LesionDiffusionLib.devices import synchronize

EDGES = {"cpu": 2048, "cuda": 8192}
REPEATS = 5


def matmul_tflops(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Best of several square matrix products, in 10^12 operations a second."""
    edge = EDGES.get(device.type, 2048)
    a = torch.randn(edge, edge, device=device, dtype=dtype)
    return 2 * edge**3 / fastest_seconds(lambda: a @ a, device) / 1e12


def fastest_seconds(compute: Callable[[], object], device: torch.device) -> float:
    """Best of several, after one to warm up."""
    seconds = []
    for _ in range(REPEATS + 1):
        synchronize(device)
        started = time.perf_counter()
        compute()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def forward_tflop(backbone: Callable[..., object], *inputs: torch.Tensor) -> float:
    """Operations (10^12) of one evaluation: convolutions, matrix products and attention."""
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mkldnn_convolution: _convolution_flop})
    with torch.no_grad(), counter:  # before PyTorch 2.6 it counts nothing in inference mode
        backbone(*inputs)
    return counter.get_total_flops() / 1e12


def _convolution_flop(x_shape, weight_shape, *_, out_shape, **__) -> int:
    """Of oneDNN's own operator (see `networks.convolution`), which torch's counter does not know."""
    return conv_flop_count(x_shape, weight_shape, out_shape)
