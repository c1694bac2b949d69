"""One plain training loop, shared by the three networks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LoopOptions:
    """How long and how fast to train.

    Attributes:
        steps: optimizer steps.
        batch: samples per step.
        learning_rate: peak; linear warm-up, then a half cosine down to 2 % of it.
        warmup: steps of warm-up.
        ema_decay: decay of the exponential moving average of the weights; 0 keeps none.
        clip: largest gradient norm.
        seed: of everything drawn during training.
        report_every: steps between progress lines.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    ema_decay: float = 0.0
    clip: float = 1.0
    seed: int = 0
    report_every: int = 100

    def rate_at(self, step: int) -> float:
        """Learning rate of ``step`` (0-based)."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


class Ema:
    """Exponential moving average of a module's parameters, warmed up as in released-model 1.7."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.shadow = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.updates += 1
        factor = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.shadow[name].lerp_(value, 1 - factor)
            else:
                self.shadow[name].copy_(value)


def optimize(
    module: nn.Module,
    loss_of: Callable[[int], dict[str, Tensor]],
    options: LoopOptions,
    report: Callable[[str], None] = print,
) -> dict[str, Tensor]:
    """Train ``module``; returns its (averaged) state dict.

    Args:
        module: everything that learns.
        loss_of: step -> named losses; their sum is minimized.
        options: see LoopOptions.
        report: receives lines with running means and the time left.

    Raises:
        FloatingPointError: the loss became NaN or infinite; says at which step.
    """
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=options.learning_rate, weight_decay=1e-5)
    ema = Ema(module, options.ema_decay) if options.ema_decay else None
    means: dict[str, float] = {}
    started = time.monotonic()
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.rate_at(step)
        losses = loss_of(step)
        total = torch.stack([value.float() for value in losses.values()]).sum()
        if not torch.isfinite(total):
            raise FloatingPointError(f"the loss became {total.item()} at step {step}; lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(module.parameters(), options.clip)
        optimizer.step()
        if ema is not None:
            ema.update(module)
        for name, value in losses.items():
            means[name] = means.get(name, value.item()) * 0.98 + 0.02 * value.item()
        if (step + 1) % options.report_every == 0 or step + 1 == options.steps:
            left = (time.monotonic() - started) / (step + 1) * (options.steps - step - 1)
            shown = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
            report(f"step {step + 1}/{options.steps}  {shown}  {left / 60:.0f} min left")
    return ema.shadow if ema is not None else {name: v.detach().clone() for name, v in module.state_dict().items()}
