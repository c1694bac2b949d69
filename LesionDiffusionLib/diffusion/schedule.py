"""Noise schedules, and the paths that samplers walk along them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class NoiseSchedule:
    """The table of alpha-bar: how much of x_0 is left after each step of the training chain.

    ``alphas_cumprod`` (T,) is kept as float64 on the CPU; a table read from a checkpoint may come in any float dtype.
    """

    def __init__(self, alphas_cumprod: Tensor) -> None:
        table = torch.as_tensor(alphas_cumprod).detach().to("cpu", torch.float64).clone()
        if table.ndim != 1 or len(table) < 2:
            raise ValueError(f"NoiseSchedule expects a table (T,) with T >= 2, got shape {tuple(table.shape)}")
        if not (table.diff() <= 0).all() or not (table[0] < 1 and table[-1] > 0):
            raise ValueError("NoiseSchedule expects alphas_cumprod that fall within (0, 1); this table does not")
        self.alphas_cumprod = table

    @classmethod
    def from_betas(cls, betas: Tensor) -> NoiseSchedule:
        """alpha-bar[t] is the cumulative product of 1 - beta."""
        return cls(torch.cumprod(1 - betas.double(), dim=0))

    @classmethod
    def scaled_linear(
        cls, beta_start: float = 0.0015, beta_end: float = 0.0195, num_train_steps: int = 1000
    ) -> NoiseSchedule:
        """The square root of beta grows linearly: the schedule of the released networks (released-model 3.1)."""
        roots = torch.linspace(math.sqrt(beta_start), math.sqrt(beta_end), num_train_steps, dtype=torch.float64)
        return cls.from_betas(roots.square())

    @classmethod
    def cosine(cls, num_train_steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> NoiseSchedule:
        """The schedule the paper names (Nichol and Dhariwal 2021).

        Its last alpha is about 5e-5. Turning a predicted epsilon into x_0 divides by it, so train with a "v" or "x0"
        prediction under this schedule.
        """
        times = torch.arange(num_train_steps + 1, dtype=torch.float64) / num_train_steps
        left = torch.cos((times + offset) / (1 + offset) * math.pi / 2).square()
        return cls.from_betas((1 - left[1:] / left[:-1]).clamp(max=max_beta))

    @property
    def num_train_steps(self) -> int:
        return len(self.alphas_cumprod)

    def alpha(self, t: int | Tensor) -> Tensor:
        """Factor of x_0 at the 0-based timesteps -> float64 on the CPU, of the shape of ``t``."""
        return self.alphas_cumprod[torch.as_tensor(t).cpu()].sqrt()

    def sigma(self, t: int | Tensor) -> Tensor:
        """Standard deviation of the noise at the 0-based timesteps -> float64 on the CPU, of the shape of ``t``."""
        return (1 - self.alphas_cumprod[torch.as_tensor(t).cpu()]).sqrt()

    def add_noise(self, x_0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """x_t for one timestep, or for one per sample (B,) (paper, equation 1)."""
        return broadcast(self.alpha(t), x_0) * x_0 + broadcast(self.sigma(t), x_0) * noise


def broadcast(values: Tensor, like: Tensor) -> Tensor | float:
    """A scalar or one value per sample (B,), shaped to multiply ``like`` (B, ...) in its dtype and on its device.

    A scalar stays on the CPU, so that nobody waits for a GPU to receive it.
    """
    if values.ndim == 0:
        return values.item()
    return values.to(like).reshape(-1, *[1] * (like.ndim - 1))


class PathStep(NamedTuple):
    """One step of a sampler: ask the denoiser at ``timestep``, then go from one alpha-bar to the next."""

    timestep: int
    alpha_cumprod: float
    next_alpha_cumprod: float


SamplingPath = Sequence[PathStep]


def released_timesteps(num_steps: int, num_train_steps: int = 1000) -> list[int]:
    """The released rule, high to low: c i + 1 with c = num_train_steps / num_steps, so 996, ..., 6, 1 for 200 steps.

    Raises ``ValueError`` where the released rule breaks: it takes more steps than asked when ``num_steps`` does not
    divide ``num_train_steps``, and leaves the table when it takes them all (released-model 3.3).
    """
    if not 1 <= num_steps < num_train_steps or num_train_steps % num_steps:
        raise ValueError(
            f"the released timesteps need a proper divisor of {num_train_steps}, got {num_steps} steps; "
            "choose one, or use even_timesteps"
        )
    stride = num_train_steps // num_steps
    return [stride * i + 1 for i in reversed(range(num_steps))]


def even_timesteps(num_steps: int, num_train_steps: int = 1000, lowest: int = 0) -> list[int]:
    """Exactly ``num_steps`` evenly spaced timesteps from the noisiest to ``lowest``.

    For 1 to ``num_train_steps`` of them; where so many do not fit above ``lowest``, they go below it.
    """
    _check_num_steps(num_steps, num_train_steps)
    lowest = min(lowest, num_train_steps - num_steps)
    gaps = max(num_steps - 1, 1)
    return [lowest + (num_train_steps - 1 - lowest) * (gaps - i) // gaps for i in range(num_steps)]


def log_snr_timesteps(num_steps: int, schedule: NoiseSchedule) -> list[int]:
    """Exactly ``num_steps`` timesteps from the noisiest to 0, as evenly as integers allow in log(alpha / sigma).

    The spacing that DPM-Solver was made for (Lu et al. 2022): with few steps it keeps the variance of the data, where
    evenly spaced timesteps leap over the last, finest part of the way.
    """
    top = schedule.num_train_steps - 1
    _check_num_steps(num_steps, top + 1)
    log_snr = schedule.alphas_cumprod.logit() / 2
    wanted = torch.linspace(log_snr[top].item(), log_snr[0].item(), num_steps, dtype=torch.float64)
    nearest = (log_snr[None] - wanted[:, None]).abs().argmin(dim=1).tolist()
    timesteps: list[int] = []
    for t in reversed(nearest):  # neighbors that rounded to one timestep move apart, upward first
        timesteps.append(t if not timesteps else max(t, timesteps[-1] + 1))
    return [min(t, top - i) for i, t in enumerate(reversed(timesteps))]


def path_through(schedule: NoiseSchedule, timesteps: Sequence[int], final_alpha_cumprod: float = 1.0) -> SamplingPath:
    """The path through falling ``timesteps`` that ends at ``final_alpha_cumprod`` (1: without any noise)."""
    if not timesteps or any(low >= high for high, low in pairwise(timesteps)):
        raise ValueError(f"expected falling timesteps, got {list(timesteps)}")
    if not 0 <= timesteps[-1] <= timesteps[0] < schedule.num_train_steps:
        raise ValueError(f"expected timesteps in 0..{schedule.num_train_steps - 1}, got {list(timesteps)}")
    levels = schedule.alphas_cumprod[list(timesteps)].tolist()
    if not levels[-1] <= final_alpha_cumprod <= 1:
        raise ValueError(f"expected a final alpha-bar in {levels[-1]:.6g}..1, got {final_alpha_cumprod}")
    jumps = pairwise([*levels, final_alpha_cumprod])
    return [PathStep(t, level, next_level) for t, (level, next_level) in zip(timesteps, jumps, strict=True)]


def released_path(schedule: NoiseSchedule, num_steps: int = 200) -> SamplingPath:
    """The path of the released sampler. It ends at alpha-bar[0], so a trace of noise stays (released-model 3.3)."""
    timesteps = released_timesteps(num_steps, schedule.num_train_steps)
    return path_through(schedule, timesteps, schedule.alphas_cumprod[0].item())


def clean_path(schedule: NoiseSchedule, num_steps: int) -> SamplingPath:
    """Even in log-SNR, then down to no noise at all: the path for few steps, above all of DPM-Solver++."""
    return path_through(schedule, log_snr_timesteps(num_steps, schedule))


def even_path(schedule: NoiseSchedule, num_steps: int, lowest: int = 0) -> SamplingPath:
    """Evenly spaced timesteps to ``lowest``, then to no noise at all: for many steps, as the paper's 200 of DDIM."""
    return path_through(schedule, even_timesteps(num_steps, schedule.num_train_steps, lowest))


def _check_num_steps(num_steps: int, num_train_steps: int) -> None:
    if not 1 <= num_steps <= num_train_steps:
        raise ValueError(f"expected 1 to {num_train_steps} sampling steps, got {num_steps}")
