"""Meters: functions that measure one attribute of a lesion back from CT and mask.

They are the proof that a synthetic lesion is what its report says, and the ruler of every evaluation. All take bool
masks and HU arrays on one grid with ``spacing_mm`` along the array's axes; an empty mask raises ValueError.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage, special
from scipy.spatial import ConvexHull

from LesionDiffusionLib.geometry import Box

PROFILE_MM = 9.0  # a margin is looked for this far inside and outside the mask's surface
LEAST_SHELL, LEAST_STEP_HU = 4, 10.0  # voxels of a shell, and height of an edge, that can be measured
SCALES_MM = np.geomspace(0.15, 4.0, 40)  # of the logistic steps that are tried; the widest is a slope, no edge


def volume_mm3(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> float:
    """Volume in cubic mm."""
    _require_some(mask)
    return float(mask.sum() * np.prod(spacing_mm))


def extents_mm(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> tuple[float, float, float]:
    """Full extent along each array axis in mm, outer voxel edge to outer voxel edge."""
    _require_some(mask)
    used = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return tuple(float((u[-1] - u[0] + 1) * s) for u, s in zip(used, spacing_mm, strict=True))


def surface_mm2(mask: np.ndarray, spacing_mm: tuple[float, float, float], smooth_mm: float | None = None) -> float:
    """Surface area in square mm: the total variation of the slightly smoothed indicator function.

    The coarea formula makes the integral of |grad(chi)| equal to the area of the boundary; smoothing removes the
    staircase that makes counting voxel faces overestimate a sphere by half. Smoothing over the distance of thick slices
    would remove the lesion too, so an anisotropic mask is measured on isotropic voxels.
    """
    _require_some(mask)
    mask, spacing_mm = _isotropic(mask, spacing_mm)
    sigma_mm = smooth_mm or 0.8 * max(spacing_mm)
    margin = [math.ceil(4 * sigma_mm / s) for s in spacing_mm]
    padded = np.pad(mask.astype(np.float64), [(m, m) for m in margin])
    smooth = ndimage.gaussian_filter(padded, [sigma_mm / s for s in spacing_mm])
    gradient = np.gradient(smooth, *spacing_mm)
    return float(np.sqrt(sum(g * g for g in gradient)).sum() * np.prod(spacing_mm))


def sphericity(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> float:
    """Surface of the sphere of equal volume over the mask's surface: 1 for a sphere, less for anything else, from some
    thousand voxels on.

    A mask of few voxels loses its corners and part of its surface to the smoothing. A digitized sphere of 3000 voxels
    measures as 1.00, of 400 as 1.03, of 200 as 1.06, of 100 as 1.10, of 50 as 1.17 and a single voxel as 2.8; on slices
    five voxels thick one of 50 as 1.2 to 1.4. So below some 400 voxels most shapes come out as round.
    """
    _require_some(mask)
    mask, spacing_mm = _isotropic(mask, spacing_mm)
    volume = volume_mm3(mask, spacing_mm)
    return float(math.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / surface_mm2(mask, spacing_mm))


def convexity(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> float:
    """Volume over the volume of its convex hull: 1 for a convex mask, less with dents.

    The hull is that of the voxels' face centers: corners would inflate the hull of a small round mask by a tenth.
    """
    _require_some(mask)
    surface = mask & ~ndimage.binary_erosion(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]
    centers = np.argwhere(surface)
    faces = np.concatenate([np.eye(3), -np.eye(3)]) / 2
    points = np.unique((centers[:, None, :] + faces).reshape(-1, 3), axis=0)
    hull = ConvexHull(points * np.asarray(spacing_mm))
    return float(min(1.0, volume_mm3(mask, spacing_mm) / hull.volume))


def median_hu(ct_hu: np.ndarray, mask: np.ndarray) -> float:
    """Median HU inside the mask."""
    _require_some(mask)
    return float(np.median(ct_hu[mask]))


def core(mask: np.ndarray, spacing_mm: tuple[float, float, float], margin_mm: float = 1.5) -> np.ndarray:
    """The mask without a rim of ``margin_mm`` and at least one voxel (partial volume); the mask itself where nothing
    would be left."""
    _require_some(mask)
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    inner = (depth > margin_mm) & ndimage.binary_erosion(mask)
    return inner if inner.sum() >= max(8, 0.05 * mask.sum()) else mask.copy()


def texture_std_hu(
    ct_hu: np.ndarray, mask: np.ndarray, spacing_mm: tuple[float, float, float], smooth_mm: float = 2.0
) -> float:
    """Standard deviation of the lesion's slow density variations: noise is averaged away over ``smooth_mm``."""
    _require_some(mask)
    sigma = [smooth_mm / s for s in spacing_mm]
    weight = ndimage.gaussian_filter(mask.astype(np.float64), sigma)
    smooth = ndimage.gaussian_filter(np.where(mask, ct_hu, 0).astype(np.float64), sigma) / np.maximum(weight, 1e-9)
    return float(smooth[core(mask, spacing_mm)].std())


def surrounding_hu(
    ct_hu: np.ndarray,
    mask: np.ndarray,
    organ: np.ndarray,
    spacing_mm: tuple[float, float, float],
    width_mm: float = 10.0,
) -> float | None:
    """Median HU of the organ in a ring from 2 mm to ``2 mm + width_mm`` around the lesion; None without organ there."""
    _require_some(mask)
    distance_mm = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    ring = organ & (distance_mm > 2.0) & (distance_mm <= 2.0 + width_mm)
    return float(np.median(ct_hu[ring])) if ring.sum() >= 8 else None


def margin_width_mm(
    ct_hu: np.ndarray, mask: np.ndarray, spacing_mm: tuple[float, float, float], organ: np.ndarray | None = None
) -> float | None:
    """Width of the lesion's edge: the distance over which its mean profile goes from 20 % to 80 % of the step.

    The profile is the mean HU over shells of half a voxel, of equal signed distance to the mask's surface, from 9 mm
    inside to 9 mm outside; a logistic step is fitted to it, which finds edges narrower than the voxels, too. With
    ``organ`` only that part of the edge counts that lies in the organ, without its outermost voxels: fat and bowel
    behind a lesion at the margin are no part of its own edge.

    Returns:
        0.4 mm or more; None where there is no step of at least 10 HU, too little of an edge, or a slope all the way.
    """
    _require_some(mask)
    signed_mm, nearest = _signed_distance_mm(mask, spacing_mm)
    counts = np.ones(mask.shape, bool)
    if organ is not None:
        beside = ndimage.binary_erosion(organ | mask, border_value=1) & ~mask
        counts = np.pad(beside, 1)[tuple(nearest)]
    counts &= np.abs(signed_mm) <= PROFILE_MM
    distance_mm, profile_hu, voxels = _shells(signed_mm[counts], ct_hu[counts], 0.5 * min(spacing_mm))
    if min(np.sum(distance_mm < 0), np.sum(distance_mm > 0)) < 2:
        return None
    scale_mm, step_hu = _fitted_step(distance_mm, profile_hu, voxels, 1.5 * min(spacing_mm))
    is_edge = abs(step_hu) >= LEAST_STEP_HU and scale_mm < SCALES_MM[-1]
    return 2 * math.log(4) * scale_mm if is_edge else None


def _signed_distance_mm(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the mask's surface, between the centers of two voxels, negative inside; and for every voxel the
    indices (3, ...) of the nearest one outside (maybe itself), in the array with a border of one voxel."""
    here = (..., *mask.ndim * [slice(1, -1)])
    inside, nearest = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing_mm, return_indices=True)
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    half = 0.5 * min(spacing_mm)
    return np.where(mask, half - inside[here], outside - half), nearest[here]


def _shells(signed_mm: np.ndarray, ct_hu: np.ndarray, width_mm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean distance, mean HU and number of voxels of every shell of LEAST_SHELL voxels or more."""
    shell = np.floor((signed_mm + PROFILE_MM) / width_mm).astype(int)
    voxels = np.bincount(shell)
    kept = voxels >= LEAST_SHELL
    distance_mm, hu = (np.bincount(shell, values)[kept] / voxels[kept] for values in (signed_mm, ct_hu))
    return distance_mm, hu, voxels[kept]


def _fitted_step(distance_mm: np.ndarray, hu: np.ndarray, voxels: np.ndarray, shift_mm: float) -> tuple[float, float]:
    """Scale in mm and height in HU of the logistic step that fits best, at most ``shift_mm`` from the surface.

    For every position and scale the best two levels are known in closed form, so that nothing can fail to converge.
    """
    center = np.linspace(-shift_mm, shift_mm, 13)[:, None, None]
    step = special.expit((distance_mm - center) / SCALES_MM[:, None])
    share = voxels / voxels.sum()
    step -= (share * step).sum(axis=-1, keepdims=True)
    variance = (share * step**2).sum(axis=-1)
    covariance = (share * step * hu).sum(axis=-1)
    explained = covariance**2 / np.maximum(variance, 1e-9)
    best = np.unravel_index(np.argmax(explained), explained.shape)
    return float(SCALES_MM[best[1]]), float(covariance[best] / max(variance[best], 1e-9))


def share_inside(mask: np.ndarray, region: np.ndarray) -> float:
    """Share of the lesion's voxels that lie in ``region``."""
    _require_some(mask)
    return float(region[mask].mean())


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice similarity coefficient; two empty masks agree perfectly (1)."""
    total = int(a.sum()) + int(b.sum())
    return 1.0 if total == 0 else float(2 * np.count_nonzero(a & b) / total)


def _isotropic(
    mask: np.ndarray, spacing_mm: tuple[float, float, float]
) -> tuple[np.ndarray, tuple[float, float, float]]:
    """The mask on isotropic voxels of the same volume, and their spacing; as it is where its voxels are isotropic.

    Shape-based interpolation: the signed distance to the surface is smooth between two slices, the mask is not.
    """
    if np.allclose(spacing_mm, spacing_mm[0], rtol=1e-3, atol=0):
        return mask, spacing_mm
    voxel_mm = float(np.prod(spacing_mm)) ** (1 / 3)
    padded = np.pad(mask[Box.bounding(mask).slices], 1)
    inside_mm, outside_mm = (ndimage.distance_transform_edt(m, sampling=spacing_mm) for m in (padded, ~padded))
    steps = [voxel_mm / s for s in spacing_mm]
    shape = tuple(math.ceil((n - 1) / step) + 1 for n, step in zip(padded.shape, steps, strict=True))
    distance_mm = ndimage.affine_transform(inside_mm - outside_mm, steps, output_shape=shape, order=1, cval=-voxel_mm)
    if not (distance_mm > 0).any():  # thinner than these voxels: no grid tells its shape
        return mask, spacing_mm
    return distance_mm > 0, (voxel_mm,) * 3


def _require_some(mask: np.ndarray) -> None:
    if not mask.any():
        raise ValueError("expected a mask with at least one voxel, got an empty one")
