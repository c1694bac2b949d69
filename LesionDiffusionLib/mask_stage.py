"""First stage: LMNet draws the lesion's mask in its box, by the rule of its region."""

from __future__ import annotations

import functools

import numpy as np
import torch

from LesionDiffusionLib.diffusion.samplers import SampleNoise
from LesionDiffusionLib.errors import PlacementError
from LesionDiffusionLib.geometry import Box, Geometry
from LesionDiffusionLib.lmnet import condition_maps
from LesionDiffusionLib.placement import allowed_region
from LesionDiffusionLib.postprocess import largest_component, threshold_by_extents, threshold_by_volume
from LesionDiffusionLib.resampling import box_on_grid, fitting_grid, sample, sample_home, window_grid
from LesionDiffusionLib.run import Run
from LesionDiffusionLib.volume import Volume

TRIES = 3  # LMNet is asked again when it draws nothing inside the allowed region
LEAST_SHARE_OF_OWN_BOX = 0.1  # a user's box with less allowed region than this is taken as a whole
USUAL_THRESHOLD = 0.5
SHRINKING = ("inside parenchymal organ", "parenchymal organ margin")  # rules
LEAST_SHRUNK_VOX = 5  # along every axis of the box: in fewer every face is flat, and a shrunk lesion would be a voxel
LOWERED = (1.0, 0.8, 0.6, 0.4)  # shares of the bundle's threshold, for samples that it cuts short


def draw_mask(run: Run, noise: SampleNoise) -> np.ndarray:
    """The lesion on the patient's grid, bool (I, J, K): one component, inside box and region.

    Raises:
        PlacementError: LMNet drew nothing there, several times.
    """
    lmnet, plan, patient = run.models.lmnet, run.plan, run.ct.geometry
    grid = window_grid(patient, plan.box.center_vox, lmnet.window.spacing_for(plan.report.size_mm), lmnet.window.shape)
    box = box_on_grid(plan.box, patient, grid).clipped(grid.shape)
    maps = _maps(run, grid, box).to(run.models.device)
    context = run.models.mask_context(plan.report)
    options = run.settings.for_network(run.models.bundle.manifest.lmnet.sampling)
    region = _region(run)
    for _ in range(TRIES):
        sampled = run.sampled(
            "mask", functools.partial(lmnet.sample, maps, context, options), noise, network=lmnet.denoiser.backbone
        )
        mask = _binarized(run, sampled[0, 0].float().cpu().numpy(), grid, box, region)
        if mask.any():
            return mask
    raise PlacementError(
        f"expected a lesion inside the allowed region, but LMNet drew none in {TRIES} tries; "
        "use another seed, another place or a larger lesion"
    )


def _maps(run: Run, grid: Geometry, box: Box) -> torch.Tensor:
    numbers = sample(run.organs.volume, grid, order=0)
    organ = sample(Volume(run.plan.site.organ, run.ct.geometry), grid, order=0)
    filled = np.zeros(grid.shape, bool)
    filled[box.slices] = True
    return condition_maps(run.organs.numbers_in("totalseg_v1")[numbers], organ, filled)


def _region(run: Run) -> np.ndarray:
    """Voxels of the lesion's box in which the lesion may lie. A user's own box wins over the rule."""
    plan, geometry = run.plan, run.ct.geometry
    margin = tuple(int(np.ceil(max(plan.report.size_mm) / 2 / s)) + 1 for s in geometry.spacing_mm)
    around = plan.box.padded(margin).clipped(geometry.shape)
    region = allowed_region(plan.rule, plan.site.cropped(around), plan.report.size_mm)
    offset = np.negative(around.start)
    inner = Box(tuple(plan.box.start + offset), tuple(plan.box.stop + offset))
    inside = region[inner.slices]
    if plan.place != "rule" and inside.mean() < LEAST_SHARE_OF_OWN_BOX:
        return np.ones_like(inside)
    return inside


def _binarized(run: Run, sampled: np.ndarray, grid: Geometry, box: Box, region: np.ndarray) -> np.ndarray:
    """The sampled map as a mask on the patient's grid: thresholded, inside the region, largest component.

    In parenchymal organs a lesion that was drawn too large for its box is shrunk into it. Walls are where they are:
    theirs are cut, and so are the released networks', as in the released code.
    """
    own = run.models.bundle.manifest.lmnet.threshold
    if own is not None and run.plan.rule in SHRINKING and min(region.shape) >= LEAST_SHRUNK_VOX:
        drawn = largest_component(sampled > own)
        if drawn.any():
            grid = fitting_grid(grid, Box.bounding(drawn), run.plan.box, run.ct.geometry)
    home = sample_home(sampled, grid, run.ct.geometry, run.plan.box)
    inside = np.zeros(region.shape, bool)
    if own is None:  # released: the sweep looks at the size
        _, threshold = threshold_by_volume(sampled, int(np.prod(box.shape)))
        inside = largest_component((home > threshold) & region)
    if not inside.any():
        inside = threshold_by_extents(home, region, tuple(share * (own or USUAL_THRESHOLD) for share in LOWERED))
    mask = np.zeros(run.ct.array.shape, bool)
    mask[run.plan.box.slices] = inside
    return mask
