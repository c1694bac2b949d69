"""Building blocks of the denoising 3-D U-Net, with the released parameter names (released-model 1.1)."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from LesionDiffusionLib.networks.convolution import Conv3d

Module = TypeVar("Module", bound=nn.Module)


def zero_initialized(module: Module) -> Module:
    """The same module with all parameters zero, so that a residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def group_norm(channels: int, groups: int = 32) -> nn.GroupNorm:
    """``groups`` where they divide the channels; otherwise every channel is its own group (released: 16 and 48).

    A channel that is its own group loses every constant added to it, the time embedding among them.
    """
    return nn.GroupNorm(groups if channels % groups == 0 else channels, channels, eps=1e-5)


def timestep_embedding(timesteps_B: Tensor, width: int) -> Tensor:
    """Sinusoids of the raw timestep, cosines first -> float32 (B, width). ``width`` must be even."""
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps_B.device) / half
    frequencies = torch.exp(-math.log(10_000) * exponents)
    angles = timesteps_B.float()[:, None] * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ResBlock(nn.Module):
    """norm-SiLU-conv, plus the projected time embedding, norm-SiLU-conv, plus the (projected) input.

    With ``modulated`` the embedding scales and shifts the channels after the second norm instead (adaptive group norm,
    Dhariwal and Nichol 2021): a word can then strengthen or reverse a feature, not only add to it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_width: int,
        norm_groups: int = 32,
        modulated: bool = False,
    ) -> None:
        super().__init__()
        self.modulated = modulated
        self.in_layers = nn.Sequential(
            group_norm(in_channels, norm_groups), nn.SiLU(), Conv3d(in_channels, out_channels, 3, padding=1)
        )
        embedded = 2 * out_channels if modulated else out_channels
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding_width, embedded))
        self.out_layers = nn.Sequential(
            group_norm(out_channels, norm_groups),
            nn.SiLU(),
            nn.Identity(),  # the place of the released dropout, whose rate is 0: keeps the convolution's index 3
            zero_initialized(Conv3d(out_channels, out_channels, 3, padding=1)),
        )
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else Conv3d(in_channels, out_channels, 1)

    def forward(self, x_BCDHW: Tensor, embedding_BC: Tensor) -> Tensor:
        h, embedded = self.in_layers(x_BCDHW), self.emb_layers(embedding_BC)[:, :, None, None, None]
        if self.modulated:
            scale, shift = embedded.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + embedded)
        return self.skip_connection(x_BCDHW) + h


class Downsample(nn.Module):
    """Halves every axis with a strided convolution; the channels stay."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = Conv3d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        return self.op(x_BCDHW)
