"""A start for the autoencoder: the best linear code of 2 x 2 x 2 blocks, so that training begins where PCA ends.

A random start spends thousands of steps on learning what a mean is. Here the latent of a block is its first principal
components over the training windows, the decoder paints them back, and all residual branches start at zero. The linear
maps pass the networks' SiLUs as pairs: silu(a) - silu(-a) = a. Whatever channels remain keep their random weights and
join in as training finds use for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from LesionDiffusionLib.intensity import to_network
from LesionDiffusionLib.networks.vqgan import VQGAN, ResBlock

WINDOWS = 256  # windows the components are computed from


def principal_components(windows_hu: Sequence[np.ndarray] | np.ndarray, count: int) -> tuple[Tensor, Tensor]:
    """Mean (8,) and first ``count`` principal components (count, 8) of 2 x 2 x 2 blocks, in network units.

    Args:
        windows_hu: int16 (N, D, H, W) HU; some of them, evenly spread over all, are looked at.
        count: at most 8.
    """
    total, squares, seen = np.zeros(8), np.zeros((8, 8)), 0
    for n in np.unique(np.linspace(0, len(windows_hu) - 1, WINDOWS).astype(int)):
        rows = blocks(to_network(windows_hu[n])).astype(np.float64)
        total, squares, seen = total + rows.sum(axis=0), squares + rows.T @ rows, seen + len(rows)
    mean = total / seen
    _, vectors = np.linalg.eigh(squares / seen - np.outer(mean, mean))  # in ascending order
    components = vectors.T[::-1][:count]
    return torch.from_numpy(mean).float(), torch.from_numpy(components.copy()).float()


def blocks(image: np.ndarray) -> np.ndarray:
    """(D, H, W) -> its blocks of 2 x 2 x 2 as rows (N, 8); odd sizes lose a plane at the high end."""
    d, h, w = (n // 2 for n in image.shape)
    cut = image[: 2 * d, : 2 * h, : 2 * w].reshape(d, 2, h, 2, w, 2)
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(-1, 8)


@torch.no_grad()
def start_linear(model: VQGAN, windows_hu: Sequence[np.ndarray] | np.ndarray) -> None:
    """Set the weights of a network that `config.startable_linearly` allows."""
    device = model.quantize.embedding.weight.device
    mean, components = (found.to(device) for found in principal_components(windows_hu, model.config.z_channels))
    _start_encoder(model, mean, components)
    _start_decoder(model, mean, components)
    for conv in (model.quant_conv, model.post_quant_conv):
        _pass_through(conv, model.config.z_channels)
    for module in model.modules():
        if isinstance(module, ResBlock):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
            if isinstance(module.shortcut, nn.Conv3d):
                _pass_through(module.shortcut, 2 * model.config.z_channels)


def _start_encoder(model: VQGAN, mean: Tensor, components: Tensor) -> None:
    encoder, count = model.encoder, len(components)
    _pass_through(encoder.conv_in, 1)
    down = _resizing(encoder.down, "downsample")
    for sign, first in ((1, 0), (-1, count)):
        rows = slice(first, first + count)
        nn.init.zeros_(down.weight[rows])
        down.weight[rows, 0, :2, :2, :2] = sign * components.reshape(count, 2, 2, 2)
        down.bias[rows] = -sign * components @ mean
    _join_pairs(encoder.conv_out, count)


def _start_decoder(model: VQGAN, mean: Tensor, components: Tensor) -> None:
    decoder, count = model.decoder, len(components)
    _pass_through(decoder.conv_in, count)
    up = _resizing(decoder.up, "upsample")
    for sign, channel in ((1, 0), (-1, 1)):
        nn.init.zeros_(up.weight[:, channel])
        up.weight[:count, channel] = sign * components.reshape(count, 2, 2, 2)
        up.bias[channel] = sign * mean.mean()  # one for all eight: CTs are not known to prefer a corner
    _join_pairs(decoder.conv_out, 1)


def _resizing(levels: nn.ModuleList, name: str) -> nn.Module:
    """The convolution that changes the size, of the one level that has it."""
    return next(getattr(level, name).conv for level in levels if not isinstance(getattr(level, name), nn.Identity))


def _pass_through(conv: nn.Conv3d, count: int) -> None:
    """The first ``count`` output channels become the first input channels; the others stay random."""
    middle = conv.kernel_size[0] // 2
    count = min(count, conv.in_channels, conv.out_channels)
    nn.init.zeros_(conv.weight[:count])
    nn.init.zeros_(conv.bias[:count])
    for n in range(count):
        conv.weight[n, n, middle, middle, middle] = 1


def _join_pairs(conv: nn.Conv3d, count: int) -> None:
    """Output n = input n - input (n + count)."""
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    for n in range(count):
        conv.weight[n, n, 1, 1, 1], conv.weight[n, n + count, 1, 1, 1] = 1, -1
