"""3-D convolutions by the fast library: oneDNN for one sample on a CPU, cuDNN in half precision on a GPU.

PyTorch decides by a rule made for 2-D whether oneDNN convolves: one sample alone goes there only if its channels times
the voxels of a single slice are many. The windows of small networks are below that, and take up to fifteen times as
long.

With cuDNN 9.8 to 9.14 (PyTorch 2.9 and 2.10) it passes over cuDNN in half precision, unless the input or the weights
have their channels last; what it does instead unfolds the input, which takes 27 times its memory. Tensor cores want the
channels last in any case: everywhere else cuDNN would reorder on its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional

HALF = (torch.float16, torch.bfloat16)
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
    """`torch.nn.functional.conv3d`; on a CPU and without gradients by oneDNN also for one sample, on a GPU by cuDNN
    also in half precision."""
    if _overlooked(x_BCDHW):
        return torch.mkldnn_convolution(x_BCDHW, weight, bias, padding, stride, (1, 1, 1), 1)
    if _halved_on_gpu(x_BCDHW) and max(weight.shape[2:]) > 1:
        weight = weight.to(memory_format=torch.channels_last_3d)  # nothing to do after `store_channels_last`
    return functional.conv3d(x_BCDHW, weight, bias, stride, padding)


def store_channels_last(network: nn.Module) -> bool:
    """Store half-precision weights on a GPU as `conv3d` wants them, so that it need not reorder them at every call.

    Other tensors, and all values, stay as they are. Returns whether there were any such weights.
    """
    found = [t for t in (*network.parameters(), *network.buffers()) if t.dim() == 5 and _halved_on_gpu(t)]
    for tensor in found:
        tensor.data = tensor.data.to(memory_format=torch.channels_last_3d)
    return bool(found)


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


def _halved_on_gpu(x: Tensor) -> bool:
    """Whether a convolution of ``x`` is computed in half precision on a GPU."""
    return x.is_cuda and (x.dtype in HALF or torch.is_autocast_enabled())


def _overlooked(x_BCDHW: Tensor) -> bool:
    """Whether PyTorch may pass over oneDNN though it is there."""
    single = len(x_BCDHW) == 1 and x_BCDHW.dtype == torch.float32 and x_BCDHW.device.type == "cpu"
    return single and shortcuts_allowed() and torch.backends.mkldnn.is_available()
