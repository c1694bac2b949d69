"""Before any network runs: the complete report, the organ, the region and the box."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from LesionDiffusionLib.errors import PlacementError, ReportError
from LesionDiffusionLib.geometry import Box, axes_to_size
from LesionDiffusionLib.labels import OrganMap
from LesionDiffusionLib.lesion_types import LesionType, all_lesion_types, checks, draw_report, lesion_type
from LesionDiffusionLib.placement import Site, box_at, check_box, sample_box
from LesionDiffusionLib.report import LesionReport, RegionRule, region_rule
from LesionDiffusionLib.volume import Volume

SIZE_TRIES = 20
ENHANCED_ABOVE_HU = {"aorta": 90.0, "inferior vena cava": 90.0, "heart": 90.0}


@dataclass(frozen=True)
class Wish:
    """What the user asks for. At most one of ``box``, ``center_ras_mm`` and ``mask``.

    Attributes:
        report: stated attributes; the rest is drawn.
        box: half-open voxel box on the CT's grid.
        center_ras_mm: center of the lesion.
        mask: bool (I, J, K), a lesion drawn by hand: LMNet is skipped.
        avoid: organ or structure names the lesion must not touch.
    """

    report: LesionReport
    box: Box | None = None
    center_ras_mm: tuple[float, float, float] | None = None
    mask: np.ndarray | None = None
    avoid: Sequence[str] = ()


@dataclass(frozen=True)
class Plan:
    """What will be synthesized, and where."""

    report: LesionReport
    rule: RegionRule
    site: Site
    box: Box
    warnings: tuple[str, ...]


def plan_lesion(ct: Volume, organs: OrganMap, wish: Wish, generators: Sequence[np.random.Generator]) -> Plan:
    """Complete the report and find the lesion's box.

    Args:
        ct: HU (I, J, K).
        organs: organ map on the CT's grid.
        wish: what is asked for.
        generators: two sources of chance, for the report and for the place: a word changed in the report then leaves
            the place as it was.

    Raises:
        LabelError, ReportError: the organ is absent or unknown, or the report contradicts the organ map.
        PlacementError: no place obeys the region rule (after redrawing a size that was not asked for).
    """
    if sum(given is not None for given in (wish.box, wish.center_ras_mm, wish.mask)) > 1:
        raise PlacementError("expected at most one of box, center and mask, got several; keep one")
    report_chance, place_chance = generators
    given = _with_known(ct, organs, wish, report_chance)
    kind = _kind_of(given, organs, report_chance)
    for attempt in range(SIZE_TRIES):
        report = draw_report(kind, report_chance, organs.organs_present(), given)
        site = _site(organs, report, ct)
        try:
            box, notes = _box(wish, report, site, organs, place_chance)
        except PlacementError:
            if given.size_mm is not None or attempt == SIZE_TRIES - 1:
                raise
            continue
        if wish.box is not None or wish.mask is not None:
            report = dataclasses.replace(report, size_mm=axes_to_size(ct.geometry, box.size_mm(ct.geometry)))
        return Plan(report, region_rule(report), site, box, (*checks(report), *notes))
    raise AssertionError("unreachable: the last try returns or raises")


def measured_enhancement(ct: Volume, organs: OrganMap) -> str | None:
    """Enhancement status read off the large vessels; None when the map has none of them."""
    for name, limit_hu in ENHANCED_ABOVE_HU.items():
        label = name.replace(" ", "_")
        if label in organs.names_present() and organs.voxel_count(label) >= 50:
            vessel_hu = float(np.median(ct.array[organs.mask(label)]))
            return "enhanced CT" if vessel_hu > limit_hu else "non-contrast CT"
    return None


def _with_known(ct: Volume, organs: OrganMap, wish: Wish, generator: np.random.Generator) -> LesionReport:
    """The stated report plus what patient, box and mask say: one present side of a group, size, enhancement."""
    known = {}
    if wish.report.organ is not None:
        known["organ"] = organs.resolve_organ(wish.report.organ, generator)
    place = wish.box if wish.mask is None else Box.bounding(wish.mask)
    if place is not None:
        known["size_mm"] = axes_to_size(ct.geometry, place.size_mm(ct.geometry))
    if wish.report.enhancement is None and (status := measured_enhancement(ct, organs)):
        known["enhancement"] = status
    return dataclasses.replace(wish.report, **known)


def _kind_of(report: LesionReport, organs: OrganMap, generator: np.random.Generator) -> LesionType:
    """The lesion type asked for, or one that occurs in the organ."""
    chance = generator.random()
    if report.lesion_type is not None:
        return lesion_type(report.lesion_type)
    wanted = [report.organ] if report.organ else organs.organs_present()
    kinds = [kind for kind in all_lesion_types() if any(organ in kind.organs for organ in wanted)]
    if not kinds:
        if report.organ is None:
            raise ReportError(
                f"no known lesion occurs in the organs of this map ({', '.join(wanted) or 'none known'}); "
                "state a lesion type and an organ, or give another organ map"
            )
        kinds = [kind for kind in all_lesion_types() if kind.family == "cancer"]  # the widest choice of words
    return kinds[int(chance * len(kinds))]


def _site(organs: OrganMap, report: LesionReport, ct: Volume) -> Site:
    organ = organs.require(report.organ)
    return Site(organ, (organs.volume.array > 0) & ~organ, ct.geometry)


def _box(
    wish: Wish, report: LesionReport, site: Site, organs: OrganMap, generator: np.random.Generator
) -> tuple[Box, list[str]]:
    """The user's own place with warnings, or a drawn one."""
    rule, shape = region_rule(report), site.geometry.shape
    if wish.mask is not None:
        return Box.bounding(wish.mask), check_box(rule, site, Box.bounding(wish.mask))
    if wish.box is not None:
        if not Box.whole(shape).contains(wish.box):
            raise PlacementError(f"expected a box inside the CT of shape {shape}, got {wish.box}; move or shrink it")
        return wish.box, check_box(rule, site, wish.box)
    if wish.center_ras_mm is not None:
        box = box_at(wish.center_ras_mm, report.size_mm, site.geometry)
        return box, check_box(rule, site, box)
    avoid = organs.mask(wish.avoid) if wish.avoid else None
    return sample_box(rule, site, report.size_mm, generator, avoid), []
