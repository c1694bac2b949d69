"""Lesions drawn several times in the same mask and with the same seed, alike but for one word."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from measure_text import DENSITIES, LESION

from LesionDiffusionLib import meters
from LesionDiffusionLib.case import Case
from LesionDiffusionLib.errors import PlacementError
from LesionDiffusionLib.labels import OrganMap
from LesionDiffusionLib.models import Models
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.synthesis import Settings, synthesize
from LesionDiffusionLib.training.starter_recipe import ORGANS
from LesionDiffusionLib.volume import Volume
from LesionDiffusionLib.wish import Wish

PLAIN = dataclasses.replace(LESION, specific_features=(), enhancement=None)  # has the first word of every row


def _median_hu(ct_hu, mask, spacing_mm, organ) -> float:
    return meters.median_hu(ct_hu, mask)


def _std_hu(ct_hu, mask, spacing_mm, organ) -> float:
    return meters.texture_std_hu(ct_hu, mask, spacing_mm)


WORDS = {
    "hypo-, iso-, hyperdense in order": ("density", DENSITIES, _median_hu),
    "heterogeneous varies more": ("density_variations", ("homogeneous", "heterogeneous"), _std_hu),
    "ill-defined is wider": ("surface", ("well-defined margin", "ill-defined margin"), meters.margin_width_mm),
}


def comparable(drawn: Iterable[LesionReport], count: int) -> list[LesionReport]:
    """Plain lesions of ORGANS, of many sizes, shapes and places, whose words can be exchanged one by one."""
    plain = (report for report in drawn if report.organ in ORGANS and "stone" not in report.features)
    kept = ("lesion_type", "organ", "lesion_location", "shape", "size_mm")
    alike = (dataclasses.replace(PLAIN, **{name: getattr(report, name) for name in kept}) for report in plain)
    return list(itertools.islice(alike, count))


def shares_in_order(
    ct: Volume, organs: OrganMap, models: Models, lesions: list[LesionReport], seeds: int, words: Mapping = WORDS
) -> dict[str, str]:
    """For every row of ``words`` (field, words, meter) the share of lesions that measure more with every next word.

    Every lesion is drawn with every seed; those without a place or a measurable edge are counted.
    """
    found = {name: [] for name in words}
    for seed, (number, report) in itertools.product(range(seeds), enumerate(lesions)):
        draw = _drawing(ct, organs, models, Settings(number + 1000 * seed))
        for name, row in words.items():
            found[name].append(_in_order(draw, organs, report, *row))
    return {name: _share(judged) for name, judged in found.items()}


def _drawing(ct: Volume, organs: OrganMap, models: Models, settings: Settings) -> Callable[[LesionReport], Case]:
    """Draws reports in the mask of the first one; what several rows ask for is drawn once."""
    cases = {}

    def draw(report: LesionReport) -> Case:
        if report not in cases:
            mask = next(iter(cases.values())).mask.array if cases else None
            cases[report] = synthesize(ct, organs, Wish(report, mask=mask), bundle=models, settings=settings)
        return cases[report]

    return draw


def _in_order(draw: Callable, organs: OrganMap, report: LesionReport, field: str, words, meter) -> bool | None:
    try:
        cases = [draw(dataclasses.replace(report, **{field: word})) for word in words]
    except PlacementError:
        return None
    organ = organs.mask(cases[0].report.organ)
    values = [meter(case.ct.array, case.mask.array, case.ct.geometry.spacing_mm, organ) for case in cases]
    print(report.describe(), field, values, flush=True)
    return None if None in values else all(low < high for low, high in itertools.pairwise(values))


def _share(judged: list[bool | None]) -> str:
    told = [value for value in judged if value is not None]
    share = f"{100 * np.mean(told):.1f} % of {len(told)}" if told else "none"
    return f"{share} ({len(judged) - len(told)} without a place or an edge)"
