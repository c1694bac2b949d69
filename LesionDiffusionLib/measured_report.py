"""A report measured from a segmented lesion, for data nobody has described: what the meters can tell, and no more.

The limits are those of `fit`, so that a lesion made from such a report is judged by the ruler it was described with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from LesionDiffusionLib import meters
from LesionDiffusionLib.fit import (
    DENSITY_STEP_HU,
    FLUID_HU,
    GROUND_GLASS_HU,
    HETEROGENEOUS_STD_HU,
    LEAST_VOXELS,
    ROUND_SPHERICITY,
    STONE_ABOVE_HU,
    Finding,
    has_shape,
    is_blurred,
)
from LesionDiffusionLib.geometry import axes_to_size
from LesionDiffusionLib.labels import OrganMap
from LesionDiffusionLib.lesion_types import LesionType
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.vocabulary import vocabulary
from LesionDiffusionLib.volume import Volume

EXPOSED_SHARE = 0.1  # of the lesion's surface: more on the organ's outside means a lesion of its margin
PUNCTATE_MM = 8.0
CLOSE_MM = 2.0  # to another organ
VESSELS = ("aorta", "inferior_vena_cava", "heart", "heart_ventricle_left")
LEAST_VESSEL_VOXELS = 50  # fewer do not show the contrast phase
ENHANCED_HU, PLAIN_HU = 110.0, 75.0  # blood without contrast lies near 40; between these two it is not clear
STONE_MM = 25.0  # larger dense lesions are not called stones, where their type is not known
STONE_STEP_HU = 300.0  # above the organ: more than contrast does


def measured_report(
    finding: Finding,
    organ: str,
    others: np.ndarray | None = None,
    has_ct: bool = True,
    round_sphericity: float = ROUND_SPHERICITY,
    kind: LesionType | None = None,
    enhancement: str | None = None,
) -> LesionReport:
    """The report of a lesion.

    Args:
        finding: ``organ`` is the target organ with the lesion in it; without a CT its ``ct_hu`` is not looked at.
        organ: canonical name of the target organ.
        others: bool, other organs; None where nobody knows them.
        has_ct: whether densities can be measured.
        round_sphericity: from which on a lesion is round-like, else irregular.
        kind: the lesion's type, if it is known: only kidney stones and gallstones are stones then.
        enhancement: the scan's contrast phase, if it is known; it is stated as it is.

    Returns:
        What is measured: size, location, shape, relationship, and with a CT density, its variations and the margin.
        What cannot be told stays None; so does the shape of a lesion that `fit.has_shape` finds too small, unless it
        is punctate.
    """
    mask, spacing_mm = finding.mask, finding.spacing_mm
    stated = {
        "organ": organ,
        "organ_type": vocabulary().organ(organ).organ_type,
        "size_mm": axes_to_size(finding.geometry, meters.extents_mm(mask, spacing_mm)),
        "lesion_location": _location(mask, finding.organ),
        "shape": _shape(mask, spacing_mm, round_sphericity),
        "enhancement": enhancement,
    }
    if others is not None:
        stated["relationship"] = _relationship(mask, others, spacing_mm)
    if has_ct:
        stated |= _image_attributes(finding, "lung" in organ, kind, enhancement)
    return LesionReport(**stated)


def measured_enhancement(ct: Volume, organs: OrganMap, vessels: Sequence[str] = VESSELS) -> str | None:
    """Whether contrast was given, by the median of the first of these vessels that the map has; None where it has none
    or the median is not clear."""
    present = organs.names_present()
    seen = (name for name in vessels if name in present and organs.voxel_count(name) >= LEAST_VESSEL_VOXELS)
    vessel = next(seen, None)
    if vessel is None:
        return None
    vessel_hu = meters.median_hu(ct.array, organs.mask(vessel))
    if PLAIN_HU < vessel_hu < ENHANCED_HU:
        return None
    return "enhanced CT" if vessel_hu >= ENHANCED_HU else "non-contrast CT"


def _location(mask: np.ndarray, organ: np.ndarray) -> str:
    """At the margin where the lesion's own surface is part of the organ's outside, as far as the scan shows it."""
    shell = ndimage.binary_dilation(mask) & ~mask
    outside = shell & ~organ
    return "organ margin" if outside.sum() > EXPOSED_SHARE * shell.sum() else "inside organ"


def _shape(mask: np.ndarray, spacing_mm: tuple[float, float, float], round_sphericity: float) -> str | None:
    if max(meters.extents_mm(mask, spacing_mm)) <= PUNCTATE_MM:
        return "punctate"
    if not has_shape(mask):
        return None
    return "round-like" if meters.sphericity(mask, spacing_mm) >= round_sphericity else "irregular"


def _relationship(mask: np.ndarray, others: np.ndarray, spacing_mm: tuple[float, float, float]) -> str:
    near = ndimage.distance_transform_edt(~mask, sampling=spacing_mm) <= CLOSE_MM + 0.5 * max(spacing_mm)
    close = bool((near & others & ~mask).any())
    return "close relationship with adjacent organs" if close else "no close relationship with surrounding organs"


def _image_attributes(f: Finding, lung: bool, kind: LesionType | None, enhancement: str | None) -> dict[str, object]:
    """Density, variations, margin; and a stone where it must be one."""
    lesion_hu = meters.median_hu(f.ct_hu, meters.core(f.mask, f.spacing_mm))
    organ_hu = None if lung else meters.surrounding_hu(f.ct_hu, f.mask, f.organ & ~f.mask, f.spacing_mm)
    found: dict[str, object] = {"density": _lung_density(lesion_hu) if lung else _density(lesion_hu, organ_hu)}
    if not lung and _is_stone(f, lesion_hu, organ_hu, kind, enhancement):
        found["specific_features"] = ("stone",)
    if f.mask.sum() >= LEAST_VOXELS:
        uneven = meters.texture_std_hu(f.ct_hu, f.mask, f.spacing_mm) >= HETEROGENEOUS_STD_HU
        found["density_variations"] = "heterogeneous" if uneven else "homogeneous"
        width_mm = meters.margin_width_mm(f.ct_hu, f.mask, f.spacing_mm, f.organ)
        if width_mm is not None:
            blurred = is_blurred(width_mm, f.spacing_mm)
            found["surface"] = "ill-defined margin" if blurred else "well-defined margin"
    return found


def _is_stone(
    f: Finding, lesion_hu: float, organ_hu: float | None, kind: LesionType | None, enhancement: str | None
) -> bool:
    """Dense, and of a type that is a stone; of an unknown type small, and too dense for contrast alone."""
    if lesion_hu < STONE_ABOVE_HU:
        return False
    if kind is not None:
        return kind.family == "stone"
    above_contrast = organ_hu is not None and lesion_hu - organ_hu > STONE_STEP_HU
    small = max(meters.extents_mm(f.mask, f.spacing_mm)) < STONE_MM
    return small and (enhancement == "non-contrast CT" or above_contrast)


def _lung_density(lesion_hu: float) -> str | None:
    if GROUND_GLASS_HU[0] <= lesion_hu <= GROUND_GLASS_HU[1]:
        return "low-density ground-glass opacity"
    return "isodense soft tissue mass" if lesion_hu > GROUND_GLASS_HU[1] else None


def _density(lesion_hu: float, organ_hu: float | None) -> str | None:
    if organ_hu is None:
        return None
    step_hu = lesion_hu - organ_hu
    if step_hu <= -DENSITY_STEP_HU and FLUID_HU[0] <= lesion_hu <= FLUID_HU[1]:
        return "hypoattenuating fluid-like lesion"
    if abs(step_hu) < DENSITY_STEP_HU:
        return "isodense lesion"
    return "hypodense lesion" if step_hu < 0 else "hyperdense lesion"
