"""LINet: inpaints a lesion in the latent space of the VQ-GAN (paper section 2.2; released-model 1.3, 3.5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from LesionDiffusionLib.diffusion.denoiser import Condition, Denoiser
from LesionDiffusionLib.diffusion.known_region import KnownRegion
from LesionDiffusionLib.diffusion.samplers import Noise, SamplerStep
from LesionDiffusionLib.intensity import to_hu, to_network
from LesionDiffusionLib.latent_change import LatentChange
from LesionDiffusionLib.networks.unet import UNetConfig
from LesionDiffusionLib.networks.vqgan import VQGAN
from LesionDiffusionLib.sampling import SamplingOptions, sample_conditionally
from LesionDiffusionLib.windowing import WindowRule


@dataclass(frozen=True, eq=False)
class LatentCodec:
    """CT window <-> latent as the diffusion sees it.

    Attributes:
        autoencoder: the VQ-GAN; encoding does not quantize, decoding does (released-model 1.5).
        shift, scale: per latent channel; the diffusion runs on (z - shift) / scale. Zeros and ones for the released
            networks, the training set's mean and standard deviation for our own.
    """

    autoencoder: VQGAN
    shift: Tensor
    scale: Tensor

    @property
    def downsampling(self) -> int:
        """Voxels along the edge of a latent."""
        return self.autoencoder.config.downsampling

    @torch.no_grad()
    def encode(self, ct_hu: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
        """HU (D, H, W) or (B, D, H, W) -> latent (B, C, D/2, H/2, W/2)."""
        network = torch.from_numpy(to_network(ct_hu)).to(device)
        return self.normalized(self.autoencoder.encode(network.reshape(-1, 1, *network.shape[-3:])))

    def normalized(self, z: Tensor) -> Tensor:
        """The autoencoder's own latent (B, C, d, h, w) -> as the diffusion sees it."""
        return (z - self._channels(self.shift, z)) / self._channels(self.scale, z)

    @torch.no_grad()
    def decode(self, latent: Tensor) -> np.ndarray:
        """Latent (B, C, d, h, w) -> float32 HU (B, 2d, 2h, 2w)."""
        z = latent * self._channels(self.scale, latent) + self._channels(self.shift, latent)
        return to_hu(self.autoencoder.decode(z)[:, 0].float().cpu().numpy())

    @staticmethod
    def _channels(values: Tensor, like: Tensor) -> Tensor:
        return values.to(like).reshape(1, -1, 1, 1, 1)


@dataclass(frozen=True)
class LatentMask:
    """How a lesion mask becomes the network's latent mask and the region that is generated.

    Attributes:
        pooling: "nearest" keeps every second voxel (released-model 6.2); "mean" keeps the share of each latent voxel.
        grow: latent voxels by which the generated region exceeds every touched one; the released networks use 0.
    """

    pooling: str = "nearest"
    grow: int = 0

    def __post_init__(self) -> None:
        if self.pooling not in ("nearest", "mean"):
            raise ValueError(f"LatentMask.pooling must be nearest or mean, got {self.pooling!r}")
        if self.grow < 0:
            raise ValueError(f"LatentMask.grow must not be negative, got {self.grow}")

    def channel(self, mask: Tensor) -> Tensor:
        """Mask (B, 1, D, H, W) of 0 and 1 -> the network's mask channel (B, 1, D/2, H/2, W/2).

        A lesion so thin that every second voxel misses it takes all latents it touches: none of the batch may vanish.
        """
        if self.pooling == "mean":
            return functional.avg_pool3d(mask, 2)
        nearest = functional.interpolate(mask, size=[n // 2 for n in mask.shape[2:]], mode="nearest")
        hit = nearest.amax(dim=(1, 2, 3, 4), keepdim=True) > 0
        return torch.where(hit, nearest, functional.max_pool3d(mask, 2))

    def region(self, mask: Tensor) -> Tensor:
        """Mask (B, 1, D, H, W) -> 1 where latents are generated, 0 where the patient's are kept."""
        touched = (self.channel(mask) > 0).to(mask.dtype)
        if self.grow == 0:
            return touched
        return functional.max_pool3d(touched, 2 * self.grow + 1, stride=1, padding=self.grow)


class Inpainted(NamedTuple):
    """What is diffused, and what is beside it.

    Attributes:
        start: what stays outside the region (B, C, d, h, w): the patient's latents, or no change.
        maps: what the network sees besides z_t: the latent mask (B, 1, d, h, w), and for a network that says what
            changes the patient's latents (B, 1 + C, d, h, w).
    """

    start: Tensor
    maps: Tensor


def input_channels(change: LatentChange | None) -> int:
    """Of a LINet's U-Net: four latents and their mask, and what is known where the network says what changes."""
    return 5 if change is None else 9


def require_one_knee(unet: UNetConfig, change: LatentChange | None) -> None:
    """Raises ValueError where a last layer that says changes draws them together unlike those that are diffused."""
    if unet.replaces_shown and change is not None and unet.change_knee != change.knee:
        raise ValueError(f"expected the knee of change for change_knee, {change.knee:g}, got {unet.change_knee:g}")


def inpainted(known: Tensor, mask_channel: Tensor, change: LatentChange | None) -> Inpainted:
    """The same for training and for sampling.

    Paper equation 4 hides the latents that are replaced, because who learns from patients has none without the lesion.
    Who learns from rendered pairs has, and at inference everybody.
    """
    if change is None:
        return Inpainted(known, mask_channel)
    return Inpainted(torch.zeros_like(known), torch.cat([mask_channel, change.shown(known)], dim=1))


@dataclass(frozen=True, eq=False)
class LINet:
    """
    Attributes:
        denoiser: U-Net of 5 input channels (4 latents, latent mask), or 9 (with the latents it changes); its first 4
            output channels are the prediction.
        codec: the autoencoder.
        window: the grid it works on.
        latent_mask: mask handling.
        unconditional: context of the empty text, or None.
        change: how the network of 9 channels says what changes; None for one that says what is there.
    """

    denoiser: Denoiser
    codec: LatentCodec
    window: WindowRule
    latent_mask: LatentMask = LatentMask()
    unconditional: Tensor | None = None
    change: LatentChange | None = None

    def sample(
        self, known: Tensor, mask: Tensor, context: Tensor, options: SamplingOptions, noise: Noise
    ) -> Iterator[SamplerStep]:
        """Inpaint ``known`` (1, C, d, h, w) where ``mask`` (1, 1, D, H, W) is 1; yields every step.

        The last step's ``x`` is bit-equal to ``known`` outside the region.
        """
        start, maps = inpainted(known, self.latent_mask.channel(mask), self.change)
        keep = KnownRegion(start, self.latent_mask.region(mask))
        steps = sample_conditionally(
            self.denoiser, noise(known), Condition(context, maps), self.unconditional, options, noise, keep
        )
        return steps if self.change is None else (self._onto(known, step) for step in steps)

    def _onto(self, known: Tensor, step: SamplerStep) -> SamplerStep:
        return dataclasses.replace(step, x=self.change.onto(known, step.x), x0=self.change.onto(known, step.x0))
