"""How many steps are enough: the change against many steps, beside the change from seed to seed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch

from LesionDiffusionLib.benchmark.job import Job
from LesionDiffusionLib.devices import repeatable
from LesionDiffusionLib.diffusion.samplers import SampleNoise
from LesionDiffusionLib.image_stage import inpaint
from LesionDiffusionLib.mask_stage import draw_mask
from LesionDiffusionLib.meters import dice
from LesionDiffusionLib.run import Settings

COUNTS = (3, 5, 10, 15, 20, 30)


def enough_steps(job: Job, seeds: int = 4, many: int = 200, counts: Sequence[int] = COUNTS) -> dict[str, Any]:
    """DPM-Solver++ 2M at ``counts`` steps against DDIM at ``many`` steps, from the same noise.

    Returns:
        Plain JSON. Per count the mean absolute difference (HU) inside one given lesion and the Dice coefficient of the
        masks that LMNet draws; "seed_to_seed" holds the same between the ``many``-step results of different seeds,
        which a difference must stay below to be of no consequence.
    """
    exact = [_results(job, Settings(seed, "ddim", many)) for seed in range(seeds)]
    pairs = [_compared(a, b) for a, b in combinations(exact, 2)]
    table = {}
    for count in counts:
        fast = [_results(job, Settings(seed, "dpmpp", count)) for seed in range(seeds)]
        table[str(count)] = _mean([_compared(a, b) for a, b in zip(fast, exact, strict=True)])
    return {"many": many, "seeds": seeds, "seed_to_seed": _mean(pairs), "dpmpp": table}


def _results(job: Job, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Values in the given lesion, and a mask drawn into the given lesion's box."""
    with torch.inference_mode(), repeatable():
        run = job.run(settings)
        near, changed_hu, _ = inpaint(run, job.mask, SampleNoise.from_seeds([settings.seed + 1]))
        drawn = draw_mask(run, SampleNoise.from_seeds([settings.seed]))
    return changed_hu[job.mask[near.slices]].astype(np.float64), drawn


def _compared(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    return {"difference_hu": float(np.abs(a[0] - b[0]).mean()), "mask_dice": float(dice(a[1], b[1]))}


def _mean(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: round(float(np.mean([f[name] for f in figures])), 4) for name in figures[0]}
