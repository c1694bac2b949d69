"""Where a lesion may lie: region rules, random boxes that obey them, and checks of a user's own box.

A lesion box stands for the ellipsoid inscribed in it. Distances are measured in that ellipsoid's own radii: in a
distance transform whose voxel size is ``spacing / semi_axes``, the ellipsoid fits where the distance is at least 1.
One transform thus answers, for every voxel at once, whether a lesion of this size fits there.

Rules as in the LesionDiffusion paper (section 2.3) and, in intent, released-model 8.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from LesionDiffusionLib.errors import PlacementError
from LesionDiffusionLib.geometry import Box, Geometry, size_to_axes
from LesionDiffusionLib.report import RegionRule

WALL_MM = 4.0  # thickness taken for the wall of a hollow organ (stomach, bowel, bladder: 2-5 mm when distended)
PROTRUSION_MM = 3.0  # how far a wall lesion may reach beyond the organ's outline
STEPS_PER_RADIUS, STEPS_PER_ORGAN = 4, 24  # placement looks at the organ at least this finely
MARGIN_DEPTH = (0.1, 0.6)  # depth of a protruding lesion's center below the surface, in lesion radii


@dataclass(frozen=True)
class Site:
    """What placement needs to know of a patient, on the CT's grid.

    Attributes:
        organ: bool (I, J, K), the target organ.
        blocked: bool (I, J, K), other organs: the lesion may not grow into them.
        geometry: the grid of both.
    """

    organ: np.ndarray
    blocked: np.ndarray
    geometry: Geometry

    def cropped(self, box: Box) -> Site:
        return Site(self.organ[box.slices], self.blocked[box.slices], self.geometry.cropped(box))


def allowed_region(rule: RegionRule, site: Site, size_mm: tuple[float, float, float]) -> np.ndarray:
    """Voxels a lesion of ``size_mm`` (X, Y, Z) may occupy under ``rule``: bool, shape of ``site.organ``."""
    if rule == "inside parenchymal organ" or not site.organ.any():
        return site.organ.copy()
    spacing_mm = site.geometry.spacing_mm
    if rule == "inside hollow organ":
        lumen = ndimage.distance_transform_edt(_edged(site.organ), sampling=spacing_mm)[1:-1, 1:-1, 1:-1] > WALL_MM / 2
        return lumen if lumen.any() else site.organ.copy()
    reach_mm = PROTRUSION_MM if rule == "hollow organ margin" else max(PROTRUSION_MM, 0.45 * max(size_mm))
    outside_mm = ndimage.distance_transform_edt(~site.organ, sampling=spacing_mm)
    return (outside_mm <= reach_mm) & ~(site.blocked & ~site.organ)


def feasible_centers(rule: RegionRule, site: Site, size_mm: tuple[float, float, float]) -> np.ndarray:
    """Voxels on which a lesion of ``size_mm`` (X, Y, Z) may be centered: bool, shape of ``site.organ``."""
    if rule == "inside parenchymal organ":
        return _depth_in_radii(site.organ, site.geometry, size_mm) >= 1
    if rule == "inside hollow organ":
        return _depth_in_radii(allowed_region(rule, site, size_mm), site.geometry, size_mm) >= 1
    if rule == "hollow organ margin":
        depth_mm = ndimage.distance_transform_edt(_edged(site.organ), sampling=site.geometry.spacing_mm)
        centers = site.organ & (depth_mm[1:-1, 1:-1, 1:-1] <= max(WALL_MM, 1.01 * max(site.geometry.spacing_mm)))
    else:
        depth, shallowest = _depth_in_radii(site.organ, site.geometry, size_mm), _shallowest(site.geometry, size_mm)
        centers = (depth >= min(MARGIN_DEPTH[0], shallowest)) & (depth <= max(MARGIN_DEPTH[1], shallowest)) & site.organ
    # Prefer centers whose lesion would not be cut off by a neighboring organ.
    clear = centers & (_depth_in_radii(~(site.blocked & ~site.organ), site.geometry, size_mm) >= 0.6)
    return clear if clear.any() else centers


def sample_box(
    rule: RegionRule,
    site: Site,
    size_mm: tuple[float, float, float],
    generator: np.random.Generator,
    avoid: np.ndarray | None = None,
) -> Box:
    """Draw a lesion box whose center is uniform among the feasible ones.

    Args:
        rule: region rule.
        site: organ and neighbors on the CT's grid, arrays (I, J, K).
        size_mm: full extents (X, Y, Z) along R-L, A-P, S-I.
        generator: source of chance; the same state gives the same box.
        avoid: bool (I, J, K); the lesion's ellipsoid must not touch it (vessels, other lesions).

    Returns:
        Half-open voxel box on the CT's grid, wholly inside the volume.

    Raises:
        PlacementError: no center satisfies the rule; says which and the largest size that fits.
    """
    if not site.organ.any():
        raise PlacementError(
            "expected the target organ in the organ map, found none of its voxels; choose another organ"
        )
    crop = _neighborhood(site, size_mm)
    local, stride = _thinned(site.cropped(crop), size_mm)
    centers = feasible_centers(rule, local, size_mm)
    if avoid is not None:
        grown = ndimage.maximum_filter(avoid[crop.slices], stride)  # or a thin vessel lies between the voxels looked at
        clear = ~grown[tuple(slice(None, None, s) for s in stride)]
        centers &= _depth_in_radii(clear, local.geometry, size_mm) >= 1
    size_vox = size_in_voxels(site.geometry, size_mm)
    offset = np.asarray(crop.start)
    before = np.negative(centered_box((0, 0, 0), size_vox).start)  # voxels of a box that lie before its center
    for axis, n in enumerate(site.geometry.shape):  # the box must lie in the volume
        low, high = before[axis], before[axis] + n - size_vox[axis]
        index = np.arange(centers.shape[axis]) * stride[axis] + offset[axis]
        outside = (index < low) | (index > high)
        centers[tuple(outside if a == axis else slice(None) for a in range(3))] = False
    candidates = np.flatnonzero(centers)
    if candidates.size == 0:
        raise PlacementError(_why_not(rule, local, size_mm, avoid is not None))
    chosen = np.unravel_index(candidates[generator.integers(candidates.size)], centers.shape)
    return centered_box(np.asarray(chosen) * stride + offset, size_vox)


def centered_box(center_vox, size_vox) -> Box:
    """The box of ``size_vox`` voxels whose middle lies nearest to ``center_vox``; of two equally near the upper."""
    start = tuple(int(np.floor(c - (n - 1) / 2 + 0.5)) for c, n in zip(center_vox, size_vox, strict=True))
    return Box(start, tuple(s + n for s, n in zip(start, size_vox, strict=True)))


def size_in_voxels(geometry: Geometry, size_mm: tuple[float, float, float]) -> tuple[int, int, int]:
    """Voxels along i, j, k of a lesion of ``size_mm`` (X, Y, Z), at least one along each."""
    per_axis_mm = size_to_axes(geometry, size_mm)
    return tuple(max(1, round(m / s)) for m, s in zip(per_axis_mm, geometry.spacing_mm, strict=True))


def box_at(center_ras_mm, size_mm: tuple[float, float, float], geometry: Geometry) -> Box:
    """The box of ``size_mm`` (X, Y, Z) round a point given in RAS mm.

    Raises:
        PlacementError: the point lies outside the volume.
    """
    center_vox = geometry.to_voxel(np.asarray(center_ras_mm, float))
    if not np.all((center_vox >= -0.5) & (center_vox <= np.asarray(geometry.shape) - 0.5)):  # NaN fails, too
        near, far = np.sort(geometry.to_ras(np.array([(0, 0, 0), np.asarray(geometry.shape) - 1.0])), axis=0)
        raise PlacementError(
            f"expected a center inside the CT (RAS about {np.round(near).tolist()} to {np.round(far).tolist()} mm), "
            f"got {list(map(float, center_ras_mm))}; give the point in RAS mm (LPS tools flip the first two signs)"
        )
    return centered_box(center_vox, size_in_voxels(geometry, size_mm)).clipped(geometry.shape)


def check_place(rule: RegionRule, site: Site, lesion: np.ndarray) -> list[str]:
    """Warnings for a lesion's place: one sentence per broken rule, none when it fits.

    Args:
        rule: region rule.
        site: cropped to the lesion's box.
        lesion: bool, shape of ``site.organ``, at least one voxel.
    """
    inside = float(site.organ[lesion].mean())
    warnings = []
    if inside == 0:
        warnings.append("the lesion's place does not touch the target organ")
    elif rule.startswith("inside") and inside < 0.95:
        warnings.append(f"only {inside:.0%} of the lesion's place lies inside the organ, the report says inside it")
    elif rule == "parenchymal organ margin" and inside > 0.98:
        warnings.append("the report says organ margin, but the lesion's place lies wholly inside the organ")
    other = float((site.blocked & ~site.organ)[lesion].mean())
    if other > 0.1:
        warnings.append(f"{other:.0%} of the lesion's place belongs to other organs")
    return warnings


def inscribed_ellipsoid(shape: tuple[int, int, int]) -> np.ndarray:
    """Bool array of ``shape``: the voxels whose centers lie in the inscribed ellipsoid (never empty)."""
    axes = [((np.arange(n) + 0.5) / n * 2 - 1) ** 2 for n in shape]
    return axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :] <= 1.0


def _neighborhood(site: Site, size_mm: tuple[float, float, float]) -> Box:
    """The organ and one lesion around it: all that placement has to look at."""
    return Box.bounding(site.organ).padded(size_in_voxels(site.geometry, size_mm)).clipped(site.geometry.shape)


def _thinned(site: Site, size_mm: tuple[float, float, float]) -> tuple[Site, tuple[int, int, int]]:
    """The site on every n-th voxel, and n per axis: large lesions in large organs need no finer look, and transforms of
    a whole lung at 0.7 mm take most of a minute."""
    radii_mm = [m / 2 for m in size_to_axes(site.geometry, size_mm)]
    extents = Box.bounding(site.organ).shape
    stride = tuple(
        max(1, min(int(r / (STEPS_PER_RADIUS * s)), n // STEPS_PER_ORGAN))
        for r, s, n in zip(radii_mm, site.geometry.spacing_mm, extents, strict=True)
    )
    index = tuple(slice(None, None, s) for s in stride)
    organ = site.organ[index]
    if stride == (1, 1, 1) or not organ.any():
        return site, (1, 1, 1)
    affine = site.geometry.affine_ras @ np.diag([*stride, 1.0])
    return Site(organ, site.blocked[index], Geometry(organ.shape, affine)), stride


def _edged(mask: np.ndarray) -> np.ndarray:
    """``mask`` with a rim of background, so that the volume's border counts as the organ's border."""
    return np.pad(mask, 1)


def _depth_in_radii(mask: np.ndarray, geometry: Geometry, size_mm: tuple[float, float, float]) -> np.ndarray:
    """Distance to the surface of ``mask`` in radii of the lesion's ellipsoid, 0 outside.

    The surface lies half a voxel before the nearest voxel outside.
    """
    sampling = _radii_per_voxel(geometry, size_mm)
    distance = ndimage.distance_transform_edt(_edged(mask), sampling=sampling)[1:-1, 1:-1, 1:-1]
    return np.maximum(distance - 0.5 * min(sampling), 0)


def _shallowest(geometry: Geometry, size_mm: tuple[float, float, float]) -> float:
    """Depth of the outermost voxels, in radii: more than any limit where voxels are larger than the lesion."""
    sampling = _radii_per_voxel(geometry, size_mm)
    return max(sampling) - 0.5 * min(sampling)


def _radii_per_voxel(geometry: Geometry, size_mm: tuple[float, float, float]) -> list[float]:
    per_axis_mm = size_to_axes(geometry, size_mm)
    return [s / max(m / 2, s / 2) for m, s in zip(per_axis_mm, geometry.spacing_mm, strict=True)]


def _why_not(rule: RegionRule, site: Site, size_mm: tuple[float, float, float], avoiding: bool) -> str:
    size = "x".join(f"{m:g}" for m in size_mm)
    if avoiding:
        return (
            f"no place for a {size} mm lesion under the rule '{rule}' that keeps clear of what must be avoided; "
            "make it smaller or avoid less"
        )
    if rule.endswith("margin"):
        return f"no place for a {size} mm lesion at the organ's margin inside the CT; make it smaller or give a box"
    share = float(_depth_in_radii(allowed_region(rule, site, size_mm), site.geometry, size_mm).max())
    largest = "x".join(f"{np.floor(m * min(share, 1)):.0f}" for m in size_mm)
    return (
        f"expected room for a {size} mm lesion under the rule '{rule}', but at most {largest} mm of these proportions "
        "fit; make the lesion smaller, choose another location or give a box"
    )
