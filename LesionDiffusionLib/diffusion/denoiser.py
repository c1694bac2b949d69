"""The denoiser: owns the parametrization, is given its backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from LesionDiffusionLib.diffusion.schedule import NoiseSchedule, broadcast

PREDICTIONS = ("epsilon", "v", "x0")

Backbone = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]  # (x_BCDHW, timesteps_B, context_BNC) -> BCDHW


class Prediction(NamedTuple):
    """What a denoiser says about x_t; both have its shape."""

    x0: Tensor
    eps: Tensor


@dataclass(frozen=True, eq=False)
class Condition:
    """What the backbone sees besides x_t. A batch of one serves every sample."""

    context: Tensor | None = None  # (B, N, C) text entries
    maps: Tensor | None = None  # (B, C, D, H, W), concatenated behind the channels of x_t

    def expanded(self, batch: int) -> Condition:
        """The same condition for ``batch`` samples."""
        parts = (self.context, self.maps)
        return Condition(*(None if part is None else part.expand(batch, *part.shape[1:]) for part in parts))


@dataclass(frozen=True, eq=False)
class Denoiser:
    """x_t, t, condition -> :class:`Prediction`, from a backbone trained to predict one of :data:`PREDICTIONS`.

    "epsilon": the noise (the released networks); "v": alpha eps - sigma x_0 (Salimans and Ho 2022); "x0": the clean
    tensor. A backbone may have more output channels than x_t: the first ones are the prediction.
    """

    backbone: Backbone
    schedule: NoiseSchedule
    prediction: str = "epsilon"

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"Denoiser.prediction must be one of {', '.join(PREDICTIONS)}, got {self.prediction!r}")

    def __call__(self, x_t: Tensor, t: int | Tensor, condition: Condition | None = None) -> Prediction:
        """``t``: one timestep, or one per sample (B,)."""
        output = self.backbone_output(x_t, t, condition)[:, : x_t.shape[1]]
        return self.interpret(output.to(x_t.dtype), x_t, t)

    def backbone_output(self, x_t: Tensor, t: int | Tensor, condition: Condition | None = None) -> Tensor:
        """All channels of the backbone: training may need those beyond the prediction."""
        batch = x_t.shape[0]
        condition = (condition or Condition()).expanded(batch)
        inputs = x_t if condition.maps is None else torch.cat([x_t, condition.maps.to(x_t.dtype)], dim=1)
        if isinstance(t, int):  # filled there: to send it would wait for a GPU
            timesteps_B = torch.full((batch,), t, device=x_t.device)
        else:
            timesteps_B = t.to(x_t.device).expand(batch)
        return self.backbone(inputs, timesteps_B, condition.context)

    def interpret(self, output: Tensor, x_t: Tensor, t: int | Tensor) -> Prediction:
        """The prediction that ``output`` means at x_t."""
        alpha, sigma = broadcast(self.schedule.alpha(t), x_t), broadcast(self.schedule.sigma(t), x_t)
        if self.prediction == "epsilon":
            return Prediction((x_t - sigma * output) / alpha, output)
        if self.prediction == "v":
            return Prediction(alpha * x_t - sigma * output, sigma * x_t + alpha * output)
        return Prediction(output, (x_t - alpha * output) / sigma)

    def target(self, x_0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """What the backbone should have said at ``schedule.add_noise(x_0, noise, t)``."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "v":
            return broadcast(self.schedule.alpha(t), x_0) * noise - broadcast(self.schedule.sigma(t), x_0) * x_0
        return x_0
