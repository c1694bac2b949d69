"""The lesion types: where each occurs, how it looks, how large it is; and random reports drawn from that.

The numbers are data (``Resources/lesion_types.json``, with their sources). Source of the list: LesionDiffusion paper,
section 3 (14 types) and its test on an unseen one.
"""

from __future__ import annotations

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
    """One lesion type, or the generic lesion. All weights are relative, not normalized."""

    name: str
    family: str  # "cancer", "cyst", "stone" or "hemorrhage"
    organ: str  # the organ or group it is named after
    organs: Mapping[str, float]  # single organs it occurs in -> weight; empty for the generic lesion
    weights: Mapping[str, Mapping[str, float]]  # attribute -> plausible value, "none" or "a, b" -> weight
    size_mm: SizeRange
    aspect_ratio: tuple[float, float]  # shorter extents over the longest one
    longest_axis: tuple[float, float, float]  # weights of X, Y, Z
    source: str

    @property
    def organ_type(self) -> str | None:
        """Type of the organs it occurs in, the same for all of them; None for the generic lesion."""
        return next((vocabulary().organs[organ].organ_type for organ in self.organs), None)

    def occurs_in(self, organ: str) -> bool:
        """Whether it occurs in an organ, or in any part of a group such as "kidney"."""
        return any(part in self.organs for part in (organ, *vocabulary().organ(organ).parts))


def lesion_type(name: str) -> LesionType:
    """The lesion type of a name or synonym. Raises ReportError naming the known ones."""
    return _types()[vocabulary().canonical(LESION_TYPE, name)]


def all_lesion_types() -> tuple[LesionType, ...]:
    """Every lesion type, in the order of the paper's table."""
    return tuple(_types().values())


def fitting_types(report: LesionReport, organs_present: Collection[str] | None = None) -> list[LesionType]:
    """The lesion types that agree best with what a report states, in the order of the paper's table.

    They occur in the stated organ or, if none is stated, in any organ present (``organs_present``: organ terms; None
    allows all). Of these, the ones with the fewest stated values that are unusual for them: usually none. Empty when
    no lesion type occurs there.
    """
    places = organs_present if report.organ is None else (report.organ,)
    kinds = [kind for kind in all_lesion_types() if places is None or any(map(kind.occurs_in, places))]
    misfits = [len(_type_checks(report, kind)) for kind in kinds]
    return [kind for kind, count in zip(kinds, misfits, strict=True) if count == min(misfits)]


def draw_report(
    kind: LesionType | None,
    generator: np.random.Generator,
    organs_present: Collection[str] | None = None,
    given: LesionReport | None = None,
) -> LesionReport:
    """A complete random report: what ``given`` states, and weighted draws that do not contradict it or each other.

    A report is first drawn freely. Drawn values that contradict a given one (or the type of a given organ) are drawn
    again; so two draws from the same generator state differ only in the given attributes, the organ type, and the
    attributes whose free value contradicts what is given. Values that contradict each other in ``given`` are kept. The
    number of random numbers used is fixed.

    kind: None draws a generic lesion of no named type, for organs without a known one; ``given`` then states the organ.
    organs_present: organ terms of the patient's map; None allows all.

    Raises ReportError when the given organ, or every organ of the type, is absent, or no organ is known.
    """
    given, looks = given or LesionReport(), kind or _generic_lesion()
    chances = dict(zip(("organ", *_DRAWN), generator.random(len(_DRAWN) + 1), strict=True))
    size_mm = draw_size(kind, generator)
    second_chances = dict(zip(_DRAWN, generator.random(len(_DRAWN)), strict=True))
    organ = _draw_organ(looks, chances["organ"], organs_present, given.organ)
    place = vocabulary().organ(organ)

    free = {"organ type": (looks.organ_type or place.organ_type,)}
    for attribute in _DRAWN:
        free[attribute] = _draw_value(looks, attribute, chances[attribute], free)
    known = {name: given.stated(name) for name in _DRAWN if getattr(given, FIELDS[name]) is not None}
    known["organ type"] = (given.organ_type or place.organ_type,)
    values = free | known
    for attribute in [name for name in _DRAWN if name not in known and _contradicts(name, free[name], known)]:
        del values[attribute]
    for attribute in [name for name in _DRAWN if name not in values]:
        values[attribute] = _draw_value(looks, attribute, second_chances[attribute], values)

    fields = {FIELDS[name]: told if name == "specific features" else told[0] for name, told in values.items()}
    return LesionReport(None if kind is None else kind.name, organ, given.size_mm or size_mm, **fields)


def draw_size(kind: LesionType | None, generator: np.random.Generator) -> tuple[float, float, float]:
    """A random size in mm (X, Y, Z), whole numbers: longest extent log-uniform. Always uses four random numbers."""
    looks, chances = kind or _generic_lesion(), generator.random(4)
    low, high = looks.size_mm.low, looks.size_mm.high
    longest_mm = low * (high / low) ** chances[0]
    shortest, roundest = looks.aspect_ratio
    extents_mm = [longest_mm * (shortest + (roundest - shortest) * chance) for chance in chances[1:3]]
    extents_mm.insert(_pick(dict(enumerate(looks.longest_axis)), chances[3]), longest_mm)
    return tuple(float(max(1, round(extent))) for extent in extents_mm)


def checks(report: LesionReport) -> list[str]:
    """Warnings, one sentence each, about values that do not go together. Empty: nothing strange."""
    warnings = []
    if clash := vocabulary().contradiction({name: report.stated(name) for name in FIELDS}):
        warnings.append(f'"{clash[0]}" and "{clash[1]}" contradict each other')
    if report.organ and report.organ_type not in (None, vocabulary().organ(report.organ).organ_type):
        warnings.append(f'the {report.organ} is not a "{report.organ_type}"')
    if report.lesion_type:
        warnings += _type_checks(report, lesion_type(report.lesion_type))
    return warnings


def _type_checks(report: LesionReport, kind: LesionType) -> list[str]:
    """One warning for each stated value that is unusual for a lesion type."""
    warnings = []
    if report.organ and not kind.occurs_in(report.organ):
        warnings.append(f"{kind.name} does not occur in the {report.organ}; usual: {', '.join(kind.organs)}")
    if not report.organ and report.organ_type not in (None, kind.organ_type):
        warnings.append(f"{kind.name} does not occur in a {report.organ_type}; usual: {', '.join(kind.organs)}")
    stated = report.attributes()
    for attribute in [name for name in kind.weights if name in stated]:
        usual = dict.fromkeys(value for values in kind.weights[attribute] for value in values.split(", "))
        told = f"is unusual for {kind.name}; usual: {', '.join(usual)}"
        warnings += [f'{attribute} "{value}" {told}' for value in stated[attribute].split(", ") if value not in usual]
    if report.size_mm and not kind.size_mm.min <= max(report.size_mm) <= kind.size_mm.max:
        limits = f"{kind.size_mm.min:g} to {kind.size_mm.max:g} mm"
        warnings.append(f"size {format_size(report.size_mm)} is unusual for {kind.name}; longest extent: {limits}")
    return warnings


def _draw_organ(kind: LesionType, chance: float, present: Collection[str] | None, given: str | None) -> str:
    """The given organ, which must be present, or a single organ by weight among those present."""
    if present is not None and given is not None and given not in present:
        raise ReportError(f'the organ map has no "{given}"; present: {", ".join(sorted(present)) or "none"}')
    if given is not None:
        return given
    if not kind.organs:
        raise ReportError('expected a lesion type or an organ, got neither; set one of them, for example "organ=liver"')
    possible = {organ: weight for organ, weight in kind.organs.items() if present is None or organ in present}
    if not possible:
        usual, found = ", ".join(kind.organs), ", ".join(sorted(present)) or "none"
        raise ReportError(f"{kind.name} occurs in {usual}; none is in the organ map (present: {found})")
    return _pick(possible, chance)


def _draw_value(kind: LesionType, attribute: str, chance: float, drawn: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """A value among those that agree with what is drawn already; if the lesion type has none, a generic one.

    The generic lesion has a value that contradicts nothing for every attribute, so there is always one.
    """
    agreeing = (
        {text: weight for text, weight in weights.items() if not _contradicts(attribute, _split(text), drawn)}
        for weights in (kind.weights[attribute], _generic_lesion().weights[attribute])
    )
    return _split(_pick(next(filter(None, agreeing)), chance))


def _contradicts(attribute: str, values: Sequence[str], others: Mapping[str, Sequence[str]]) -> bool:
    """Whether values of one attribute exclude those of another. The others may contradict each other."""
    return any(vocabulary().contradiction({attribute: values, other: told}) for other, told in others.items())


def _pick(weights: Mapping, chance: float):
    """The key at a uniform chance in [0, 1) of the cumulated weights."""
    edges = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(edges, chance * edges[-1], side="right"))]


def _split(values: str) -> tuple[str, ...]:
    return () if values == "none" else tuple(values.split(", "))


@functools.cache
def _data() -> Mapping:
    return json.loads(resource_path("lesion_types.json").read_text(encoding="utf-8"))


@functools.cache
def _types() -> dict[str, LesionType]:
    return {name: _read_type(name, entry) for name, entry in _data()["lesion types"].items()}


@functools.cache
def _generic_lesion() -> LesionType:
    """What a lesion of no named type may look like, in any organ."""
    return _read_type("generic lesion", _data()["generic lesion"])


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
