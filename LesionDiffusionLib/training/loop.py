"""One plain training loop, shared by the three networks, on any number of processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from LesionDiffusionLib.errors import SettingsError, TrainingError
from LesionDiffusionLib.training import ranks
from LesionDiffusionLib.training.ahead import drawn_ahead
from LesionDiffusionLib.training.checkpoint import Checkpoint

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DECAYS = ("cosine", "constant")
FINAL_RATE = 0.02  # of the peak, at the end of the cosine
MEMORY = 0.98  # of the running means of the losses
ADJUSTABLE = ("learning_rate", "clip", "precision")  # may change when a training goes on, which is remembered
LARGEST_SEED = 2**40  # a step's own seed is made of it, and fits into 64 bits
SMALLEST_SCALE = 2.0**-14  # of an fp16 loss: who cannot compute a gradient this small has a NaN in it


@dataclass(frozen=True)
class LoopOptions:
    """How long and how fast to train.

    Attributes:
        steps: optimizer steps.
        batch: samples per step and process.
        learning_rate: peak, after a linear warm-up.
        warmup: steps of warm-up.
        decay: "cosine" falls to 2 % of the peak; "constant" stays.
        betas, weight_decay: of AdamW.
        ema_decay: decay of the exponential moving average of the weights; 0 keeps none.
        clip: largest gradient norm.
        precision: "fp32"; on a GPU also "bf16" or "fp16" (weights stay in float32).
        seed: of everything drawn during training.
        report_every, checkpoint_every, preview_every: steps between two of them; 0 for no previews.
        workers: threads that draw the coming steps while one is computed; 0 draws each in its turn.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    decay: str = "cosine"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-5
    ema_decay: float = 0.0
    clip: float = 1.0
    precision: str = "fp32"
    seed: int = 0
    report_every: int = 100
    checkpoint_every: int = 200
    preview_every: int = 0
    workers: int = 2

    def __post_init__(self) -> None:
        if self.decay not in DECAYS or self.precision not in PRECISIONS:
            raise SettingsError(
                f"decay is {' or '.join(DECAYS)} and precision {', '.join(PRECISIONS)}; "
                f"got {self.decay!r} and {self.precision!r}"
            )
        if min(self.steps, self.batch, self.report_every, self.checkpoint_every) < 1 or self.clip <= 0:
            raise SettingsError(f"steps, batch, clip and the intervals are at least 1 (clip above 0), got {self}")
        if min(self.learning_rate, self.warmup, self.weight_decay, self.preview_every, self.workers) < 0:
            raise SettingsError(
                f"learning_rate, warmup, weight_decay, preview_every and workers are not negative, got {self}"
            )
        if not 0 <= self.seed < LARGEST_SEED:
            raise SettingsError(f"the seed lies in 0..{LARGEST_SEED - 1}, got {self.seed}")
        if not all(0 <= decay < 1 for decay in (*self.betas, self.ema_decay)):
            raise SettingsError(f"betas and ema_decay lie in 0..1 (1 excluded), got {self.betas} and {self.ema_decay}")

    def require_device(self, device: torch.device) -> None:
        """SettingsError unless the precision can be had there."""
        if self.precision != "fp32" and device.type != "cuda":
            raise SettingsError(f"precision {self.precision} needs a GPU, got {device}; use precision=fp32")

    def rate_at(self, step: int) -> float:
        """Learning rate of ``step`` (0-based)."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.decay == "constant":
            return self.learning_rate
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass(frozen=True)
class StepReport:
    """Where a training stands: ``losses`` are running means, ``raw`` those of this very step."""

    done: int
    steps: int
    losses: dict[str, float]
    raw: dict[str, float]
    learning_rate: float
    gradient_norm: float
    seconds_left: float

    def __str__(self) -> str:
        shown = "  ".join(f"{name} {value:.4f}" for name, value in self.losses.items())
        return f"step {self.done}/{self.steps}  {shown}  {self.seconds_left / 60:.0f} min left"


@dataclass(frozen=True, eq=False)
class Objective:
    """What is trained.

    Attributes:
        module: everything that learns or must be remembered.
        losses: (step, drawn, generator) -> named losses of this process's share; their sum is minimized.
        draw: (step, generator) -> ``drawn``, what a step needs of the data. It knows nothing of the module, so that it
            can be called ahead, on another thread. The generator is seeded anew for every step, so that a continued
            training draws what an uninterrupted one would have drawn; ``losses`` gets it as ``draw`` left it.
        groups: parameters whose gradients are clipped together; by default all of the module.
        preview: called with the averaged weights in place, every ``preview_every`` steps.
    """

    module: nn.Module
    losses: Callable[[int, Any, torch.Generator], dict[str, Tensor]]
    draw: Callable[[int, torch.Generator], Any] = lambda step, generator: None
    groups: Sequence[Sequence[nn.Parameter]] = ()
    preview: Callable[[int], None] | None = None


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


class _Training:
    """Everything that changes from step to step."""

    def __init__(self, objective: Objective, options: LoopOptions) -> None:
        self.objective, self.options = objective, options
        self.module = objective.module.train()
        self.groups = objective.groups or (list(self.module.parameters()),)
        self.device = next(self.module.parameters()).device
        options.require_device(self.device)
        self.optimizer = torch.optim.AdamW(
            [{"params": group} for group in self.groups],
            lr=options.learning_rate,
            betas=options.betas,
            weight_decay=options.weight_decay,
        )
        self.scaler = torch.amp.GradScaler("cuda", enabled=options.precision == "fp16")
        self.ema = Ema(self.module, options.ema_decay) if options.ema_decay else None
        self.means: dict[str, float] = {}
        self.done = self.first = 0  # steps done, and those of earlier sessions
        self.seconds_before, self.started = 0.0, time.monotonic()
        self.history: list[dict[str, float | str]] = []
        self._remember_settings()

    def state(self) -> dict:
        state = {"done": self.done, "module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"scaler": self.scaler.state_dict(), "means": self.means}
        state["seconds"] = self.seconds_before + time.monotonic() - self.started
        state["history"] = self.history
        return state if self.ema is None else state | {"ema": self.ema.shadow, "updates": self.ema.updates}

    def restore(self, state: dict | None) -> None:
        if state is None:
            return
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty unless it was a training in fp16
            self.scaler.load_state_dict(state["scaler"])
        self.done = self.first = state["done"]
        self.means = state["means"]
        self.seconds_before = state.get("seconds", 0.0)  # checkpoints of earlier editions do not tell
        self.history = state.get("history", self.history)
        self._remember_settings()
        if self.ema is not None:
            for name, value in state["ema"].items():
                self.ema.shadow[name].copy_(value)
            self.ema.updates = state["updates"]

    def _remember_settings(self) -> None:
        """Add the adjustable settings and the step from which they are used to the history, if they are new."""
        now = {name: getattr(self.options, name) for name in ADJUSTABLE}
        if not self.history or {name: self.history[-1][name] for name in ADJUSTABLE} != now:
            self.history = [*self.history, {"from_step": self.done, **now}]

    def draws(self) -> AbstractContextManager[Iterator[tuple[Any, torch.Generator]]]:
        """What the steps to come need, each with the generator that drew it."""
        return drawn_ahead(self._drawn, range(self.done, self.options.steps), self.options.workers)

    def _drawn(self, step: int) -> tuple[Any, torch.Generator]:
        generator = torch.Generator().manual_seed(self.options.seed * 10_000_019 + step)
        return self.objective.draw(step, generator), generator

    def step(self, drawn: Any, generator: torch.Generator) -> tuple[dict[str, float], float]:
        """One optimizer step; returns its losses and its gradient norm. Raises FloatingPointError for NaN."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.rate_at(self.done)
        precision = PRECISIONS[self.options.precision]
        with torch.autocast(self.device.type, precision, enabled=precision != torch.float32):
            losses = self.objective.losses(self.done, drawn, generator)
        total = torch.stack([value.float() for value in losses.values()]).sum()
        raw = dict(zip(losses, ranks.mean(torch.stack([v.float() for v in losses.values()])).tolist(), strict=True))
        if not math.isfinite(sum(raw.values())):
            raise FloatingPointError(f"the loss became {sum(raw.values())}")
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        norm = self._clipped()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST_SCALE:
            raise FloatingPointError("the gradient stays infinite or NaN however small the loss is made")
        if self.ema is not None:
            self.ema.update(self.module)
        for name, value in raw.items():
            self.means[name] = self.means.get(name, value) * MEMORY + (1 - MEMORY) * value
        self.done += 1
        return raw, norm

    def report(self, raw: dict[str, float], norm: float) -> StepReport:
        """Where the training stands after a step of these losses and this gradient norm."""
        steps, done = self.options.steps, self.done
        left = (time.monotonic() - self.started) / (done - self.first) * (steps - done)
        return StepReport(done, steps, dict(self.means), raw, self.options.rate_at(done - 1), norm, left)

    def _clipped(self) -> float:
        """Average the gradients over the processes and clip them; the largest norm of a group."""
        ranks.average_gradients(self.module.parameters())
        self.scaler.unscale_(self.optimizer)
        norms = [nn.utils.clip_grad_norm_(group, self.options.clip) for group in self.groups]
        norm = max(float(norm) for norm in norms)
        if not math.isfinite(norm) and not self.scaler.is_enabled():  # the scaler leaves such a step out by itself
            raise FloatingPointError(f"the gradient became {norm}")
        return norm

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place of the current ones."""
        if self.ema is None:
            yield
            return
        current = {name: value.detach().clone() for name, value in self.module.state_dict().items()}
        self.module.load_state_dict(self.ema.shadow)
        try:
            yield
        finally:
            self.module.load_state_dict(current)

    def result(self) -> dict[str, Tensor]:
        if self.ema is not None:
            return self.ema.shadow
        return {name: value.detach().clone() for name, value in self.module.state_dict().items()}


def history_told(state: dict) -> dict[str, Any]:
    """What a checkpoint's state says of its sessions: their seconds, and settings that changed between them."""
    history = state.get("history", [])
    return {"seconds": round(state.get("seconds", 0))} | ({"history": history} if len(history) > 1 else {})


def optimize(
    objective: Objective,
    options: LoopOptions,
    report: Callable[[StepReport], None] = print,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Tensor]:
    """Train ``objective.module``, from its checkpoint on if there is one; returns its (averaged) state dict.

    Args:
        objective: what is trained.
        options: see LoopOptions.
        report: receives where the training stands, every ``report_every`` steps.
        checkpoint: keeps the state of an unfinished training.

    Raises:
        TrainingError: loss or gradient became NaN or infinite (says at which step, and where the last good checkpoint
            is), or the checkpoint does not fit, or not all processes see it.
        OutputError: the checkpoint cannot be written.
    """
    training = _Training(objective, options)
    training.restore(checkpoint.load() if checkpoint else None)
    ranks.require_same_step(training.done, training.device)
    with training.draws() as draws:
        for drawn, generator in draws:
            raw, norm = _sound_step(training, drawn, generator, checkpoint)
            done, ended = training.done, training.done == options.steps
            if done % options.report_every == 0 or ended:
                report(training.report(raw, norm))
            if checkpoint and ranks.rank() == 0 and (done % options.checkpoint_every == 0 or ended):
                checkpoint.save(training.state())
            if objective.preview and options.preview_every and ranks.rank() == 0 and done % options.preview_every == 0:
                with training.averaged(), torch.no_grad():
                    objective.preview(done)
    return training.result()


def _sound_step(
    training: _Training, drawn: Any, generator: torch.Generator, checkpoint: Checkpoint | None
) -> tuple[dict[str, float], float]:
    """`_Training.step`; a NaN is a TrainingError that says what to do."""
    try:
        return training.step(drawn, generator)
    except FloatingPointError as error:
        kept = f"; {checkpoint.last()}" if checkpoint else ""
        raise TrainingError(
            f"{error} at step {training.done}{kept}; continue with --resume and a lower loop.learning_rate"
        ) from error
