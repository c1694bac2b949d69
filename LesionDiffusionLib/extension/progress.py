"""How far a synthesis is, and how long it will take: a true share of the diffusion steps."""

from __future__ import annotations

import time
from collections.abc import Callable

# Share of the time by stage, measured on a CPU with 20 steps: the two networks take nearly all of it.
WEIGHTS = {"load": 0.02, "plan": 0.03, "mask": 0.4, "encode": 0.03, "inpaint": 0.47, "decode": 0.03, "blend": 0.01}
WEIGHTS |= {"measure": 0.01}
WORDS = {
    "load": "Loading the model",
    "plan": "Looking for a place",
    "mask": "Drawing the shape",
    "encode": "Compressing the CT",
    "inpaint": "Painting the lesion",
    "decode": "Decompressing",
    "blend": "Blending in",
    "measure": "Measuring",
}
ONCE = ("load", "plan")  # the other stages come once for every candidate


class RunProgress:
    """Progress of one synthesis.

    Args:
        candidates: how many lesions are made.
        skips_mask: the mask is drawn by hand.
        clock: seconds that only grow.
    """

    def __init__(
        self, candidates: int = 1, skips_mask: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._weights = {name: w for name, w in WEIGHTS.items() if not (skips_mask and name == "mask")}
        self._candidates, self._clock = candidates, clock
        self._candidate, self._stage, self._within = 0, "", 0.0
        self._furthest = 0.0  # a stage may be tried again; a bar that runs backwards says nothing
        self._sampling_since: tuple[float, float] | None = None  # time and share at the first diffusion step

    def heard(self, stage: str, step: int, total: int) -> None:
        """``step`` of ``total`` of a stage is done."""
        self._stage, self._within = stage, step / max(1, total)
        if stage in ("mask", "inpaint") and step >= 1 and self._sampling_since is None:
            self._sampling_since = self._clock(), self.share

    def candidate_done(self) -> None:
        """The next candidate begins."""
        self._candidate += 1
        self._stage = ""

    @property
    def share(self) -> float:
        """0 to 1; never falls."""
        self._furthest = max(self._furthest, self._share_now())
        return self._furthest

    def _share_now(self) -> float:
        once = sum(self._weights[name] for name in ONCE)
        if self._stage in ONCE:
            return self._before_stage() + self._weights[self._stage] * self._within
        inside = 0.0
        if self._stage:
            inside = self._before_stage() - once + self._weights.get(self._stage, 0) * self._within
        whole = sum(self._weights.values()) - once
        return min(1.0, once + (1 - once) * (self._candidate + inside / whole) / self._candidates)

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the pace of the diffusion steps; None before the first one."""
        if self._sampling_since is None:
            return None
        since, share_then = self._sampling_since
        gained = self.share - share_then
        return None if gained <= 0 else (self._clock() - since) * (1 - self.share) / gained

    @property
    def text(self) -> str:
        """What is being done, for the status line."""
        doing = WORDS.get(self._stage, "Working")
        of = f", lesion {self._candidate + 1} of {self._candidates}" if self._candidates > 1 else ""
        left = self.seconds_left
        return f"{doing}{of}" + ("" if left is None else f", about {_spoken(left)} left")

    def _before_stage(self) -> float:
        names = list(self._weights)
        return sum(self._weights[name] for name in names[: names.index(self._stage)]) if self._stage in names else 0.0


def _spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min"
