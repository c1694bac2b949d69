"""Asked-for against measured: does a lesion look like its report?

The limits are stated once, here. They are wide enough for the meters' own error on a 3 mm CT.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from LesionDiffusionLib import meters
from LesionDiffusionLib.case import Measurement
from LesionDiffusionLib.geometry import Box, Geometry, axes_to_size
from LesionDiffusionLib.placement import WALL_MM
from LesionDiffusionLib.report import LesionReport, format_size

SIZE_TOLERANCE = 0.25  # of each extent, or one voxel where that is more
DENSITY_STEP_HU = 12.0  # hypodense and hyperdense lie at least this far from the organ, isodense nearer
FLUID_HU = (-5.0, 25.0)
STONE_ABOVE_HU = 120.0
SOFT_TISSUE_HU = (10.0, 110.0)
GROUND_GLASS_HU = (-800.0, -250.0)
HETEROGENEOUS_STD_HU = 8.0
BLURRED_MARGIN_MM = 2.0
ROUND_SPHERICITY = 0.85
INSIDE_SHARE = 0.9
LEAST_VOXELS = 50  # below them the texture is that of the voxel grid
LEAST_SHAPE_VOXELS = 400  # below them corners and dents are lost, and rods, crescents and lobes measure as round
LEAST_SLICES = 3  # along each axis; what a lesion of two slices looks like between them nobody knows
MARGIN_MM = 25.0  # of surroundings looked at


@dataclass(frozen=True)
class Finding:
    """A lesion and its surroundings, see `surroundings`: arrays (I, J, K) and their grid."""

    ct_hu: np.ndarray
    mask: np.ndarray
    organ: np.ndarray | None  # None: not known
    geometry: Geometry

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return self.geometry.spacing_mm


def surroundings(mask: np.ndarray, geometry: Geometry) -> Box:
    """The part of a volume that the measurements look at: the lesion and MARGIN_MM around it."""
    margin = tuple(int(np.ceil(MARGIN_MM / s)) for s in geometry.spacing_mm)
    return Box.bounding(mask).padded(margin).clipped(geometry.shape)


def measure(report: LesionReport, finding: Finding) -> tuple[Measurement, ...]:
    """Measure every stated attribute that has a meter."""
    results = (m(report, finding) for m in (_size, _location, _density, _variations, _margin, _shape))
    return tuple(result for result in results if result is not None)


def _size(report: LesionReport, f: Finding) -> Measurement | None:
    if report.size_mm is None:
        return None
    extents_mm = axes_to_size(f.geometry, meters.extents_mm(f.mask, f.spacing_mm))
    voxel_mm = axes_to_size(f.geometry, f.spacing_mm)
    fits = all(
        abs(got - wanted) <= max(SIZE_TOLERANCE * wanted, voxel)
        for got, wanted, voxel in zip(extents_mm, report.size_mm, voxel_mm, strict=True)
    )
    return Measurement("size", format_size(report.size_mm), format_size(extents_mm), fits)


def _location(report: LesionReport, f: Finding) -> Measurement | None:
    """Inside: nearly all of it lies in the organ. Margin: it touches the organ and comes near its surface."""
    if report.lesion_location is None:
        return None
    if f.organ is None:
        return Measurement("lesion location", report.lesion_location, "no organ map", None)
    share = meters.share_inside(f.mask, f.organ)
    depth_mm = ndimage.distance_transform_edt(f.organ, sampling=f.spacing_mm)[f.mask].min()
    told = f"{share:.0%} inside the organ" + (f", {depth_mm:.0f} mm below its surface" if depth_mm else "")
    near_mm = max(WALL_MM if report.organ_type == "hollow organ" else 0, 1.01 * max(f.spacing_mm))
    fits = share >= INSIDE_SHARE if report.lesion_location == "inside organ" else share > 0.05 and depth_mm <= near_mm
    return Measurement("lesion location", report.lesion_location, told, bool(fits))


def _density(report: LesionReport, f: Finding) -> Measurement | None:
    if report.density is None:
        return None
    lesion_hu = meters.median_hu(f.ct_hu, meters.core(f.mask, f.spacing_mm))
    organ_hu = None if f.organ is None else meters.surrounding_hu(f.ct_hu, f.mask, f.organ, f.spacing_mm)
    fits = _density_fits(report, lesion_hu, organ_hu)
    around = "no organ around it" if organ_hu is None else f"organ {organ_hu:.0f} HU"
    return Measurement("density", report.density, f"{lesion_hu:.0f} HU ({around})", fits)


def _density_fits(report: LesionReport, lesion_hu: float, organ_hu: float | None) -> bool | None:
    ranges = {"fluid-like": FLUID_HU, "peripheral low-density": SOFT_TISSUE_HU, "soft tissue": SOFT_TISSUE_HU}
    ranges |= {"ground-glass": GROUND_GLASS_HU}
    if "stone" in report.features:
        return lesion_hu >= STONE_ABOVE_HU
    for word, (low, high) in ranges.items():
        if word in report.density:
            return low <= lesion_hu <= high
    if organ_hu is None:
        return None
    step_hu = lesion_hu - organ_hu
    if report.density.startswith(("hypodense", "ring")):
        return step_hu <= -DENSITY_STEP_HU
    if report.density.startswith("hyperdense"):
        return step_hu >= DENSITY_STEP_HU
    return abs(step_hu) < DENSITY_STEP_HU if report.density.startswith("isodense") else None


def _variations(report: LesionReport, f: Finding) -> Measurement | None:
    if report.density_variations is None:
        return None
    std_hu = meters.texture_std_hu(f.ct_hu, f.mask, f.spacing_mm)
    told = f"standard deviation {std_hu:.0f} HU"
    if f.mask.sum() < LEAST_VOXELS:
        return Measurement("density variations", report.density_variations, f"{told}, too small to judge", None)
    limit_hu = HETEROGENEOUS_STD_HU * (4 if "stone" in report.features else 1)
    fits = (std_hu >= limit_hu) == (report.density_variations == "heterogeneous")
    return Measurement("density variations", report.density_variations, told, bool(fits))


def _margin(report: LesionReport, f: Finding) -> Measurement | None:
    if report.surface not in ("well-defined margin", "ill-defined margin"):
        return None
    width_mm = meters.margin_width_mm(f.ct_hu, f.mask, f.spacing_mm, f.organ)
    if width_mm is None:
        return Measurement("surface characteristics", report.surface, "no edge that could be measured", None)
    fits = is_blurred(width_mm, f.spacing_mm) == report.surface.startswith("ill")
    return Measurement("surface characteristics", report.surface, f"edge {width_mm:.1f} mm wide", fits)


def is_blurred(width_mm: float, spacing_mm: tuple[float, float, float]) -> bool:
    """Whether an edge of this width counts as ill-defined; averaged over voxels, the sharpest is nearly one wide."""
    return width_mm >= max(BLURRED_MARGIN_MM, float(np.prod(spacing_mm)) ** (1 / 3))


def has_shape(mask: np.ndarray) -> bool:
    """Whether a mask has the voxels and slices that a shape can be told from."""
    return bool(mask.sum() >= LEAST_SHAPE_VOXELS) and min(Box.bounding(mask).shape) >= LEAST_SLICES


def _shape(report: LesionReport, f: Finding) -> Measurement | None:
    if report.shape is None:
        return None
    if not has_shape(f.mask):
        return Measurement("shape", report.shape, "too small to measure", None)
    value = meters.sphericity(f.mask, f.spacing_mm)
    told = f"sphericity {value:.2f}, convexity {meters.convexity(f.mask, f.spacing_mm):.2f}"
    if report.shape not in ("round-like", "cystic", "irregular"):
        return Measurement("shape", report.shape, told, None)
    return Measurement("shape", report.shape, told, (value < ROUND_SPHERICITY) == (report.shape == "irregular"))
