"""Where the released checkpoints keep what inference needs (released-model 1.7 and 2).

Strict about those tensors, lenient about the rest of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from LesionDiffusionLib.errors import BundleError
from LesionDiffusionLib.networks.text_tower import TextTowerConfig, build_text_tower
from LesionDiffusionLib.networks.unet import UNet3D, UNetConfig
from LesionDiffusionLib.networks.vqgan import VQGAN, VQGANConfig
from LesionDiffusionLib.released.checkpoint import Checkpoint

UNET_PREFIXES = ("model.diffusion_model.", "model.")  # the longer one first: it begins with the other
EMA_PREFIX, EMA_COUNTERS = "model_ema.", ("decay", "num_updates")
AUTOENCODER_PREFIX, TEXT_PREFIX = "first_stage_model.", "cond_stage_model.model."
FIRST_CONVOLUTION = "input_blocks.0.0.weight"
PRECISIONS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
PROBLEMS_SHOWN = 3

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class ReleasedSizes:
    """Sizes of the networks in the files."""

    lmnet: UNetConfig
    linet: UNetConfig
    autoencoder: VQGANConfig
    text: TextTowerConfig


# released-model 1.2, 1.3, 1.5 and 4.1
RELEASED = ReleasedSizes(
    lmnet=UNetConfig(in_channels=4, out_channels=1, model_channels=16),
    linet=UNetConfig(in_channels=5, out_channels=5, model_channels=128, num_res_blocks=2),
    autoencoder=VQGANConfig(),
    text=TextTowerConfig(),
)


@dataclass(frozen=True, eq=False)
class UNetWeights:
    """A U-Net's weights, twice where the file holds them twice.

    Attributes:
        raw: as the optimizer left them; perhaps empty.
        averaged: their exponential moving average; perhaps empty.
        updates: how often it was updated, where the file says so.
    """

    raw: dict[str, Tensor]
    averaged: dict[str, Tensor]
    updates: int | None

    @property
    def used(self) -> dict[str, Tensor]:
        """What sampling uses: the average where there is one."""
        return self.averaged or self.raw


@dataclass(frozen=True, eq=False)
class ReleasedFile:
    """One of the three published files, as the user gave it.

    Its methods give the tensors of one network under our names. They raise BundleError when one of them is missing, of
    another shape, not a number, or not finite.
    """

    name: str  # LMNet.ckpt, LINet.ckpt or VQ.ckpt, whatever the user's copy is called
    checkpoint: Checkpoint
    sizes: ReleasedSizes

    def unet(self) -> UNetWeights:
        """The denoiser of LMNet.ckpt or LINet.ckpt; a larger network than the expected one is refused, too."""
        config = self.sizes.lmnet if self.name == "LMNet.ckpt" else self.sizes.linet
        expected = _shapes_of(lambda: UNet3D(config))
        averaged = _averaged(self.checkpoint, expected)
        weights = UNetWeights(_raw(self.checkpoint), averaged, _number_of_updates(self.checkpoint))
        self._require(weights.used, expected, "U-Net", more=sorted(set(weights.used) - set(expected)))
        return weights

    def has_autoencoder(self) -> bool:
        """Whether it carries one beside its U-Net."""
        return bool(self.checkpoint.under(AUTOENCODER_PREFIX))

    def autoencoder(self) -> dict[str, Tensor]:
        """The VQ-GAN: all of VQ.ckpt, a part of LINet.ckpt."""
        found = self.checkpoint.under("" if self.name == "VQ.ckpt" else AUTOENCODER_PREFIX)
        return self._require(found, _shapes_of(lambda: VQGAN(self.sizes.autoencoder)), "autoencoder")

    def has_text_tower(self) -> bool:
        """Whether it carries one beside its U-Net."""
        return bool(self.checkpoint.under(TEXT_PREFIX))

    def text_tower(self) -> dict[str, Tensor]:
        """BiomedCLIP's text tower; a ``position_ids`` buffer of older transformers is left behind."""
        expected = _shapes_of(lambda: build_text_tower(self.sizes.text))
        return self._require(self.checkpoint.under(TEXT_PREFIX), expected, "text tower")

    def _require(
        self, found: Mapping[str, Tensor], expected: Shapes, what: str, more: Iterable[str] = ()
    ) -> dict[str, Tensor]:
        """The expected ones among the found tensors; BundleError names the first that do not fit."""
        problems = [text for name, shape in expected.items() if (text := _problem(name, shape, found.get(name)))]
        problems += [f"{name!r:.80} unexpected" for name in more]
        if not problems:
            return {name: found[name] for name in expected}
        rest = f" and {len(problems) - PROBLEMS_SHOWN} more" if len(problems) > PROBLEMS_SHOWN else ""
        kind = recognized(self.checkpoint, self.sizes)
        hint = f"this looks like {kind}" if kind not in (None, self.name) else f"give the published {self.name}"
        raise BundleError(
            f"{self.checkpoint.path} does not hold the {what} of {self.name}: "
            f"{'; '.join(problems[:PROBLEMS_SHOWN])}{rest}; {hint}"
        )


def recognized(checkpoint: Checkpoint, sizes: ReleasedSizes) -> str | None:
    """Which of the published files a checkpoint looks like, by its first convolution; None for none of them."""
    if "encoder.conv_in.weight" in checkpoint.tensors:
        return "VQ.ckpt"
    first = (_averaged(checkpoint, [FIRST_CONVOLUTION]) | _raw(checkpoint)).get(FIRST_CONVOLUTION)
    for name, config in (("LMNet.ckpt", sizes.lmnet), ("LINet.ckpt", sizes.linet)):
        if first is not None and tuple(first.shape[:2]) == (config.model_channels, config.in_channels):
            return name
    return None


def _raw(checkpoint: Checkpoint) -> dict[str, Tensor]:
    return next(filter(None, map(checkpoint.under, UNET_PREFIXES)), {})


def _averaged(checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, Tensor]:
    """The moving average, its names with their dots put back; those that are not among ``names`` stay as they are."""
    dotted = {name.replace(".", ""): name for name in names}
    stored = {name.removeprefix("diffusion_model"): tensor for name, tensor in checkpoint.under(EMA_PREFIX).items()}
    return {dotted.get(name, name): tensor for name, tensor in stored.items() if name not in EMA_COUNTERS}


def _number_of_updates(checkpoint: Checkpoint) -> int | None:
    counter = checkpoint.tensors.get(f"{EMA_PREFIX}num_updates")
    known = counter is not None and counter.dtype in (torch.int32, torch.int64) and counter.numel() == 1
    return int(counter) if known else None


def _problem(name: str, shape: tuple[int, ...], tensor: Tensor | None) -> str | None:
    if tensor is None:
        return f"{name} {shape} missing"
    if tuple(tensor.shape) != shape:
        return f"{name} expected {shape}, found {tuple(tensor.shape)}"
    if tensor.dtype not in PRECISIONS:
        return f"{name} expected floating point, found {tensor.dtype}"
    return None if tensor.isfinite().all() else f"{name} holds NaN or infinity"


def _shapes_of(build: Callable[[], nn.Module]) -> Shapes:
    """Names and shapes of a network's tensors; no memory is taken for them."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}
