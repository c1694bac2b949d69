"""The main job: a described lesion in a real CT.

organ map + report -> box -> LMNet -> mask -> VQ encode -> LINet -> decode -> only the change comes home.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from LesionDiffusionLib.bundles import Bundle, open_bundle
from LesionDiffusionLib.case import Case
from LesionDiffusionLib.devices import repeatable, resolve_device
from LesionDiffusionLib.diffusion.samplers import SampleNoise
from LesionDiffusionLib.fit import Finding, measure, surroundings
from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.homecoming import measure_change
from LesionDiffusionLib.image_stage import inpaint
from LesionDiffusionLib.labels import OrganMap
from LesionDiffusionLib.mask_stage import draw_mask
from LesionDiffusionLib.memory import clear_memory_errors
from LesionDiffusionLib.models import Models, load_models
from LesionDiffusionLib.planning import Plan, plan_lesion
from LesionDiffusionLib.provenance import provenance
from LesionDiffusionLib.run import Progress, Run, Settings
from LesionDiffusionLib.volume import Volume, check_ct, require_same_grid
from LesionDiffusionLib.wish import Wish


def synthesize(
    ct: Volume,
    organs: OrganMap,
    wish: Wish,
    *,
    bundle: Bundle | Models | str = "starter",
    settings: Settings | None = None,
    device: str = "auto",
    progress: Callable[[Progress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    finished: Callable[[Case], None] = lambda _: None,
) -> Case:
    """Put one described lesion into a CT.

    Args:
        ct: HU, array (I, J, K); never written.
        organs: organ map on the same grid; ``OrganMap.unknown(ct.geometry)`` where a mask is given and no map exists.
        wish: report and, if given, box, center or mask.
        bundle: a name or folder, an opened bundle, or models kept from an earlier call.
        settings: seed, sampling, candidates.
        device: "auto", "cpu", "cuda", "cuda:N"; ignored when ``bundle`` holds loaded models.
        progress: called with every stage and diffusion step.
        should_stop: asked before every stage and after every step.
        finished: called with every candidate as soon as it is there.

    Returns:
        The case; with several candidates the one whose measurements fit the report best.

    Raises:
        LesionDiffusionError: bad input; see the subclasses in `errors`.
        Cancelled: ``should_stop`` said so.
    """
    settings = settings or Settings()
    check_ct(ct)
    require_same_grid(ct, organs.volume, "organ map")
    plan_chances, noise_seed = chances(settings.seed)
    started = time.perf_counter()
    plan = plan_lesion(ct, organs, wish, plan_chances)
    planned = time.perf_counter()
    models = _models(bundle, device)
    seconds = {"plan": round(planned - started, 3), "load": round(time.perf_counter() - planned, 3)}
    settings.check(models)
    _check_windows(plan, models)
    if models.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(models.device)
    best = None
    with clear_memory_errors(models.device), repeatable(), torch.inference_mode():
        for index, seed in enumerate(noise_seed.spawn(settings.candidates)):
            run = Run(ct, organs, plan, models, settings, progress, should_stop, dict(seconds))
            case = _candidate(run, wish, seed, index)
            finished(case)
            if best is None or case.share_fitting > best.share_fitting:
                best = case
    return best


def chances(seed: int) -> tuple[list[np.random.Generator], np.random.SeedSequence]:
    """The sources of chance of a seed: two for `plan_lesion`, and the seeds of all noise."""
    *plan_seeds, noise_seed = np.random.SeedSequence(seed).spawn(3)
    return [np.random.default_rng(seed) for seed in plan_seeds], noise_seed


def _candidate(run: Run, wish: Wish, seed: np.random.SeedSequence, index: int) -> Case:
    # One stream a network: an edited mask, or a second try of LMNet, leaves LINet's noise as it was.
    for_mask, for_image = (SampleNoise.from_seeds([int(n) >> 1]) for n in seed.generate_state(2, np.uint64))
    mask = wish.mask if wish.mask is not None else draw_mask(run, for_mask)
    near, changed_hu, reach_mm = inpaint(run, mask, for_image)
    with run.stage("measure"):
        finding, change = _measured(run, mask, near, changed_hu, reach_mm)
        measurements = measure(run.plan.report, finding)
    return Case(
        run.ct,
        near,
        changed_hu,
        Volume(mask, run.ct.geometry),
        run.plan.report,
        run.plan.box,
        measurements,
        (*run.plan.warnings, *dict.fromkeys(run.notes), *_unheard(run)),
        provenance(run, index) | {"neighborhood_mm": reach_mm} | change,
    )


def _measured(
    run: Run, mask: np.ndarray, near: Box, changed_hu: np.ndarray, reach_mm: float
) -> tuple[Finding, dict[str, float | int]]:
    """The finished lesion with its surroundings, and how much changed where; beyond them nothing was touched."""
    around = surroundings(mask, run.ct.geometry)
    before = run.ct.array[around.slices]
    after = before.copy(order="K")
    offset = np.negative(around.start)
    after[Box(tuple(near.start + offset), tuple(near.stop + offset)).slices] = changed_hu
    geometry, lesion = run.ct.geometry.cropped(around), mask[around.slices]
    organ = None if run.organs.is_unknown else run.plan.site.organ[around.slices]
    finding = Finding(after, lesion, organ, geometry)
    return finding, measure_change(before, after, lesion, geometry, reach_mm)


def _unheard(run: Run) -> list[str]:
    unknown = run.models.unknown_strings(run.plan.report)
    return [f"the model does not know these words: {', '.join(unknown)}"] if unknown else []


def _models(bundle: Bundle | Models | str, device: str) -> Models:
    if isinstance(bundle, Models):
        return bundle
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    target = resolve_device(device)
    with clear_memory_errors(target):
        return load_models(opened, target)


def _check_windows(plan: Plan, models: Models) -> None:
    """PlacementError when the lesion is larger than a window it has to pass."""
    networks = (models.linet,) if plan.place == "mask" else (models.lmnet, models.linet)
    for network in networks:
        network.window.spacing_for(plan.report.size_mm)


__all__ = ["Progress", "Settings", "Wish", "synthesize"]
