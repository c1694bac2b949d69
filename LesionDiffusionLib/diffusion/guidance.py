"""Classifier-free guidance: a denoiser that holds a denoiser (Ho and Salimans 2022)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from LesionDiffusionLib.diffusion.denoiser import Condition, Denoiser, Prediction


@dataclass(frozen=True, eq=False)
class ClassifierFreeGuidance:
    """unconditional + scale (conditional - unconditional), both evaluated in one batch of twice the size.

    Scale 1 is the plain conditional denoiser (nothing else is evaluated), 0 the unconditional one; the paper uses 2.5,
    the released networks were trained without. Outside ``interval`` only the conditional is evaluated (Kynkaanniemi et
    al. 2024: guidance harms where there is most noise and is idle where there is least).
    """

    denoiser: Denoiser
    unconditional: Tensor  # (1 or B, 1 or N, C) context; a single entry stands for any number of equal ones
    scale: float
    interval: tuple[int, int] | None = None  # lowest and highest guided timestep, both included

    def __post_init__(self) -> None:
        if self.interval is not None and self.interval[0] > self.interval[1]:
            raise ValueError(f"guidance interval must be (low, high) timesteps, got {self.interval}")

    def __call__(self, x_t: Tensor, t: int, condition: Condition) -> Prediction:
        if self.scale == 1 or not self._guides(t):
            return self.denoiser(x_t, t, condition)
        both = self.denoiser(torch.cat([x_t, x_t]), t, self._paired(condition.expanded(x_t.shape[0])))
        return Prediction(*(self._extrapolate(*part.chunk(2)) for part in both))

    def _guides(self, t: int) -> bool:
        return self.interval is None or self.interval[0] <= t <= self.interval[1]

    def _extrapolate(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        return unconditional + self.scale * (conditional - unconditional)

    def _paired(self, condition: Condition) -> Condition:
        """The conditional batch, then the unconditional one: other text, same maps."""
        if condition.context is None:
            raise ValueError("guidance needs a conditional context (B, N, C), got None; use the denoiser alone")
        given, wanted = self.unconditional.shape, condition.context.shape
        if len(given) != 3 or given[1] not in (1, wanted[1]) or given[2] != wanted[2]:
            raise ValueError(f"the unconditional context must fit {tuple(wanted)}, got {tuple(given)}")
        context = torch.cat([condition.context, self.unconditional.to(condition.context).expand(wanted)])
        maps = None if condition.maps is None else torch.cat([condition.maps, condition.maps])
        return replace(condition, context=context, maps=maps)
