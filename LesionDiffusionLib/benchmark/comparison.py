"""The table: the released way, ours at the same settings, ours at its defaults."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from LesionDiffusionLib import __version__
from LesionDiffusionLib.benchmark.ceiling import matmul_tflops
from LesionDiffusionLib.benchmark.forwards import bare_forwards, forwards, sampling_tflop
from LesionDiffusionLib.benchmark.job import Job
from LesionDiffusionLib.benchmark.paths import Outcome, our_way, released_way
from LesionDiffusionLib.devices import PRECISIONS, describe_device
from LesionDiffusionLib.memory import is_out_of_memory
from LesionDiffusionLib.networks.convolution import as_written
from LesionDiffusionLib.run import Settings

SAMPLED = ("mask", "inpaint")  # the stages in which denoisers run


@dataclass(frozen=True)
class Row:
    """One way of doing the job.

    Attributes:
        name: what was measured.
        seconds: per stage.
        ratio: how many times faster than the released way; None where that does not run.
        tflops: 10^12 operations a second of LMNet and LINet while they sample.
        share_of_ceiling: of the matrix products this device reaches.
        peak_memory_mib: see `Outcome`.
        difference_hu: mean absolute difference to the released way inside the lesion; None likewise.
    """

    name: str
    seconds: dict[str, float]
    ratio: float | None
    tflops: float
    share_of_ceiling: float
    peak_memory_mib: dict[str, int]
    difference_hu: float | None


def compare(
    job: Job, make_exact: Callable[[], Job], steps: int = 200, repeats: int = 3, seed: int = 1
) -> dict[str, Any]:
    """Measure all ways in one run; the result is plain JSON.

    Args:
        job: the lesion, with networks in the precision we compute in.
        make_exact: gives the same with networks in float32, for the released way. Asked for when ours is measured, so
            that they take no memory then.
        steps: DDIM steps of the released way, without guidance as in the release.
        repeats: of ours, of which the fastest counts; the released way runs once.
        seed: of the noise, the same for all.
    """
    same, defaults = Settings(seed, "ddim", steps, guidance=1.0), Settings(seed)  # the release has no guidance (3.4)
    our_way(job, dataclasses.replace(same, steps=2))  # warm-up
    # Ours first: the peak memory of a process never falls.
    fast, ours = _fastest(job, defaults, repeats), our_way(job, same)
    other_seed = our_way(job, dataclasses.replace(same, seed=seed + 1))
    exact = make_exact()
    unrounded = ours if exact is job else our_way(exact, same)
    slow, missing = _where_it_runs(exact, same)
    used = {job.models.precision, "fp32"}
    ceilings = {name: matmul_tflops(job.models.device, PRECISIONS[name]) for name in used}
    ceiling = ceilings[job.models.precision]
    networks = forwards(job.models)
    rows = [
        _row(f"ours, DDIM {steps}", ours, slow, sampling_tflop(networks, same), ceiling),
        _row("ours, defaults", fast, slow, sampling_tflop(networks, defaults), ceiling),
    ]
    if slow is not None:
        with as_written():
            tflop = sampling_tflop(forwards(job.models), same)
        rows.insert(0, _row(f"released way, DDIM {steps}", slow, slow, tflop, ceilings["fp32"]))
    return {
        "rows": [dataclasses.asdict(row) for row in rows],
        "released_way_missing": missing,  # why, or None
        "matmul_tflops": ceiling,
        "forwards": bare_forwards(networks, ceiling),
        "seed_to_seed_hu": _difference_hu(other_seed, ours),
        "rounding_hu": _difference_hu(unrounded, ours),  # ours in its precision against ours in float32, same steps
        "environment": environment(job),
    }


def _where_it_runs(exact: Job, settings: Settings) -> tuple[Outcome | None, str | None]:
    """The released way, or why there is none: a whole volume is too much for the memory, or has more elements than one
    of torch's kernels can count. Neither is a reason to tell nothing."""
    try:
        return released_way(exact, settings), None
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return None, "does not fit into the memory"
        reason = str(error).strip().split("\n")[0]
        return None, f"cannot be computed ({reason:.200})"


def _row(name: str, way: Outcome, slow: Outcome | None, tflop: float, ceiling: float) -> Row:
    tflops = tflop / sum(way.seconds[stage] for stage in SAMPLED)
    ratio = None if slow is None else slow.total_seconds / way.total_seconds
    difference_hu = None if slow is None else _difference_hu(way, slow)
    return Row(name, way.seconds, ratio, tflops, tflops / ceiling, way.peak_memory_mib, difference_hu)


def environment(job: Job) -> dict[str, Any]:
    """What the figures depend on."""
    manifest = job.models.bundle.manifest
    return {
        "bundle": manifest.name,
        "device": describe_device(job.models.device),
        "precision": job.models.precision,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "version": __version__,
        "ct_voxels": list(job.ct.array.shape),
        "spacing_mm": [round(float(s), 3) for s in job.ct.geometry.spacing_mm],
        "lesion_mm": [round(float(s), 1) for s in job.report.size_mm],
        "mask": dataclasses.asdict(manifest.lmnet.sampling),
        "image": dataclasses.asdict(manifest.linet.sampling),
    }


def _fastest(job: Job, settings: Settings, repeats: int) -> Outcome:
    return min((our_way(job, settings) for _ in range(repeats)), key=lambda way: way.total_seconds)


def _difference_hu(a: Outcome, b: Outcome) -> float:
    return float(np.abs(a.lesion_hu.astype(np.float64) - b.lesion_hu).mean())
