"""The lesion types: where each occurs, how it looks, how large it is; and random reports drawn from that.

The numbers are data (``Resources/lesion_types.json``, with their sources). Source of the list: LesionDiffusion paper,
section 3 (14 types) and its test on an unseen one.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from LesionDiffusionLib.errors import ReportError
from LesionDiffusionLib.report import FIELDS, LesionReport, format_size
from LesionDiffusionLib.resources import resource_path
from LesionDiffusionLib.vocabulary import LESION_TYPE, vocabulary

# Later attributes are drawn among the values that the earlier ones allow.
_DRAWN = (
    "lesion location",
    "shape",
    "enhancement status",
    "density",
    "density variations",
    "surface characteristics",
    "specific features",
    "relationship with surrounding organs",
)


@dataclass(frozen=True)
class SizeRange:
    """Longest extent in mm: outer limits (for warnings) and the range that draws use."""

    min: float
    low: float
    high: float
    max: float


@dataclass(frozen=True)
class LesionType:
    """One lesion type. All weights are relative, not normalized."""

    name: str
    family: str  # "cancer", "cyst", "stone" or "hemorrhage"
    organ: str  # the organ or group it is named after
    organs: Mapping[str, float]  # single organs it occurs in -> weight
    weights: Mapping[str, Mapping[str, float]]  # attribute -> plausible value, "none" or "a, b" -> weight
    size_mm: SizeRange
    aspect_ratio: tuple[float, float]  # shorter extents over the longest one
    longest_axis: tuple[float, float, float]  # weights of X, Y, Z
    source: str

    def occurs_in(self, organ: str) -> bool:
        """Whether it occurs in an organ, or in any part of a group such as "kidney"."""
        return any(part in self.organs for part in (organ, *vocabulary().organ(organ).parts))


def lesion_type(name: str) -> LesionType:
    """The lesion type of a name or synonym. Raises ReportError naming the known ones."""
    return _types()[vocabulary().canonical(LESION_TYPE, name)]


def all_lesion_types() -> tuple[LesionType, ...]:
    """Every lesion type, in the order of the paper's table."""
    return tuple(_types().values())


def draw_report(
    kind: LesionType,
    generator: np.random.Generator,
    organs_present: Collection[str] | None = None,
    given: LesionReport | None = None,
) -> LesionReport:
    """A complete random report: weighted draws, without contradictions, size log-uniform and rounded to mm.

    Everything is drawn first and then replaced by what ``given`` states, from a fixed number of random numbers. So the
    same generator state gives the same report, and two draws differ only in the attributes given (and the organ type,
    which follows the organ).

    organs_present: organ terms of the patient's map; None allows all. Raises ReportError when none of them fits.
    """
    given = given or LesionReport()
    chances = dict(zip(("organ", *_DRAWN), generator.random(len(_DRAWN) + 1), strict=True))
    size_chances = generator.random(4)
    organ = _draw_organ(kind, chances["organ"], organs_present, given.organ)
    drawn = {"organ type": (vocabulary().organs[organ].organ_type,)}
    for attribute in _DRAWN:
        drawn[attribute] = _draw_value(kind.weights[attribute], chances[attribute], attribute, drawn)
    report = LesionReport(kind.name, organ, _draw_size(kind, size_chances))
    fields = {FIELDS[name]: values if name == "specific features" else values[0] for name, values in drawn.items()}
    stated = {field: value for field in FIELDS.values() if (value := getattr(given, field)) is not None}
    if given.organ:
        fields["organ_type"] = vocabulary().organ(given.organ).organ_type
    return dataclasses.replace(report, **(fields | stated))


def checks(report: LesionReport) -> list[str]:
    """Warnings, one sentence each, about values that do not go together. Empty: nothing strange."""
    stated = {name: report.stated(name) for name in FIELDS}
    warnings = []
    if clash := vocabulary().contradiction(stated):
        warnings.append(f'"{clash[0]}" and "{clash[1]}" contradict each other')
    if report.organ and report.organ_type not in (None, vocabulary().organ(report.organ).organ_type):
        warnings.append(f'the {report.organ} is not a "{report.organ_type}"')
    if report.lesion_type:
        warnings += _type_checks(report, lesion_type(report.lesion_type), stated)
    return warnings


def _type_checks(report: LesionReport, kind: LesionType, stated: Mapping[str, Sequence[str]]) -> list[str]:
    warnings = []
    if report.organ and not kind.occurs_in(report.organ):
        warnings.append(f"{kind.name} does not occur in the {report.organ}; usual: {', '.join(kind.organs)}")
    for attribute, weights in kind.weights.items():
        usual = dict.fromkeys(value for values in weights for value in _split(values))
        told = f"is unusual for {kind.name}; usual: {', '.join(usual) or 'none'}"
        warnings += [f'{attribute} "{value}" {told}' for value in stated[attribute] if value not in usual]
    if report.size_mm and not kind.size_mm.min <= max(report.size_mm) <= kind.size_mm.max:
        limits = f"{kind.size_mm.min:g} to {kind.size_mm.max:g} mm"
        warnings.append(f"size {format_size(report.size_mm)} is unusual for {kind.name}; longest extent: {limits}")
    return warnings


def _draw_organ(kind: LesionType, chance: float, present: Collection[str] | None, given: str | None) -> str:
    """A single organ by weight among those present. A given organ must be present too, if it is to be kept."""
    if present is not None and given is not None and given not in present:
        raise ReportError(f'the organ map has no "{given}"; present: {", ".join(sorted(present)) or "none"}')
    possible = {organ: weight for organ, weight in kind.organs.items() if present is None or organ in present}
    if given is not None and not possible:
        possible = kind.organs  # the given organ replaces whatever is drawn
    if not possible:
        usual, found = ", ".join(kind.organs), ", ".join(sorted(present)) or "none"
        raise ReportError(f"{kind.name} occurs in {usual}; none is in the organ map (present: {found})")
    return _pick(possible, chance)


def _draw_value(
    weights: Mapping[str, float], chance: float, attribute: str, drawn: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    allowed = {
        text: weight
        for text, weight in weights.items()
        if not vocabulary().contradiction({**drawn, attribute: _split(text)})
    }
    return _split(_pick(allowed, chance))


def _draw_size(kind: LesionType, chances: Sequence[float]) -> tuple[float, float, float]:
    low, high = kind.size_mm.low, kind.size_mm.high
    longest_mm = low * (high / low) ** chances[0]
    shortest, roundest = kind.aspect_ratio
    extents_mm = [longest_mm * (shortest + (roundest - shortest) * chance) for chance in chances[1:3]]
    extents_mm.insert(_pick(dict(enumerate(kind.longest_axis)), chances[3]), longest_mm)
    return tuple(float(max(1, round(extent))) for extent in extents_mm)


def _pick(weights: Mapping, chance: float):
    """The key at a uniform chance in [0, 1) of the cumulated weights."""
    edges = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(edges, chance * edges[-1], side="right"))]


def _split(values: str) -> tuple[str, ...]:
    return () if values == "none" else tuple(values.split(", "))


@functools.cache
def _types() -> dict[str, LesionType]:
    data = json.loads(resource_path("lesion_types.json").read_text(encoding="utf-8"))
    return {name: _read_type(name, entry) for name, entry in data["lesion types"].items()}


def _read_type(name: str, entry: Mapping) -> LesionType:
    return LesionType(
        name=name,
        family=entry["family"],
        organ=entry["organ"],
        organs=entry["organs"],
        weights=entry["weights"],
        size_mm=SizeRange(**entry["size_mm"]),
        aspect_ratio=tuple(entry["aspect_ratio"]),
        longest_axis=tuple(entry["longest_axis"][axis] for axis in "xyz"),
        source=entry["source"],
    )
