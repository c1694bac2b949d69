"""Asked-for against measured: does a lesion look like its report?

The limits are stated once, here. They are wide enough for the meters' own error on a 3 mm CT.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from LesionDiffusionLib import meters
from LesionDiffusionLib.case import Measurement
from LesionDiffusionLib.geometry import Box, Geometry, axes_to_size
from LesionDiffusionLib.report import LesionReport, format_size

SIZE_TOLERANCE = 0.25  # of the longest extent, or one voxel where that is more
DENSITY_STEP_HU = 12.0  # hypodense and hyperdense lie at least this far from the organ, isodense at most
FLUID_HU = (-5.0, 25.0)
STONE_ABOVE_HU = 120.0
SOFT_TISSUE_HU = (10.0, 110.0)
GROUND_GLASS_HU = (-800.0, -250.0)
HETEROGENEOUS_STD_HU = 8.0
BLURRED_MARGIN_MM = 2.5
ROUND_SPHERICITY = 0.85
INSIDE_SHARE = 0.9
MARGIN_MM = 25.0  # of surroundings looked at


@dataclass(frozen=True)
class Finding:
    """A lesion and its surroundings, cropped: HU, masks and voxel size along the array axes."""

    ct_hu: np.ndarray
    mask: np.ndarray
    organ: np.ndarray
    geometry: Geometry

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return self.geometry.spacing_mm


def measure(
    report: LesionReport, ct_hu: np.ndarray, mask: np.ndarray, organ: np.ndarray, geometry: Geometry
) -> tuple[Measurement, ...]:
    """Measure every attribute that has a meter.

    Args:
        report: what was asked for.
        ct_hu: HU (I, J, K) with the lesion.
        mask: bool, the lesion, not empty.
        organ: bool, the target organ.
        geometry: the grid of all three.
    """
    margin = tuple(int(np.ceil(MARGIN_MM / s)) for s in geometry.spacing_mm)
    box = Box.bounding(mask).padded(margin).clipped(geometry.shape)
    finding = Finding(ct_hu[box.slices], mask[box.slices], organ[box.slices], geometry.cropped(box))
    results = (m(report, finding) for m in (_size, _location, _density, _variations, _margin, _shape))
    return tuple(result for result in results if result is not None)


def _size(report: LesionReport, f: Finding) -> Measurement | None:
    if report.size_mm is None:
        return None
    extents_mm = axes_to_size(f.geometry, meters.extents_mm(f.mask, f.spacing_mm))
    tolerance_mm = max(SIZE_TOLERANCE * max(report.size_mm), max(f.spacing_mm))
    fits = abs(max(extents_mm) - max(report.size_mm)) <= tolerance_mm
    return Measurement("size", format_size(report.size_mm), format_size(extents_mm), bool(fits))


def _location(report: LesionReport, f: Finding) -> Measurement | None:
    if report.lesion_location is None:
        return None
    share = meters.share_inside(f.mask, f.organ)
    fits = share >= INSIDE_SHARE if report.lesion_location == "inside organ" else share > 0.05
    return Measurement("lesion location", report.lesion_location, f"{share:.0%} inside the organ", fits)


def _density(report: LesionReport, f: Finding) -> Measurement | None:
    if report.density is None:
        return None
    lesion_hu = meters.median_hu(f.ct_hu, meters.core(f.mask, f.spacing_mm))
    organ_hu = meters.surrounding_hu(f.ct_hu, f.mask, f.organ, f.spacing_mm)
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
    return abs(step_hu) <= 1.5 * DENSITY_STEP_HU if report.density.startswith("isodense") else None


def _variations(report: LesionReport, f: Finding) -> Measurement | None:
    if report.density_variations is None:
        return None
    std_hu = meters.texture_std_hu(f.ct_hu, f.mask, f.spacing_mm)
    told = f"standard deviation {std_hu:.0f} HU"
    if f.mask.sum() < 50:
        return Measurement("density variations", report.density_variations, f"{told}, too small to judge", None)
    limit_hu = HETEROGENEOUS_STD_HU * (4 if "stone" in report.features else 1)
    fits = (std_hu >= limit_hu) == (report.density_variations == "heterogeneous")
    return Measurement("density variations", report.density_variations, told, bool(fits))


def _margin(report: LesionReport, f: Finding) -> Measurement | None:
    if report.surface not in ("well-defined margin", "ill-defined margin"):
        return None
    width_mm = meters.margin_width_mm(f.ct_hu, f.mask, f.spacing_mm)
    if width_mm is None:
        return Measurement("surface characteristics", report.surface, "no density step at the edge", None)
    limit_mm = max(BLURRED_MARGIN_MM, 0.9 * max(f.spacing_mm))
    fits = (width_mm >= limit_mm) == report.surface.startswith("ill")
    return Measurement("surface characteristics", report.surface, f"edge {width_mm:.1f} mm wide", fits)


def _shape(report: LesionReport, f: Finding) -> Measurement | None:
    if report.shape is None:
        return None
    value = meters.sphericity(f.mask, f.spacing_mm)
    told = f"sphericity {value:.2f}, convexity {meters.convexity(f.mask, f.spacing_mm):.2f}"
    if report.shape not in ("round-like", "cystic", "irregular") or f.mask.sum() < 50:
        return Measurement("shape", report.shape, told, None)
    return Measurement("shape", report.shape, told, (value < ROUND_SPHERICITY) == (report.shape == "irregular"))
