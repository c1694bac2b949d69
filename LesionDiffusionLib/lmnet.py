"""LMNet draws a lesion mask from organ map, target organ, box and text (paper 2.1; released-model 1.2, 5.6)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from LesionDiffusionLib.diffusion.denoiser import Condition, Denoiser
from LesionDiffusionLib.diffusion.samplers import Noise, SamplerStep
from LesionDiffusionLib.sampling import SamplingOptions, sample_conditionally
from LesionDiffusionLib.windowing import WindowRule

LARGEST_ORGAN_NUMBER = 104  # TotalSegmentator v1; scales the organ map's channel to [0, 1]


@dataclass(frozen=True, eq=False)
class LMNet:
    """
    Attributes:
        denoiser: U-Net of 4 input channels (noisy mask, organ map, target organ, box) and 1 output channel.
        window: the grid it works on.
        unconditional: context of the empty text, or None.
    """

    denoiser: Denoiser
    window: WindowRule
    unconditional: Tensor | None = None

    def sample(self, maps: Tensor, context: Tensor, options: SamplingOptions, noise: Noise) -> Iterator[SamplerStep]:
        """Sample a mask for ``maps`` (1, 3, D, H, W) and ``context`` (1, N, C): (1, 1, D, H, W), about 0 outside and
        1 inside the lesion. Yields every step."""
        x_T = noise(maps[:, :1])
        condition = Condition(context, maps)
        return sample_conditionally(self.denoiser, x_T, condition, self.unconditional, options, noise)


def condition_maps(organ_numbers: np.ndarray, organ: np.ndarray, box: np.ndarray) -> Tensor:
    """The three channels behind the noisy mask: float32 (1, 3, D, H, W).

    Args:
        organ_numbers: TotalSegmentator v1 numbers on the window, (D, H, W); the channel is the number over 104.
        organ: bool, the target organ.
        box: bool, the filled lesion box.
    """
    maps = np.stack([organ_numbers.astype(np.float32) / LARGEST_ORGAN_NUMBER, organ, box]).astype(np.float32)
    return torch.from_numpy(maps)[None]
