"""How a user wants to sample, and the one way both networks do it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from LesionDiffusionLib.diffusion.denoiser import Condition, Denoiser
from LesionDiffusionLib.diffusion.guidance import ClassifierFreeGuidance
from LesionDiffusionLib.diffusion.samplers import Constraint, Noise, SamplerStep, ddim, dpmpp_2m, unconstrained
from LesionDiffusionLib.diffusion.schedule import clean_path, even_path, released_path
from LesionDiffusionLib.errors import SettingsError

SAMPLERS = ("dpmpp", "ddim", "released")


@dataclass(frozen=True)
class SamplingOptions:
    """
    Attributes:
        sampler: "dpmpp" (DPM-Solver++ 2M), "ddim" (eta 0, the paper) or "released" (DDIM with eta 1 along the released
            timesteps, which ends with a trace of noise).
        steps: number of network evaluations along the path.
        guidance: classifier-free guidance scale; 1 is off.
        guidance_interval: lowest and highest guided timestep, or None for all.
        lowest_timestep: the last one at which the network is asked, of evenly spaced ones; its clean tensor is the
            sample. 0 goes all the way, evenly in log-SNR. For networks that predict the clean tensor: without a
            shortcut from input to output they copy badly, and where little noise is left a small one undoes its work.
    """

    sampler: str = "dpmpp"
    steps: int = 20
    guidance: float = 1.0
    guidance_interval: tuple[int, int] | None = None
    lowest_timestep: int = 0

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise SettingsError(f"sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        if not 1 <= self.steps <= 1000:
            raise SettingsError(f"steps must lie in 1..1000, got {self.steps}")
        if self.sampler == "released" and (1000 % self.steps or self.steps == 1000):
            raise SettingsError(
                f"the released sampler takes steps that divide 1000, such as 200 or 50, got {self.steps}"
            )
        if not 0 <= self.guidance <= 30:
            raise SettingsError(f"guidance must lie in 0..30, got {self.guidance}")
        if not 0 <= self.lowest_timestep <= 998:
            raise SettingsError(f"lowest_timestep must lie in 0..998, got {self.lowest_timestep}")
        interval = self.guidance_interval
        if interval is not None and not (len(interval) == 2 and 0 <= interval[0] <= interval[1]):
            raise SettingsError(f"guidance_interval must be two timesteps, low and high, got {interval}")


def check_guidance(options: SamplingOptions, guidable: bool) -> None:
    """SettingsError when guidance is asked of a network that was trained without an empty text."""
    if options.guidance != 1 and not guidable:
        raise SettingsError(
            f"expected guidance 1, because this model was trained without an empty text, got {options.guidance:g}; "
            "leave guidance out or choose another bundle"
        )


def sample_conditionally(
    denoiser: Denoiser,
    x_T: Tensor,
    condition: Condition,
    unconditional: Tensor | None,
    options: SamplingOptions,
    noise: Noise,
    constrain: Constraint = unconstrained,
) -> Iterator[SamplerStep]:
    """Sample from x_T (B, C, D, H, W); yields every step, the last one holds the sample.

    Args:
        denoiser: network, schedule and parametrization.
        x_T: standard normal start.
        condition: text context and maps.
        unconditional: context (1, 1, C) of the empty text, or None for a network trained without one.
        options: sampler, steps, guidance.
        noise: source of the stochastic sampler's noise.
        constrain: applied to x before every step and after the last.

    Raises:
        SettingsError: guidance for a network trained without an empty text.
    """
    check_guidance(options, unconditional is not None)
    bound = denoiser
    if options.guidance != 1:
        bound = ClassifierFreeGuidance(denoiser, unconditional, options.guidance, options.guidance_interval)
    predict = partial(bound, condition=condition)
    if options.sampler == "released":
        path = released_path(denoiser.schedule, options.steps)
        return ddim(predict, x_T, path, eta=1.0, noise=noise, constrain=constrain)
    if options.lowest_timestep:
        path = even_path(denoiser.schedule, options.steps, options.lowest_timestep)
    else:
        path = clean_path(denoiser.schedule, options.steps)
    if options.sampler == "ddim":
        return ddim(predict, x_T, path, constrain=constrain)
    return dpmpp_2m(predict, x_T, path, constrain=constrain)
