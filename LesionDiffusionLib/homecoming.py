"""Only the change comes home: from two decoded windows to new HU around the lesion, and the proof that no more changed.

``out = ct + w (synthesized - ct)`` with w = 1 in the lesion, falling smoothly to exactly 0 a few mm outside.
"""

from __future__ import annotations

import numpy as np

from LesionDiffusionLib.geometry import Box, Geometry
from LesionDiffusionLib.postprocess import blend_weight, keep_noise
from LesionDiffusionLib.resampling import home_box, sample_home
from LesionDiffusionLib.volume import Volume

FALLOFF_SPACINGS, LEAST_FALLOFF_MM = 3.0, 4.0  # of the window: what its latents and convolutions reach


def falloff_mm(mask: np.ndarray, grid: Geometry, patient: Geometry) -> float:
    """Distance from the lesion at which the change has faded to nothing.

    Three window voxels and at least 4 mm, but never beyond the window, where nothing was synthesized: a lesion nearly
    as large as its window fades faster, to nothing on the first voxel outside. The volume's own border does not count.
    """
    tight, home = Box.bounding(mask), home_box(grid, patient)
    room = [
        (margin + 1) * spacing
        for axis, spacing in enumerate(patient.spacing_mm)
        for margin, at_border in (
            (tight.start[axis] - home.start[axis], home.start[axis] == 0),
            (home.stop[axis] - tight.stop[axis], home.stop[axis] == patient.shape[axis]),
        )
        if not at_border
    ]
    wanted = max(LEAST_FALLOFF_MM, FALLOFF_SPACINGS * grid.spacing_mm[0])
    return float(min([wanted, *room]))


def bring_home(
    ct: Volume, mask: np.ndarray, grid: Geometry, windows: tuple[np.ndarray, np.ndarray], reach_mm: float
) -> tuple[Box, np.ndarray]:
    """New values round the lesion.

    The synthesized image is the decoded edited latent plus what the autoencoder cannot carry of this scan: without it
    the lesion would be a smooth patch in a noisy image, and its surroundings would take on the autoencoder's blur.
    Inside the lesion only the noise is kept, not edges of the anatomy that it replaces.

    Args:
        ct: HU (I, J, K).
        mask: bool (I, J, K), the lesion.
        grid: the window's grid.
        windows: HU on the window, decoded with and without the lesion.
        reach_mm: where the weight has fallen to 0, see `falloff_mm`.

    Returns:
        A box of the CT and its new values, in the CT's dtype; whole HU where the CT holds whole HU, as scanners store.
    """
    near = _around(mask, ct.geometry, reach_mm).intersection(home_box(grid, ct.geometry))
    inside, before = mask[near.slices], ct.array[near.slices].astype(np.float32)
    decoded, reconstructed = (sample_home(window, grid, ct.geometry, near) for window in windows)
    residual = np.where(inside, keep_noise(before, reconstructed, inside), before - reconstructed)
    weight = blend_weight(inside, ct.geometry.spacing_mm, reach_mm)
    changed = before + weight * (decoded + residual - before)
    if np.array_equal(before, np.rint(before)):
        changed = np.rint(changed)
    if np.issubdtype(ct.array.dtype, np.integer):
        limits = np.iinfo(ct.array.dtype)
        changed = np.clip(changed, limits.min, limits.max)
    return near, np.where(weight > 0, changed, before).astype(ct.array.dtype)


def measure_change(
    before: np.ndarray, after: np.ndarray, mask: np.ndarray, geometry: Geometry, reach_mm: float
) -> dict[str, float | int]:
    """Proof that nothing else changed, measured on two whole arrays, slab by slab.

    Returns:
        ``max_abs_change_outside_hu`` and ``voxels_changed_outside``, both beyond ``reach_mm`` of the lesion, and
        ``voxels_changed`` in all.
    """
    near = _around(mask, geometry, reach_mm)
    allowed = blend_weight(mask[near.slices], geometry.spacing_mm, reach_mm) > 0
    largest, outside, total = 0.0, 0, 0
    for k in range(before.shape[2]):
        difference = np.abs(after[:, :, k].astype(np.float32) - before[:, :, k])
        total += int(np.count_nonzero(difference))
        if near.start[2] <= k < near.stop[2]:
            difference[near.slices[:2]][allowed[:, :, k - near.start[2]]] = 0
        outside += int(np.count_nonzero(difference))
        largest = max(largest, float(difference.max()))
    return {"max_abs_change_outside_hu": largest, "voxels_changed_outside": outside, "voxels_changed": total}


def _around(mask: np.ndarray, geometry: Geometry, reach_mm: float) -> Box:
    reach_vox = tuple(int(np.ceil(reach_mm / s)) for s in geometry.spacing_mm)
    return Box.bounding(mask).padded(reach_vox).clipped(geometry.shape)
