"""The VQ autoencoder that carries a CT window into a latent space of half the size and back (released-model 1.5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from LesionDiffusionLib.networks.convolution import Conv3d
from LesionDiffusionLib.networks.upsampling import Upsample

SEARCH_ROWS = 16_384  # latent vectors per codebook search: 128 MB of distances with 2048 codes
CODEBOOK_WEIGHT = 0.25  # on the codebook term; the commitment term has weight 1 (the released order)


@dataclass(frozen=True)
class VQGANConfig:
    """Size of a :class:`VQGAN`. Lists (as JSON gives them) are accepted and kept as tuples.

    Attributes:
        channels: at full resolution; times ``channel_multipliers``, one per level.
        sample_depth: levels after which the encoder halves the size.
        num_res_blocks: per encoder level; the decoder has one more.
        norm_groups: of every group norm; 0 for none: then a latent depends on its surroundings alone, and no HU is
            lost with the window's mean.
        upsampling: of the decoder: "nearest" (released), or "transposed", whose voxels paint blocks of their own.
    """

    channels: int = 96
    channel_multipliers: tuple[int, ...] = (1, 1, 1)
    sample_depth: tuple[int, ...] = (0,)
    num_res_blocks: int = 1
    z_channels: int = 4
    codebook_size: int = 2048
    norm_groups: int = 16
    in_channels: int = 1
    out_channels: int = 1
    upsampling: str = "nearest"

    def __post_init__(self) -> None:
        for name in ("channel_multipliers", "sample_depth"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        levels = len(self.channel_multipliers)
        if levels == 0 or min(self.channel_multipliers) < 1:
            raise ValueError(f"VQGANConfig.channel_multipliers must be positive, got {self.channel_multipliers}")
        if any(depth not in range(levels - 1) for depth in self.sample_depth):
            raise ValueError(f"VQGANConfig.sample_depth must lie in 0..{levels - 2}, got {self.sample_depth}")
        if self.upsampling not in UPSAMPLINGS:
            raise ValueError(f"VQGANConfig.upsampling is one of {', '.join(UPSAMPLINGS)}, got {self.upsampling!r}")
        if self.norm_groups < 0 or (self.norm_groups and self.channels % self.norm_groups):
            raise ValueError(
                f"VQGANConfig.channels must be divisible by norm_groups {self.norm_groups}, got {self.channels}"
            )
        for name in ("num_res_blocks", "z_channels", "codebook_size", "in_channels", "out_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"VQGANConfig.{name} must be at least 1, got {getattr(self, name)}")

    @property
    def downsampling(self) -> int:
        """Voxels per latent voxel along each axis."""
        return 2 ** len(self.sample_depth)


class Quantization(NamedTuple):
    """What :class:`Quantizer` returns."""

    latent: Tensor  # (B, C, D, H, W), nearest codewords; its gradient goes straight through to the input
    indices: Tensor  # (B, D, H, W), int64
    codebook_loss: Tensor  # scalar


class Quantizer(nn.Module):
    """Replaces every latent vector by its nearest codeword."""

    def __init__(self, codebook_size: int, z_channels: int) -> None:
        super().__init__()
        self.codebook_weight = CODEBOOK_WEIGHT  # a training with other losses may set its own
        self.embedding = nn.Embedding(codebook_size, z_channels)
        nn.init.uniform_(self.embedding.weight, -1 / codebook_size, 1 / codebook_size)

    def forward(self, z_BCDHW: Tensor) -> Quantization:
        rows_BDHWC = z_BCDHW.movedim(1, -1).float()
        indices_BDHW = self.nearest(rows_BDHWC)
        codes_BDHWC = functional.embedding(indices_BDHW, self.embedding.weight.float())
        commitment = functional.mse_loss(rows_BDHWC, codes_BDHWC.detach())
        codebook = functional.mse_loss(codes_BDHWC, rows_BDHWC.detach())
        straight_through = rows_BDHWC + (codes_BDHWC - rows_BDHWC).detach()
        z_q = straight_through.movedim(-1, 1).to(z_BCDHW.dtype)
        return Quantization(z_q, indices_BDHW, commitment + self.codebook_weight * codebook)

    @torch.no_grad()
    def nearest(self, rows_BDHWC: Tensor) -> Tensor:
        """Indices of the nearest codewords by squared distance, the first on ties -> int64 (B, D, H, W).

        Always in float32: in half precision the expanded square chooses wrong codewords (released-model 9.2.11).
        Searched in pieces, because the whole distance table of a 64 x 64 x 64 latent takes 2 GB.
        """
        codes = self.embedding.weight.float()
        codes_squared = codes.square().sum(dim=1)
        with torch.autocast(rows_BDHWC.device.type, enabled=False):
            pieces = [
                (rows.square().sum(dim=1, keepdim=True) + codes_squared - 2 * rows @ codes.T).argmin(dim=1)
                for rows in rows_BDHWC.flatten(0, -2).split(SEARCH_ROWS)
            ]
        return torch.cat(pieces).view(rows_BDHWC.shape[:-1])


def _activated(norm: nn.Module, x_BCDHW: Tensor) -> Tensor:
    """norm-SiLU; without gradients in place, because at 128^3 every tensor more takes 800 MB of a GPU."""
    h = norm(x_BCDHW)
    return functional.silu(h, inplace=h is not x_BCDHW and not torch.is_grad_enabled())


class ResBlock(nn.Module):
    """norm-SiLU-conv twice, added to the (projected) input."""

    def __init__(self, in_channels: int, out_channels: int, norm_groups: int) -> None:
        super().__init__()
        self.norm1 = _norm(in_channels, norm_groups)
        self.conv1 = _conv3(in_channels, out_channels)
        self.norm2 = _norm(out_channels, norm_groups)
        self.conv2 = _conv3(out_channels, out_channels)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else Conv3d(in_channels, out_channels, 1)

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        h = self.conv1(_activated(self.norm1, x_BCDHW))
        h = _activated(self.norm2, h)  # by the same name, so that what was normalized is let go of
        h = self.conv2(h)
        return self.shortcut(x_BCDHW) + h


class Downsample(nn.Module):
    """n -> floor(n / 2): one zero plane at the high side only, then a strided convolution without padding."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv3d(channels, channels, 3, stride=2)

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        return self.conv(functional.pad(x_BCDHW, (0, 1, 0, 1, 0, 1)))


class TransposedUpsample(nn.Module):
    """k -> 2k: every voxel paints a block of 2 x 2 x 2.

    After "nearest" all eight voxels of a block look alike to the convolution that follows, and it has to learn from
    their neighbors which is which.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose3d(channels, channels, 2, stride=2)

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        return self.conv(x_BCDHW)


UPSAMPLINGS: dict[str, type[nn.Module]] = {"nearest": Upsample, "transposed": TransposedUpsample}


class Level(nn.Module):
    """The residual blocks of one level, then perhaps a change of size; ``up`` is one of UPSAMPLINGS, or None."""

    def __init__(self, widths: Sequence[int], norm_groups: int, down: bool = False, up: str | None = None) -> None:
        super().__init__()
        self.block = nn.Sequential(*(ResBlock(a, b, norm_groups) for a, b in pairwise(widths)))
        self.downsample = Downsample(widths[-1]) if down else nn.Identity()
        self.upsample = UPSAMPLINGS[up](widths[-1]) if up else nn.Identity()

    def __iter__(self) -> Iterator[nn.Module]:
        """Its parts, one by one: who calls them holds no tensor longer than needed."""
        yield from (*self.block, self.downsample, self.upsample)


class Middle(nn.Module):
    """Two residual blocks (the released attention between them is switched off)."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels, norm_groups)
        self.block_2 = ResBlock(channels, channels, norm_groups)

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        return self.block_2(self.block_1(x_BCDHW))


class Encoder(nn.Module):
    """Image -> features of the latent grid with ``z_channels`` channels."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = [config.channels * mult for mult in config.channel_multipliers]
        self.conv_in = _conv3(config.in_channels, config.channels)
        self.down = nn.ModuleList(
            Level(
                [entering] + [width] * config.num_res_blocks,
                config.norm_groups,
                down=level in config.sample_depth,
            )
            for level, (entering, width) in enumerate(pairwise([config.channels, *widths]))
        )
        self.mid = Middle(widths[-1], config.norm_groups)
        self.norm_out = _norm(widths[-1], config.norm_groups)
        self.conv_out = _conv3(widths[-1], config.z_channels)

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        h = self.conv_in(x_BCDHW)
        for part in chain.from_iterable(self.down):
            h = part(h)
        h = self.mid(h)
        return self.conv_out(_activated(self.norm_out, h))


class Decoder(nn.Module):
    """Latent -> image, from the last level to the first. What the encoder halves after level i, level i + 1 doubles."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = [config.channels * mult for mult in config.channel_multipliers]
        self.conv_in = _conv3(config.z_channels, widths[-1])
        self.mid = Middle(widths[-1], config.norm_groups)
        self.up = nn.ModuleList(
            Level(
                [entering] + [width] * (config.num_res_blocks + 1),
                config.norm_groups,
                up=config.upsampling if level - 1 in config.sample_depth else None,
            )
            for level, (width, entering) in enumerate(pairwise([*widths, widths[-1]]))
        )
        self.norm_out = _norm(widths[0], config.norm_groups)
        self.conv_out = _conv3(widths[0], config.out_channels)

    def forward(self, z_BCDHW: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z_BCDHW))
        for part in chain.from_iterable(reversed(self.up)):
            h = part(h)
        return self.conv_out(_activated(self.norm_out, h))


class VQGAN(nn.Module):
    """The autoencoder. Diffusion runs on the un-quantized latent; quantization belongs to decoding.

    All parameter names and shapes are the released ones, so a released state dict loads with ``strict=True``.
    Group-norm statistics run over the whole tensor: a window encodes differently alone and inside a volume.
    """

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = Quantizer(config.codebook_size, config.z_channels)
        self.quant_conv = Conv3d(config.z_channels, config.z_channels, 1)
        self.post_quant_conv = Conv3d(config.z_channels, config.z_channels, 1)

    def encode(self, x_BCDHW: Tensor) -> Tensor:
        """Image (B, in_channels, D, H, W) -> un-quantized latent (B, z_channels, D // 2, H // 2, W // 2)."""
        channels, least, shape = self.config.in_channels, self.config.downsampling, tuple(x_BCDHW.shape)
        if len(shape) != 5 or shape[1] != channels or min(shape[2:]) < least:
            raise ValueError(f"VQGAN.encode expects (B, {channels}, D, H, W) with sizes >= {least}, got {shape}")
        return self.quant_conv(self.encoder(x_BCDHW))

    def decode(self, z_BCDHW: Tensor, quantize: bool = True) -> Tensor:
        """Latent -> image of twice its size, so an odd image comes back one voxel shorter at the high end."""
        if quantize:
            z_BCDHW = self.quantize(z_BCDHW).latent
        return self.decoder(self.post_quant_conv(z_BCDHW))

    def forward(self, x_BCDHW: Tensor) -> tuple[Tensor, Tensor]:
        """Image -> (reconstruction through the codebook, codebook loss), as training needs them."""
        quantization = self.quantize(self.encode(x_BCDHW))
        return self.decode(quantization.latent, quantize=False), quantization.codebook_loss


def _norm(channels: int, groups: int) -> nn.Module:
    return nn.GroupNorm(groups, channels, eps=1e-6) if groups else nn.Identity()


def _conv3(in_channels: int, out_channels: int) -> nn.Conv3d:
    return Conv3d(in_channels, out_channels, 3, padding=1)
