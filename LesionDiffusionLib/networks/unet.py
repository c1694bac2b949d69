"""The denoising 3-D U-Net of LMNet and LINet, sized by a config (released-model 1.1 to 1.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from LesionDiffusionLib.networks.attention import SpatialTransformer
from LesionDiffusionLib.networks.blocks import (
    Downsample,
    ResBlock,
    group_norm,
    timestep_embedding,
    zero_initialized,
)
from LesionDiffusionLib.networks.convolution import Conv3d
from LesionDiffusionLib.networks.replacement import Replacement
from LesionDiffusionLib.networks.upsampling import Upsample


@dataclass(frozen=True)
class UNetConfig:
    """Size of a :class:`UNet3D`. Lists (as JSON gives them) are accepted and kept as tuples."""

    in_channels: int
    out_channels: int
    model_channels: int  # width of the finest level
    channel_mult: tuple[int, ...] = (1, 2, 4)  # width of each level; every next level halves the size
    num_res_blocks: int = 1  # per level on the way down; one more on the way up
    attention_resolutions: tuple[int, ...] = (4,)  # downsampling factors at which transformers stand
    head_channels: int = 32
    context_dim: int = 512
    skip_context: bool = False  # throw the context away: the released LINet test configuration (released-model 1.4)
    norm_groups: int = 32  # fewer for narrow networks: the timestep is lost where a group is a single channel
    context_in_embedding: bool = False  # the mean text vector also joins the time embedding; the released ones do not
    embedding_modulates: bool = False  # the embedding scales and shifts features; in the released ones it is added
    replaces_shown: bool = False  # for inputs (x, map, shown): a last layer that says changes, see `Replacement`
    change_knee: float = 1.0  # of the `LatentChange` that such a layer says

    def __post_init__(self) -> None:
        for name in ("channel_mult", "attention_resolutions"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_sizes()
        self._check_attention()

    @property
    def size_divisor(self) -> int:
        """Every spatial size must be a multiple of this."""
        return 2 ** (len(self.channel_mult) - 1)

    @property
    def attention_channels(self) -> tuple[int, ...]:
        """Widths of the transformers; the last level's belongs to the middle block."""
        widths = [self.model_channels * mult for mult in self.channel_mult]
        with_attention = [width for level, width in enumerate(widths) if 2**level in self.attention_resolutions]
        return (*with_attention, widths[-1])

    def _check_sizes(self) -> None:
        if not self.change_knee > 0:
            raise ValueError(f"UNetConfig.change_knee must be positive, got {self.change_knee:g}")
        names = ("in_channels", "out_channels", "model_channels", "num_res_blocks", "context_dim")
        names += ("head_channels", "norm_groups")
        sizes = {name: getattr(self, name) for name in names}
        sizes |= {f"channel_mult[{level}]": mult for level, mult in enumerate(self.channel_mult)}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"UNetConfig.{name} must be at least 1, got {value}")
        if not self.channel_mult:
            raise ValueError("UNetConfig.channel_mult needs at least one level, got none")
        if self.replaces_shown and self.in_channels != 2 * self.out_channels + 1:
            raise ValueError(
                f"UNetConfig.replaces_shown needs {2 * self.out_channels + 1} input channels, got {self.in_channels}"
            )
        if self.model_channels % 2:
            raise ValueError(f"UNetConfig.model_channels must be even (time embedding), got {self.model_channels}")

    def _check_attention(self) -> None:
        for width in self.attention_channels:
            if width % self.norm_groups or width % self.head_channels:
                raise ValueError(
                    f"UNetConfig: a transformer needs a width divisible by norm_groups {self.norm_groups} and by "
                    f"head_channels {self.head_channels}, got {width}; change model_channels or channel_mult"
                )
            if self.skip_context and width != self.context_dim:
                raise ValueError(
                    f"UNetConfig.skip_context needs transformers as wide as context_dim {self.context_dim}, got {width}"
                )


class Stage(nn.Sequential):
    """Layers run one after the other, each given what it takes besides the features."""

    def forward(self, x_BCDHW: Tensor, embedding_BC: Tensor, context_BNC: Tensor | None) -> Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x_BCDHW = layer(x_BCDHW, embedding_BC)
            elif isinstance(layer, SpatialTransformer):
                x_BCDHW = layer(x_BCDHW, context_BNC)
            else:
                x_BCDHW = layer(x_BCDHW)
        return x_BCDHW


class UNet3D(nn.Module):
    """Noisy tensor, timestep and context in, one output of the same spatial size out.

    All parameter names and shapes are the released ones, so a released state dict loads with ``strict=True``. Ours are
    ``context_in_embedding`` and ``embedding_modulates``: a small network trained briefly learns to follow its text from
    the first layer on, where the transformers alone need long to be heard; and ``replaces_shown``.
    ``use_checkpoint`` trades time for memory in training and never changes a value.
    """

    def __init__(self, config: UNetConfig, use_checkpoint: bool = False) -> None:
        super().__init__()
        self.config = config
        self.use_checkpoint = use_checkpoint
        width = config.model_channels
        self.time_embed = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        self.context_linear_projection = nn.Linear(config.context_dim, config.context_dim, bias=False)
        if config.context_in_embedding:
            self.context_embed = nn.Sequential(
                nn.Linear(config.context_dim, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width)
            )
        self.input_blocks, skip_channels = self._make_input_blocks()
        top = skip_channels[-1]
        self.middle_block = Stage(self._res(top, top), self._transformer(top), self._res(top, top))
        self.output_blocks = self._make_output_blocks(skip_channels)
        said_channels = config.out_channels + Replacement.OUTPUTS * config.replaces_shown
        self.out = nn.Sequential(
            group_norm(width, config.norm_groups),
            nn.SiLU(),
            zero_initialized(Conv3d(width, said_channels, 3, padding=1)),
        )
        self.replacement = Replacement(config.out_channels, config.change_knee) if config.replaces_shown else None

    def forward(self, x_BCDHW: Tensor, timesteps_B: Tensor, context_BNC: Tensor | None = None) -> Tensor:
        """Predict from ``x_BCDHW`` (in_channels) at the raw 0-based timesteps of the training chain.

        ``context_BNC`` holds one ``context_dim``-vector per text entry; any number of entries, the same for the whole
        batch. ``None`` needs transformers as wide as the context (released-model 1.4). The computation runs in the
        parameters' dtype, whatever the dtype of ``x_BCDHW``; see :meth:`in_precision`. Raises ``ValueError`` for
        shapes that do not fit.
        """
        self._check_input(x_BCDHW, context_BNC)
        dtype = self.time_embed[0].weight.dtype
        embedding_BC = self.time_embed(timestep_embedding(timesteps_B, self.config.model_channels).to(dtype))
        if self.config.context_in_embedding:
            embedding_BC = embedding_BC + self.context_embed(context_BNC.to(dtype).mean(dim=1))
        context_BNC = self._project_context(context_BNC, dtype)
        h = x_BCDHW.to(dtype)
        skips = []
        for stage in self.input_blocks:
            h = self._run(stage, h, embedding_BC, context_BNC)
            skips.append(h)
        h = self._run(self.middle_block, h, embedding_BC, context_BNC)
        for stage in self.output_blocks:
            h = self._run(stage, torch.cat([h, skips.pop()], dim=1), embedding_BC, context_BNC)
        said = self.out(h.to(self.out[0].weight.dtype))
        if self.replacement is None:
            return said
        count = self.config.out_channels
        return self.replacement(said, *x_BCDHW[:, count:].split([1, count], dim=1))

    def in_precision(self, dtype: torch.dtype) -> UNet3D:
        """Compute in ``dtype`` from now on; returns itself.

        The last layers stay in float32, since a sampler divides what they say by little at noisy timesteps. (Group and
        layer norms gather their statistics in float32 in any case.)
        """
        self.to(dtype)
        for last in filter(None, (self.out, self.replacement)):
            last.float()
        return self

    def _make_input_blocks(self) -> tuple[nn.ModuleList, list[int]]:
        """The way down, and the channels of every skip connection in order."""
        config, channels = self.config, self.config.model_channels
        stages = [Stage(Conv3d(config.in_channels, channels, 3, padding=1))]
        skip_channels = [channels]
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                width = mult * config.model_channels
                stages.append(Stage(self._res(channels, width), *self._attention_at(level, width)))
                channels = width
                skip_channels.append(channels)
            if level < len(config.channel_mult) - 1:
                stages.append(Stage(Downsample(channels)))
                skip_channels.append(channels)
        return nn.ModuleList(stages), skip_channels

    def _make_output_blocks(self, skip_channels: list[int]) -> nn.ModuleList:
        """The way up; every stage takes one skip connection, the last one first."""
        config, channels, remaining = self.config, skip_channels[-1], list(skip_channels)
        stages = []
        for level in reversed(range(len(config.channel_mult))):
            width = config.channel_mult[level] * config.model_channels
            for block in range(config.num_res_blocks + 1):
                layers = [self._res(channels + remaining.pop(), width), *self._attention_at(level, width)]
                if level > 0 and block == config.num_res_blocks:
                    layers.append(Upsample(width))
                stages.append(Stage(*layers))
                channels = width
        return nn.ModuleList(stages)

    def _res(self, in_channels: int, out_channels: int) -> ResBlock:
        config = self.config
        embedding_width = 4 * config.model_channels
        return ResBlock(in_channels, out_channels, embedding_width, config.norm_groups, config.embedding_modulates)

    def _transformer(self, channels: int) -> SpatialTransformer:
        config = self.config
        return SpatialTransformer(channels, config.context_dim, config.head_channels, config.norm_groups)

    def _attention_at(self, level: int, channels: int) -> list[SpatialTransformer]:
        return [self._transformer(channels)] if 2**level in self.config.attention_resolutions else []

    def _run(self, stage: Stage, h: Tensor, embedding_BC: Tensor, context_BNC: Tensor | None) -> Tensor:
        if self.use_checkpoint and torch.is_grad_enabled():
            return checkpoint(stage, h, embedding_BC, context_BNC, use_reentrant=False)
        return stage(h, embedding_BC, context_BNC)

    def _project_context(self, context_BNC: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        if context_BNC is None or self.config.skip_context:
            return None
        return self.context_linear_projection(context_BNC.to(dtype))

    def _check_input(self, x_BCDHW: Tensor, context_BNC: Tensor | None) -> None:
        config, shape = self.config, tuple(x_BCDHW.shape)
        if len(shape) != 5 or shape[1] != config.in_channels:
            raise ValueError(f"UNet3D expects (B, {config.in_channels}, D, H, W), got {shape}")
        if any(size % config.size_divisor for size in shape[2:]):
            raise ValueError(f"UNet3D needs sizes divisible by {config.size_divisor}, got {shape[2:]}; pad the input")
        expected = f"a context ({shape[0]}, N, {config.context_dim})"
        optional = not config.context_in_embedding and set(config.attention_channels) == {config.context_dim}
        if context_BNC is None and not optional:
            raise ValueError(f"UNet3D needs {expected}, got None")
        if context_BNC is not None and context_BNC.shape[::2] != (shape[0], config.context_dim):
            raise ValueError(f"UNet3D expects {expected}, got {tuple(context_BNC.shape)}")
