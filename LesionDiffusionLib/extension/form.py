"""The lesion form of the panel without any widget: what to offer, and the way from the form to a report and back.

The form is a mapping from a field of `LesionReport` to a text; "" means "not stated: drawn at random". The size is not
in it, it has fields of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from LesionDiffusionLib.free_text import FreeTextResult, parse_free_text
from LesionDiffusionLib.lesion_types import all_lesion_types, draw_report, fitting_types, lesion_type
from LesionDiffusionLib.report import FIELDS, NO_FEATURES, LesionReport
from LesionDiffusionLib.vocabulary import vocabulary

Form = Mapping[str, str]
SizeMm = tuple[float, float, float]
ATTRIBUTES = {field: name for name, field in FIELDS.items() if name != "size"}  # field -> attribute name


@dataclass(frozen=True)
class Choices:
    """Values of one attribute: the plausible ones for the lesion, most usual first, and all others."""

    plausible: tuple[str, ...]
    others: tuple[str, ...]


def choices(field: str, lesion: str, organs_present: Collection[str] | None = None) -> Choices:
    """What to offer for a field of the form.

    Args:
        field: of `LesionReport`.
        lesion: the lesion type chosen in the form, or "".
        organs_present: organ terms of the organ map; organs that are not there are not plausible.
    """
    allowed = vocabulary().values(ATTRIBUTES[field])
    if field == "specific_features":
        allowed = (NO_FEATURES, *allowed)
    weights = _weights(field, lesion)
    if field == "organ" and organs_present is not None:
        weights = {organ: weight for organ, weight in weights.items() if organ in organs_present}
    plausible = tuple(sorted(weights, key=lambda value: -weights[value]))
    return Choices(plausible, tuple(value for value in allowed if value not in plausible))


def lesion_types_for(organs_present: Collection[str] | None) -> Choices:
    """Lesion types that can occur in the organs of the map, and the others."""
    kinds = all_lesion_types()
    fitting = [
        kind.name for kind in kinds if organs_present is None or any(organ in organs_present for organ in kind.organs)
    ]
    return Choices(tuple(fitting), tuple(kind.name for kind in kinds if kind.name not in fitting))


def report_of(form: Form, lesion: str, size_mm: SizeMm | None) -> LesionReport:
    """The report that a form states. Raises ReportError for a value that the vocabulary lacks."""
    attributes = {ATTRIBUTES[field]: text for field, text in form.items() if text}
    report = LesionReport.from_attributes(attributes, lesion or None)
    return dataclasses.replace(report, size_mm=size_mm)


def form_of(report: LesionReport) -> dict[str, str]:
    """The form of a report: every field, "" where it states nothing."""
    attributes = report.attributes()
    return {field: attributes.get(name, "") for field, name in ATTRIBUTES.items()}


def understood(text: str) -> FreeTextResult:
    """What a description means. Raises ReportError when it is too long."""
    return parse_free_text(text)


def surprise(lesion: str, organs_present: Collection[str] | None, generator: np.random.Generator) -> LesionReport:
    """A complete report by weighted draw; of the lesion type, if one is chosen.

    Raises:
        ReportError: no lesion of this kind occurs in the organs present.
    """
    given = LesionReport(lesion_type=lesion or None)
    kinds = [lesion_type(lesion)] if lesion else fitting_types(given, organs_present)
    kind = kinds[int(generator.integers(len(kinds)))] if kinds else None
    return draw_report(kind, generator, organs_present)


def usual_size_mm(lesion: str) -> SizeMm:
    """A typical size for a lesion type ("" for any): what a click places when no size is stated."""
    sizes = [kind.size_mm for kind in all_lesion_types() if lesion in ("", kind.name)]
    middle = float(np.median([(size.low * size.high) ** 0.5 for size in sizes]))
    return (float(round(middle)),) * 3


def _weights(field: str, lesion: str) -> Mapping[str, float]:
    if not lesion:
        return {}
    kind = lesion_type(lesion)
    if field == "organ":
        groups = {kind.organ: 0.0} if kind.organ in vocabulary().organs else {}
        return groups | dict(kind.organs)
    if field == "organ_type":
        return {kind.organ_type: 1.0}
    return kind.weights.get(ATTRIBUTES[field], {})
