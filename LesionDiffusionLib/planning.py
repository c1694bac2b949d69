"""Before any network runs: the complete report, the organ, the region and the box."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from LesionDiffusionLib.errors import LabelError, PlacementError, ReportError
from LesionDiffusionLib.geometry import Box, Geometry, axes_to_size
from LesionDiffusionLib.labels import OrganMap
from LesionDiffusionLib.lesion_types import LesionType, checks, draw_report, draw_size, fitting_types, lesion_type
from LesionDiffusionLib.measured_report import measured_enhancement
from LesionDiffusionLib.placement import Site, check_place, sample_box, size_in_voxels
from LesionDiffusionLib.report import LesionReport, RegionRule, format_size, region_rule
from LesionDiffusionLib.vocabulary import vocabulary
from LesionDiffusionLib.volume import Volume
from LesionDiffusionLib.wish import Wish, check_wish, organ_there, own_lesion

SIZE_TRIES = 20


@dataclass(frozen=True)
class Plan:
    """What will be synthesized, and where."""

    report: LesionReport
    rule: RegionRule
    site: Site
    box: Box
    place: str  # see Wish.place
    warnings: tuple[str, ...]


def plan_lesion(ct: Volume, organs: OrganMap, wish: Wish, generators: Sequence[np.random.Generator]) -> Plan:
    """Complete the report and find the lesion's box.

    Args:
        ct: HU (I, J, K).
        organs: organ map on the CT's grid; an unknown one suffices for a mask drawn by hand.
        wish: what is asked for.
        generators: two sources of chance, for the report and for the place: a word changed in the report then leaves
            the place as it was.

    Raises:
        LabelError, ReportError: the organ is absent or unknown, or the report contradicts the organ map.
        PlacementError: no place obeys the region rule (after redrawing size and organ, where they were not asked for).
        VolumeError: the mask does not fit the CT.
    """
    check_wish(wish, ct)
    if organs.is_unknown and wish.mask is None:
        raise LabelError("expected an organ map to place the lesion in, got none; give one, or draw the mask by hand")
    report_chance = generators[0]
    given, notes = _with_known(ct, organs, wish, report_chance)
    kind = _kind_of(given, organs, report_chance)
    report = draw_report(kind, report_chance, _present(organs), given)
    avoid = organs.mask(wish.avoid) if wish.avoid else None
    if wish.place == "rule":
        others = _other_organs(wish.report.organ, kind, organs, report.organ)
        sites = ((name, _site(organs, name, ct.geometry)) for name in (report.organ, *others))
        report, site, box = _drawn_place(report, given, kind, sites, avoid, generators)
    else:
        site = _site(organs, report.organ, ct.geometry)
        report, box, more = _own_place(wish, report, site, avoid)
        notes += ["no organ map was given, so the lesion's place was not checked"] if organs.is_unknown else more
    return Plan(report, region_rule(report), site, box, wish.place, (*checks(report), *notes))


def _with_known(
    ct: Volume, organs: OrganMap, wish: Wish, generator: np.random.Generator
) -> tuple[LesionReport, list[str]]:
    """The stated report plus what patient, box and mask say (one present side of a group, size, enhancement)."""
    known, notes = {}, []
    side = np.random.default_rng(generator.integers(2**63))  # drawn always: stating an organ changes no other draw
    if wish.report.organ is not None:
        known["organ"] = organs.resolve_organ(wish.report.organ, side)
    if (there := organ_there(ct.geometry, organs, wish)) is not None:
        known["organ"] = there
    place = wish.box if wish.mask is None else Box.bounding(wish.mask)
    if place is not None:
        known["size_mm"] = axes_to_size(ct.geometry, place.size_mm(ct.geometry))
        if wish.report.size_mm is not None and format_size(wish.report.size_mm) != format_size(known["size_mm"]):
            what = f"the {wish.place} is {format_size(known['size_mm'])}"
            notes.append(f"{what}, so the size {format_size(wish.report.size_mm)} was not used")
    measured = measured_enhancement(ct, organs)
    if wish.report.enhancement is None and measured is not None:
        known["enhancement"] = measured
    elif measured not in (None, wish.report.enhancement):
        notes.append(f'the report says "{wish.report.enhancement}", but the vessels look like {measured}')
    return dataclasses.replace(wish.report, **known), notes


def _kind_of(report: LesionReport, organs: OrganMap, generator: np.random.Generator) -> LesionType | None:
    """The lesion type asked for, or one that suits the stated words; None for an organ without known lesions."""
    chance = generator.random()
    if report.lesion_type is not None:
        return lesion_type(report.lesion_type)
    kinds = fitting_types(report, _present(organs))
    if not kinds and report.organ is None:
        present = ", ".join(organs.organs_present()) or "none that the vocabulary knows"
        raise ReportError(
            f"no known lesion occurs in the organs of this map (present: {present}); "
            "state a lesion type and an organ, or give another organ map"
        )
    return kinds[int(chance * len(kinds))] if kinds else None


def _present(organs: OrganMap) -> list[str] | None:
    """Organs a lesion may be drawn in; None allows all."""
    return None if organs.is_unknown else organs.organs_present()


def _site(organs: OrganMap, name: str, geometry: Geometry) -> Site:
    organ = organs.mask(name) if organs.is_unknown else organs.require(name)
    return Site(organ, (organs.volume.array > 0) & ~organ, geometry)


def _other_organs(stated: str | None, kind: LesionType | None, organs: OrganMap, drawn: str) -> list[str]:
    """Where else the lesion may lie by what was stated (an organ, a group such as "kidney", or none), largest first."""
    if stated is not None:
        possible = vocabulary().organ(stated).parts
    else:
        possible = () if kind is None else tuple(kind.organs)
    present = {name for name in possible if name != drawn and organs.voxel_count(name)}
    return sorted(present, key=lambda name: (-organs.voxel_count(name), name))


def _drawn_place(
    report: LesionReport,
    given: LesionReport,
    kind: LesionType | None,
    sites: Iterable[tuple[str, Site]],
    avoid: np.ndarray | None,
    generators: Sequence[np.random.Generator],
) -> tuple[LesionReport, Site, Box]:
    """A box by the region rule in the first of ``sites`` (by organ) that has room; a size that was not asked for is
    redrawn before another organ is tried. Raises the first organ's PlacementError when none has."""
    errors = []
    for organ, site in sites:
        try:
            placed, box = _sized_place(dataclasses.replace(report, organ=organ), given, kind, site, avoid, generators)
            return placed, site, box
        except PlacementError as error:
            errors.append(error)
    raise errors[0]


def _sized_place(
    report: LesionReport,
    given: LesionReport,
    kind: LesionType | None,
    site: Site,
    avoid: np.ndarray | None,
    generators: Sequence[np.random.Generator],
) -> tuple[LesionReport, Box]:
    """A box in one organ; a size that was not asked for is redrawn when it finds no place."""
    report_chance, place_chance = generators
    for _ in range(SIZE_TRIES - 1):
        try:
            return report, sample_box(region_rule(report), site, report.size_mm, place_chance, avoid)
        except PlacementError:
            if given.size_mm is not None:
                raise
            report = dataclasses.replace(report, size_mm=draw_size(kind, report_chance))
    return report, sample_box(region_rule(report), site, report.size_mm, place_chance, avoid)


def _own_place(
    wish: Wish, report: LesionReport, site: Site, avoid: np.ndarray | None
) -> tuple[LesionReport, Box, list[str]]:
    """The user's own box, center or mask always wins: with warnings, never a refusal."""
    box, lesion = own_lesion(wish, site.geometry, report.size_mm)
    notes = check_place(region_rule(report), site.cropped(box), lesion)
    size_mm = axes_to_size(site.geometry, box.size_mm(site.geometry))
    if wish.place == "center" and box.shape != size_in_voxels(site.geometry, report.size_mm):
        cut = f"of the {format_size(report.size_mm)} only {format_size(size_mm)} are left"
        notes.append(f"the CT ends near the center: {cut}; move the center for a whole lesion")
    if avoid is not None and avoid[box.slices][lesion].any():
        notes.append(f"the {wish.place} touches what was to be avoided ({', '.join(wish.avoid)})")
    return dataclasses.replace(report, size_mm=size_mm), box, notes
