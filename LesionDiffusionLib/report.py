"""The structured lesion report: 11 attributes, checked against the vocabulary, and the strings the networks hear.

Source: LesionDiffusion paper, Fig. 1 and "Inference process" (region rules).
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from LesionDiffusionLib.errors import ReportError
from LesionDiffusionLib.vocabulary import LESION_TYPE, vocabulary

RegionRule = Literal[
    "inside parenchymal organ", "parenchymal organ margin", "hollow organ margin", "inside hollow organ"
]

MAX_REPORT_BYTES = 1_000_000
MAX_SIZE_MM = 1000.0
NO_FEATURES = "none"  # the text for specific features when there are none

FIELDS = {  # attribute name -> field of LesionReport
    "shape": "shape",
    "organ type": "organ_type",
    "lesion location": "lesion_location",
    "organ": "organ",
    "size": "size_mm",
    "relationship with surrounding organs": "relationship",
    "surface characteristics": "surface",
    "specific features": "specific_features",
    "enhancement status": "enhancement",
    "density": "density",
    "density variations": "density_variations",
}

_NUMBER = r"\d+(?:\.\d+)?"
_SIZE = re.compile(rf"\s*({_NUMBER}(?:\s*[x×*]\s*{_NUMBER}){{0,2}})\s*(mm|cm)?,?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class LesionReport:
    """What is known of one lesion, in canonical words. ``None`` means "not stated".

    ``size_mm`` is the full extent along the patient's right-left, anterior-posterior and superior-inferior axes.
    """

    lesion_type: str | None = None
    organ: str | None = None
    size_mm: tuple[float, float, float] | None = None
    shape: str | None = None
    organ_type: str | None = None
    lesion_location: str | None = None
    relationship: str | None = None
    surface: str | None = None
    specific_features: tuple[str, ...] | None = None  # (): stated that there are none
    enhancement: str | None = None
    density: str | None = None
    density_variations: str | None = None

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, str], lesion_type: str | None = None) -> LesionReport:
        """A report from attribute names and values in any accepted spelling.

        Several specific features are separated by commas ("none" states none); size reads "12x10x14 mm", "1.2 cm" or
        "12" (mm). Raises ReportError for an unknown attribute or value, with the allowed ones.
        """
        fields = {}
        for name, text in attributes.items():
            attribute = vocabulary().attribute(name)
            if FIELDS[attribute] in fields:
                raise ReportError(f'attribute "{attribute}" is stated twice; state it once')
            fields[FIELDS[attribute]] = _value(attribute, text)
        if lesion_type is not None:
            fields["lesion_type"] = _value(LESION_TYPE, lesion_type)
        return cls(**fields)

    @property
    def features(self) -> tuple[str, ...]:
        """The specific features; empty when there are none or none are stated."""
        return self.specific_features or ()

    def attributes(self) -> dict[str, str]:
        """Stated attributes in the paper's order, as text; ``from_attributes`` reads them back."""
        stated = {
            name: ", ".join(self.stated(name)) for name, field in FIELDS.items() if getattr(self, field) is not None
        }
        return {name: text or NO_FEATURES for name, text in stated.items()}

    def stated(self, attribute: str) -> tuple[str, ...]:
        """The stated value of one attribute as text: none, one, or (specific features) several."""
        value = getattr(self, FIELDS[attribute])
        if attribute == "size":
            return () if value is None else (format_size(value),)
        return value if isinstance(value, tuple) else () if value is None else (value,)

    def with_values(self, settings: Iterable[str]) -> LesionReport:
        """This report changed by settings such as "density=hypodense lesion". Raises ReportError. See `updated`."""
        attributes = {}
        for setting in settings:
            name, equals, text = setting.partition("=")
            if not equals:
                raise ReportError(f'expected ATTRIBUTE=VALUE, got "{setting}"; for example "shape=round-like"')
            attributes[vocabulary().attribute(name)] = text
        given = LesionReport.from_attributes(attributes)
        return self.updated({FIELDS[name]: getattr(given, FIELDS[name]) for name in attributes})

    def updated(self, changes: Mapping[str, Any]) -> LesionReport:
        """This report with other values of some fields; a new organ brings its own type, unless that is among them."""
        own_type = {"organ_type": vocabulary().organ(changes["organ"]).organ_type} if changes.get("organ") else {}
        return dataclasses.replace(self, **(own_type | dict(changes)))

    def to_json(self) -> str:
        """Our report file: lesion type, attributes by name, size in mm."""
        attributes = self.attributes()
        attributes.pop("size", None)
        size_mm = None if self.size_mm is None else list(self.size_mm)
        return json.dumps({LESION_TYPE: self.lesion_type, "attributes": attributes, "size_mm": size_mm}, indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> LesionReport:
        """A report from the text of a report file. Raises ReportError for anything else."""
        data = json_object(text, "the report")
        keys = (LESION_TYPE, "attributes", "size_mm")
        if unknown := [key for key in data if key not in keys]:
            raise ReportError(f'a report file has the keys {", ".join(keys)}; got "{unknown[0]:.40}"')
        attributes = data.get("attributes", {})
        if not isinstance(attributes, dict):
            raise ReportError(f'"attributes" is an object of names and texts; got {type(attributes).__name__}')
        report = cls.from_attributes(attributes, data.get(LESION_TYPE))
        if data.get("size_mm") is None:
            return report
        if report.size_mm is not None:
            raise ReportError('the size is stated twice, in "attributes" and in "size_mm"; keep one')
        return dataclasses.replace(report, size_mm=_checked_size(data["size_mm"]))

    def describe(self) -> str:
        """The report as one English sentence."""
        kind = self.lesion_type or "lesion"
        size = f"{format_size(self.size_mm)} " if self.size_mm else ""
        place = f" in the {self.organ}" if self.organ else ""
        if self.organ and self.lesion_location == "organ margin":
            place = f" at the margin of the {self.organ}"
        told = ("shape", "surface characteristics", "density", "density variations", "specific features")
        told += ("relationship with surrounding organs", "enhancement status")
        details = ", ".join(text for name in told for text in self.stated(name))
        article = "An" if re.match("[aeiou]|8|1[18]x", size + kind) else "A"
        return f"{article} {size}{kind}{place}{': ' if details else ''}{details}."


def json_object(text: str | bytes, what: str) -> dict:
    """The JSON object of a small untrusted file, called ``what`` in messages. Raises ReportError for anything else."""
    if len(text) > MAX_REPORT_BYTES:
        raise ReportError(f"{what} has at most {MAX_REPORT_BYTES} bytes, got {len(text)}; give another file")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{what} is not JSON: {error}; give a file in the documented form") from error
    if not isinstance(data, dict):
        raise ReportError(f"{what} is a JSON object, got {type(data).__name__}; give a file in the documented form")
    return data


def parse_size(text: str) -> tuple[float, float, float]:
    """Size in mm (X, Y, Z) from "12x10x14 mm", "1.2 cm" or "12"; one number stands for all three axes."""
    match = _SIZE.fullmatch(text)
    numbers = re.findall(_NUMBER, match[1]) if match else []
    if len(numbers) not in (1, 3):
        raise ReportError(f'expected a size such as "12x10x14 mm", "1.2 cm" or "12" (mm), got "{text:.60}"')
    scale = 10 if (match[2] or "mm").lower() == "cm" else 1
    return _checked_size([float(number) * scale for number in numbers] * (3 // len(numbers)))


def format_size(size_mm: Iterable[float]) -> str:
    """Size in whole mm: "12x10x14 mm"."""
    return "x".join(str(max(1, round(extent))) for extent in size_mm) + " mm"


def mask_strings(report: LesionReport) -> list[str]:
    """Stated values that LMNet hears, in the paper's order, one string per value (our own bundles)."""
    return _strings(report, "mask")


def image_strings(report: LesionReport) -> list[str]:
    """Stated values that LINet hears, in the paper's order, one string per value (our own bundles)."""
    return _strings(report, "image")


def region_rule(report: LesionReport) -> RegionRule:
    """The region in which the lesion must lie. Raises ReportError when organ or lesion location is not stated."""
    if report.lesion_location is None:
        allowed = ", ".join(vocabulary().values("lesion location"))
        raise ReportError(f'the report does not state "lesion location"; set it to one of: {allowed}')
    if report.organ_type is None and report.organ is None:
        raise ReportError('the report states neither "organ" nor "organ type"; set one of them')
    organ_type = report.organ_type or vocabulary().organ(report.organ).organ_type
    inside = report.lesion_location == "inside organ"
    if organ_type == "hollow organ":
        return "inside hollow organ" if inside else "hollow organ margin"
    return "inside parenchymal organ" if inside else "parenchymal organ margin"


def _strings(report: LesionReport, network: str) -> list[str]:
    heard = [name for name, networks in vocabulary().networks.items() if network in networks]
    return [text for name in heard for text in report.stated(name)]


def _value(attribute: str, text: object) -> str | tuple:
    if not isinstance(text, str):
        raise ReportError(f'the value of "{attribute}" is a text; got {type(text).__name__}')
    if attribute == "size":
        return parse_size(text)
    if attribute != "specific features":
        return vocabulary().canonical(attribute, text)
    parts = [part for part in text.split(",") if part.strip()]
    if [part.strip().lower() for part in parts] == [NO_FEATURES]:
        return ()
    return tuple(dict.fromkeys(vocabulary().canonical(attribute, part) for part in parts))


def _checked_size(size_mm: object) -> tuple[float, float, float]:
    numeric = isinstance(size_mm, (list, tuple)) and all(type(v) in (int, float) for v in size_mm)
    if not numeric or len(size_mm) != 3 or not all(0 < v <= MAX_SIZE_MM for v in size_mm):
        raise ReportError(f"a size is three numbers above 0 and at most {MAX_SIZE_MM:g} mm, got {size_mm!r:.60}")
    return tuple(float(v) for v in size_mm)
