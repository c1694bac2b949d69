"""Attention over the voxels of a feature map and over the text (released-model 1.1, "Spatial transformer")."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from LesionDiffusionLib.networks.blocks import zero_initialized
from LesionDiffusionLib.networks.convolution import Conv3d


class Attention(nn.Module):
    """Multi-head attention of ``channels``-wide queries on ``source_channels``-wide keys and values, without a mask."""

    def __init__(self, channels: int, source_channels: int, head_channels: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(source_channels, channels, bias=False)
        self.to_v = nn.Linear(source_channels, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x_BNC: Tensor, source_BMC: Tensor) -> Tensor:
        queries, keys, values = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projected in (self.to_q(x_BNC), self.to_k(source_BMC), self.to_v(source_BMC))
        )
        # A full-size mask window has 23,104 tokens: the attention matrix must never exist as a whole.
        mixed_BHNC = functional.scaled_dot_product_attention(queries, keys, values)
        return self.to_out(mixed_BHNC.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers around an exact GELU; not gated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The nesting and the empty place keep the released names net.0.0 and net.2.
        self.net = nn.Sequential(
            nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU()),
            nn.Identity(),
            nn.Linear(4 * channels, channels),
        )

    def forward(self, x_BNC: Tensor) -> Tensor:
        return self.net(x_BNC)


class TransformerBlock(nn.Module):
    """Self-attention, attention on the context, feed-forward; each behind a layer norm and added to its input."""

    def __init__(self, channels: int, context_channels: int, head_channels: int) -> None:
        super().__init__()
        self.attn1 = Attention(channels, channels, head_channels)
        self.ff = FeedForward(channels)
        self.attn2 = Attention(channels, context_channels, head_channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)

    def forward(self, x_BNC: Tensor, context_BMC: Tensor | None) -> Tensor:
        """Without a context ``attn2`` attends to the normalized tokens themselves."""
        normalized = self.norm1(x_BNC)
        x_BNC = x_BNC + self.attn1(normalized, normalized)
        normalized = self.norm2(x_BNC)
        x_BNC = x_BNC + self.attn2(normalized, normalized if context_BMC is None else context_BMC)
        return x_BNC + self.ff(self.norm3(x_BNC))


class SpatialTransformer(nn.Module):
    """One transformer block over all voxels of a feature map, in (z, y, x) order, added to the map."""

    def __init__(self, channels: int, context_channels: int, head_channels: int, norm_groups: int = 32) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in = Conv3d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, context_channels, head_channels)])
        self.proj_out = zero_initialized(Conv3d(channels, channels, 1))

    def forward(self, x_BCDHW: Tensor, context_BMC: Tensor | None) -> Tensor:
        tokens_BNC = self.proj_in(self.norm(x_BCDHW)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens_BNC = block(tokens_BNC, context_BMC)
        return x_BCDHW + self.proj_out(tokens_BNC.transpose(1, 2).unflatten(2, x_BCDHW.shape[2:]))
