"""Doubling by nearest neighbor and the convolution behind it, which can be computed as one.

Of the 27 weights that reach an output voxel several meet the same input voxel. Added up beforehand they are eight, and
which eight depends only on whether the output voxel is the first or the second of its pair along each axis.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional

from LesionDiffusionLib.networks.convolution import Conv3d, conv3d, shortcuts_allowed

# (first or second of a pair, input voxel, weight): the first voxel of the pair made of x[i] sees x[i - 1] once and x[i]
# twice, the second sees x[i] twice and x[i + 1] once.
FOLD = (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1)))


class Upsample(nn.Module):
    """Doubles every axis by nearest neighbor, then a convolution; the channels stay.

    Trained and released as two steps. `fold_upsampling` makes them one where nothing is learned.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv3d(channels, channels, 3, padding=1)
        self.register_buffer("folded", None, persistent=False)

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        if self.folded is not None and shortcuts_allowed():
            return doubled(x_BCDHW, self.folded, self.conv.bias)
        return self.conv(functional.interpolate(x_BCDHW, scale_factor=2.0, mode="nearest"))


def fold_upsampling(network: nn.Module) -> None:
    """Let every `Upsample` compute its two steps as one, with the weights it has now: the same values up to rounding,
    for 8 of 27 products. Only without gradients; weights that change later need another call."""
    for layer in network.modules():
        if isinstance(layer, Upsample):
            layer.folded = folded_kernel(layer.conv.weight.detach())


def folded_kernel(weight_OI333: Tensor) -> Tensor:
    """Weights (8 O, I, 2, 2, 2), the eight output voxels of an input voxel one after the other, z slowest."""
    fold = torch.tensor(FOLD, dtype=torch.float32, device=weight_OI333.device)
    kernel = weight_OI333.float()
    for _ in range(3):  # z, y, x in turn: the axis in front of those already folded goes, two come at the end
        kernel = torch.tensordot(kernel, fold, dims=([2], [2]))
    kernel = kernel.permute(2, 4, 6, 0, 1, 3, 5, 7)
    return kernel.reshape(-1, *kernel.shape[4:]).to(weight_OI333.dtype)


def doubled(x_BCDHW: Tensor, folded: Tensor, bias: Tensor) -> Tensor:
    """Nearest-neighbor doubling and convolution of ``x_BCDHW`` in one, see `folded_kernel`: (B, O, 2 D, 2 H, 2 W)."""
    batch, _, *size = x_BCDHW.shape
    # Between D + 2 padded voxels lie D + 1 pairs: the first voxel of pair i takes pair i, the second pair i + 1.
    pairs = conv3d(functional.pad(x_BCDHW, (1,) * 6), folded, bias.repeat(8))
    pairs = pairs.unflatten(1, (2, 2, 2, -1))
    depth, height, width = size
    output = pairs.new_empty(batch, pairs.shape[4], depth, 2, height, 2, width, 2)
    for z, y, x in product((0, 1), repeat=3):
        output[:, :, :, z, :, y, :, x] = pairs[:, z, y, x, :, z : z + depth, y : y + height, x : x + width]
    return output.flatten(2, 3).flatten(3, 4).flatten(4, 5)
