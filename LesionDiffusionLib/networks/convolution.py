"""3-D convolutions that are as fast for one sample as for several on a CPU.

PyTorch decides by a rule made for 2-D whether oneDNN convolves: one sample alone goes there only if its channels times
the voxels of a single slice are many. The windows of small networks are below that, and take up to fifteen times as
long.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional

_WRITTEN = ContextVar("as_written", default=False)


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d` (zeros beyond the border, one group), by way of `conv3d`."""

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        return conv3d(x_BCDHW, self.weight, self.bias, self.stride, self.padding)


def conv3d(
    x_BCDHW: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int, int] = (1, 1, 1),
    padding: tuple[int, int, int] = (0, 0, 0),
) -> Tensor:
    """`torch.nn.functional.conv3d`; on a CPU and without gradients by oneDNN also for one sample."""
    if _overlooked(x_BCDHW):
        return torch.mkldnn_convolution(x_BCDHW, weight, bias, padding, stride, (1, 1, 1), 1)
    return functional.conv3d(x_BCDHW, weight, bias, stride, padding)


@contextmanager
def as_written() -> Iterator[None]:
    """Every layer is computed as PyTorch would, while it lasts: for comparisons."""
    token = _WRITTEN.set(True)
    try:
        yield
    finally:
        _WRITTEN.reset(token)


def shortcuts_allowed() -> bool:
    """Whether a layer may compute the same another way: not while something learns, nor under `as_written`."""
    return not torch.is_grad_enabled() and not _WRITTEN.get()


def _overlooked(x_BCDHW: Tensor) -> bool:
    """Whether PyTorch may pass over oneDNN though it is there."""
    single = len(x_BCDHW) == 1 and x_BCDHW.dtype == torch.float32 and x_BCDHW.device.type == "cpu"
    return single and shortcuts_allowed() and torch.backends.mkldnn.is_available()
