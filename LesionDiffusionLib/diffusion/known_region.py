"""Inpainting: what is known stays, only the region is generated."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class KnownRegion:
    """Re-imposes the clean known tensor outside the region, as a ``constrain`` of the samplers.

    Unlike in RePaint the known part is never noised: the network is trained on a noisy region in clean surroundings
    (paper, equation 4; released-model 3.5). Samplers call it before every step and once after the last, so the result
    is bit-equal to ``known`` outside the region.
    """

    known: Tensor  # (B, C, D, H, W)
    region: Tensor  # (B, 1, D, H, W), 1 where the sampler generates, 0 where ``known`` stays

    def __post_init__(self) -> None:
        if self.region.shape != (self.known.shape[0], 1, *self.known.shape[2:]):
            raise ValueError(
                f"KnownRegion expects a region {(self.known.shape[0], 1, *self.known.shape[2:])} "
                f"for known {tuple(self.known.shape)}, got {tuple(self.region.shape)}"
            )
        if ((self.region != 0) & (self.region != 1)).any():
            raise ValueError("KnownRegion expects a region of 0 and 1 only; threshold it first")

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` inside the region, ``known`` elsewhere."""
        return self.known.to(x).where(self.region.to(x.device) == 0, x)
