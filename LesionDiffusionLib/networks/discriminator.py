"""Patch discriminators of the VQ-GAN's training, in two and three dimensions (released-model 1.6)."""

from __future__ import annotations

from torch import Tensor, nn

from LesionDiffusionLib.networks.convolution import Conv3d

WIDTHS = (64, 128, 256, 512)
KERNEL, PADDING, SLOPE = 4, 2, 0.2
GROUPS = 32


class PatchDiscriminator(nn.Module):
    """Image (B, 1, ...) -> one logit per patch: positive where it looks real.

    Five convolutions, the first three with stride 2; released parameter names and shapes. ``norm`` "batch" is the
    released one; "group" does not depend on the other samples of the batch.
    """

    def __init__(self, dims: int, norm: str = "batch") -> None:
        super().__init__()
        self.dims = dims
        conv = {2: nn.Conv2d, 3: Conv3d}[dims]
        self.model0 = nn.Sequential(conv(1, WIDTHS[0], KERNEL, 2, PADDING), nn.LeakyReLU(SLOPE))
        for n, stride in ((1, 2), (2, 2), (3, 1)):
            layers = (
                conv(WIDTHS[n - 1], WIDTHS[n], KERNEL, stride, PADDING),
                _norm(dims, WIDTHS[n], norm),
                nn.LeakyReLU(SLOPE),
            )
            setattr(self, f"model{n}", nn.Sequential(*layers))
        self.model4 = nn.Sequential(conv(WIDTHS[-1], 1, KERNEL, 1, PADDING))
        self.apply(_initialize)

    def forward(self, x: Tensor) -> Tensor:
        for n in range(5):
            x = getattr(self, f"model{n}")(x)
        return x


def _norm(dims: int, channels: int, norm: str) -> nn.Module:
    if norm == "group":
        return nn.GroupNorm(GROUPS, channels)
    return {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims](channels)


def _initialize(layer: nn.Module) -> None:
    if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)):
        nn.init.normal_(layer.weight, 1.0, 0.02)
