"""Samplers: a loop around the denoiser. Each is a generator that yields every step, so that progress, a preview and
cancelling come for free: stop asking and nothing more is computed.

A sampler is given a ``denoiser(x_t, t)`` whose condition is already bound (``functools.partial``), the start x_T, and
the path of :mod:`LesionDiffusionLib.diffusion.schedule`. ``constrain`` is applied to x before every step and after the
last (see :class:`LesionDiffusionLib.diffusion.known_region.KnownRegion`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from LesionDiffusionLib.diffusion.denoiser import Prediction
from LesionDiffusionLib.diffusion.schedule import SamplingPath

BoundDenoiser = Callable[[Tensor, int], Prediction]
Noise = Callable[[Tensor], Tensor]  # standard normal, of the argument's shape, dtype and device
Constraint = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class SamplerStep:
    """State after one step. ``x`` of the last step is the sample."""

    index: int  # 0-based
    total: int
    timestep: int  # at which the denoiser was asked
    x: Tensor
    x0: Tensor  # the denoiser's idea of the clean tensor, for previews


class SampleNoise:
    """Standard normal noise with one CPU generator a sample.

    The same seed gives the same noise in any batch, at any place in it, and on any device.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = tuple(generators)

    @classmethod
    def from_seeds(cls, seeds: Iterable[int]) -> SampleNoise:
        """One fresh generator a seed."""
        return cls([torch.Generator().manual_seed(seed) for seed in seeds])

    def state(self) -> list[Tensor]:
        """Where the generators stand."""
        return [generator.get_state() for generator in self.generators]

    def restore(self, state: list[Tensor]) -> None:
        """Go back to a ``state``: the same draws follow."""
        for generator, own in zip(self.generators, state, strict=True):
            generator.set_state(own)

    def __call__(self, like: Tensor) -> Tensor:
        """The next draw of every sample, shaped like ``like`` (B, ...)."""
        if len(like) != len(self.generators):
            raise ValueError(f"SampleNoise has {len(self.generators)} generators for a batch of {len(like)} samples")
        draws = [torch.randn(like.shape[1:], generator=generator, dtype=torch.float32) for generator in self.generators]
        drawn = torch.stack(draws)
        if like.is_cuda:  # from pinned memory it is fetched by the GPU in its turn, and nobody waits
            drawn = drawn.pin_memory()
        return drawn.to(like, non_blocking=True)


def unconstrained(x: Tensor) -> Tensor:
    """The constraint that allows everything."""
    return x


def ddim_std(level: float, next_level: float, eta: float) -> float:
    """Standard deviation of the noise added between two alpha-bars (Song et al. 2021, equation 16)."""
    return eta * math.sqrt((1 - next_level) / (1 - level) * (1 - level / next_level))


@torch.no_grad()
def ddim(
    denoiser: BoundDenoiser,
    x_T: Tensor,
    path: SamplingPath,
    eta: float = 0.0,
    noise: Noise | None = None,
    constrain: Constraint = unconstrained,
) -> Iterator[SamplerStep]:
    """DDIM (Song et al. 2021): deterministic for ``eta`` 0 (the paper), ancestral sampling for ``eta`` 1.

    The released inference is ``eta=1`` along ``released_path(schedule, 200)``. With ``eta`` above 0 ``noise`` is drawn
    once a step, the last one included; on a path to alpha-bar = 1 the last draw has no weight.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"DDIM eta must lie in 0..1, got {eta}")
    if eta > 0 and noise is None:
        raise ValueError(f"DDIM with eta {eta} draws noise at every step; pass noise, for instance a SampleNoise")
    x = constrain(x_T)
    for index, (t, level, next_level) in enumerate(path):
        x0, eps = denoiser(x, t)
        std = ddim_std(level, next_level, eta)
        x = math.sqrt(next_level) * x0 + math.sqrt(max(1 - next_level - std**2, 0.0)) * eps
        if eta > 0:
            x = x + std * noise(x)
        x = constrain(x)
        yield SamplerStep(index, len(path), t, x, x0)


@torch.no_grad()
def dpmpp_2m(
    denoiser: BoundDenoiser, x_T: Tensor, path: SamplingPath, constrain: Constraint = unconstrained
) -> Iterator[SamplerStep]:
    """DPM-Solver++(2M) (Lu et al. 2022): deterministic, second order from the predictions of two steps.

    The first step is of first order, having no earlier prediction, and so is a last step to alpha-bar = 1, where the
    step in log-SNR is infinite.
    """
    x, previous_x0, previous_width = constrain(x_T), x_T, 0.0
    for index, (t, level, next_level) in enumerate(path):
        x0 = denoiser(x, t).x0
        ratio = math.sqrt((1 - next_level) / (1 - level))  # sigma' / sigma
        decay = ratio * math.sqrt(level / next_level)  # exp(-h), h the step in log(alpha / sigma)
        width = -math.log(decay) if decay > 0 else math.inf
        estimate = x0
        if previous_width > 0 and width < math.inf:
            estimate = x0 + width / (2 * previous_width) * (x0 - previous_x0)
        x = constrain(ratio * x + math.sqrt(next_level) * (1 - decay) * estimate)
        previous_x0, previous_width = x0, width
        yield SamplerStep(index, len(path), t, x, x0)


def last(steps: Iterable[SamplerStep]) -> Tensor:
    """Run a sampler to its end -> the sample."""
    return deque(steps, maxlen=1).pop().x
