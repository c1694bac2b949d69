"""One synthesis under way: settings, progress, time, cancelling."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from LesionDiffusionLib.devices import synchronize
from LesionDiffusionLib.diffusion.samplers import SampleNoise, SamplerStep
from LesionDiffusionLib.errors import Cancelled, SettingsError
from LesionDiffusionLib.labels import OrganMap
from LesionDiffusionLib.memory import with_memory_fallback
from LesionDiffusionLib.models import Models
from LesionDiffusionLib.planning import Plan
from LesionDiffusionLib.sampling import SamplingOptions, check_guidance
from LesionDiffusionLib.volume import Volume

Result = TypeVar("Result")


@dataclass(frozen=True)
class Progress:
    """``step`` of ``total`` of a stage is done."""

    stage: str
    step: int
    total: int


@dataclass(frozen=True)
class Settings:
    """How to synthesize.

    Attributes:
        seed: of everything drawn at random.
        sampler, steps, guidance: None takes the bundle's own for each network.
        candidates: lesions drawn; the one that fits the report best is returned.
    """

    seed: int = 0
    sampler: str | None = None
    steps: int | None = None
    guidance: float | None = None
    candidates: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.candidates <= 64:
            raise SettingsError(f"candidates must lie in 1..64, got {self.candidates}")
        if not 0 <= self.seed < 2**64:
            raise SettingsError(f"the seed must not be negative and below 2**64, got {self.seed}")
        self.for_network(SamplingOptions("ddim"))  # impossible numbers are told before anything is read

    def for_network(self, own: SamplingOptions) -> SamplingOptions:
        """The network's own options, with what the user set in their place. SettingsError when that is impossible."""
        given = {name: getattr(self, name) for name in ("sampler", "steps", "guidance")}
        return dataclasses.replace(own, **{name: value for name, value in given.items() if value is not None})

    def check(self, models: Models) -> None:
        """SettingsError unless both networks of the bundle can be sampled this way."""
        manifest = models.bundle.manifest
        for spec in (manifest.lmnet, manifest.linet):
            check_guidance(self.for_network(spec.sampling), spec.guidable)


@dataclass
class Run:
    """What every stage needs, and where it leaves its time and its notes."""

    ct: Volume
    organs: OrganMap
    plan: Plan
    models: Models
    settings: Settings
    progress: Callable[[Progress], None]
    should_stop: Callable[[], bool]
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage and let the user cancel before it."""
        self.check_stop()
        self.progress(Progress(name, 0, 1))
        started = time.perf_counter()
        yield
        synchronize(self.models.device)
        self.seconds[name] = round(self.seconds.get(name, 0) + time.perf_counter() - started, 3)

    def check_stop(self) -> None:
        """Cancelled if the user asked to stop."""
        if self.should_stop():
            raise Cancelled("cancelled; nothing was written")

    def guarded(self, compute: Callable[[], Result], network: nn.Module | None) -> Result:
        """``compute()``; where the GPU's memory is full with what can be done, see `with_memory_fallback`.

        ``network`` works in it, so that all others can wait elsewhere; None: nobody knows.
        """

        def at_home() -> Result:
            if network is not None:
                network.to(self.models.device)  # it may have waited elsewhere, and found no room to come back
            return compute()

        idle = [] if network is None else self.models.idle_beside(network)
        halvable = network is None or all(part.dtype == torch.float32 for part in network.parameters())
        return with_memory_fallback(at_home, self.models.device, self.notes, idle, halvable)

    def sampled(
        self,
        stage: str,
        make_steps: Callable[[SampleNoise], Iterator[SamplerStep]],
        noise: SampleNoise,
        network: nn.Module | None = None,
    ) -> Tensor:
        """Run a sampler (of ``network``) to its end, reporting every step and stopping within one.

        A second try, after a full memory, draws the same noise as the first.
        """
        begin = noise.state()

        def run() -> Tensor:
            noise.restore(begin)
            for step in make_steps(noise):
                self.progress(Progress(stage, step.index + 1, step.total))
                self.check_stop()
            return step.x

        with self.stage(stage):
            return self.guarded(run, network)
