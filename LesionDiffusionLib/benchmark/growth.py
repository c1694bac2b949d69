"""How the cost of a synthesis grows with what is asked, measured from arrays to arrays."""

from __future__ import annotations

import time
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from LesionDiffusionLib.benchmark.job import patient
from LesionDiffusionLib.bundles import open_bundle
from LesionDiffusionLib.devices import resolve_device
from LesionDiffusionLib.models import Models, load_models
from LesionDiffusionLib.phantom import Phantom
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.run import Settings
from LesionDiffusionLib.synthesis import synthesize
from LesionDiffusionLib.windowing import largest_in_all
from LesionDiffusionLib.wish import Wish

SIZES_MM, SPACINGS_MM = (10, 20, 40, 80), (5.0, 3.5, 2.5, 1.75)
STEPS, CANDIDATES, PROCESSES = (5, 10, 20, 40), (1, 2, 4), (1, 2)
EACH = 3  # lesions of every process


def cost_growth(
    models: Models, text_encoder: str | None = None, allow_download: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """Seconds for one lesion as one thing grows and the others stay; for processes, lesions per minute of all.

    Lesions larger than the bundle takes are left out. The processes load its text encoder as `load_models` does.
    """
    text = text_encoder, allow_download
    phantom, largest_mm = patient(2.5), min(largest_in_all((models.lmnet.window, models.linet.window)))
    _seconds(phantom, models, steps=2)  # warm-up
    return {
        "lesion_mm": [{"x": mm, "seconds": _seconds(phantom, models, mm)} for mm in SIZES_MM if mm <= largest_mm],
        "ct_voxels": [_of_ct(patient(spacing_mm), models) for spacing_mm in SPACINGS_MM],
        "steps": [{"x": n, "seconds": _seconds(phantom, models, steps=n)} for n in STEPS],
        "candidates": [{"x": n, "seconds": _seconds(phantom, models, candidates=n)} for n in CANDIDATES],
        "processes": [{"x": n, "lesions_per_minute": lesions_per_minute(models, n, text)} for n in PROCESSES],
    }


def lesions_per_minute(
    models: Models,
    processes: int,
    text: tuple[str | None, bool] = (None, False),
    each: int = EACH,
    steps: int | None = None,
) -> float:
    """Lesions of several processes that share this one's threads, counted from when all of them are warm."""
    threads = max(1, torch.get_num_threads() // processes)
    loading = (str(models.bundle.folder), str(models.device), *text, models.precision)
    context = get_context("spawn")
    with context.Manager() as manager, context.Pool(processes) as pool:
        barrier = manager.Barrier(processes)
        spans = pool.starmap(_worker, [(loading, threads, each, steps, barrier)] * processes, chunksize=1)
    return 60 * processes * each / max(spans)


def _worker(loading: tuple, threads: int, each: int, steps: int | None, barrier: Any) -> float:
    folder, device, *how = loading
    torch.set_num_threads(threads)
    phantom = patient(5.0)
    try:
        models = load_models(open_bundle(folder), resolve_device(device), *how)
        _seconds(phantom, models, steps=2)
    except BaseException:
        barrier.abort()  # or the others would wait for this one for ever
        raise
    barrier.wait()
    started = time.perf_counter()
    for seed in range(each):
        _seconds(phantom, models, seed=seed, steps=steps)
    return time.perf_counter() - started


def _of_ct(phantom: Phantom, models: Models) -> dict[str, Any]:
    return {"x": int(np.prod(phantom.ct.array.shape)), "seconds": _seconds(phantom, models)}


def _seconds(phantom: Phantom, models: Models, size_mm: float = 30, **settings: Any) -> float:
    report = LesionReport(lesion_type="liver cancer", size_mm=(size_mm,) * 3)
    started = time.perf_counter()
    synthesize(phantom.ct, phantom.organs, Wish(report), bundle=models, settings=Settings(**{"seed": 1} | settings))
    return round(time.perf_counter() - started, 3)
