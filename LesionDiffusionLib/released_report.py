"""Reports in the authors' format: their ``type.json``, and the strings their networks were trained to hear.

Source: released-model 4.2, 4.3, 5.7, 8.1.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from LesionDiffusionLib.errors import ReportError
from LesionDiffusionLib.labels import load_table
from LesionDiffusionLib.report import FIELDS, LesionReport, RegionRule, json_object, parse_size, region_rule
from LesionDiffusionLib.vocabulary import vocabulary

# The text for (organ type, lesion location) that the authors call "cavity". LMNet was trained with a comma behind it,
# their box script wants it without.
CAVITIES: dict[RegionRule, str] = {
    "inside hollow organ": "within the lumen of a hollow organ",
    "hollow organ margin": "wall thickening",
    "inside parenchymal organ": "within the parenchymal organ",
    "parenchymal organ margin": "protruding from the parenchymal organ",
}

# Released attribute names -> ours. "lesion location" is missing: there it names the organ.
_READ = {
    "enhancement status": "enhancement status",
    "shape": "shape",
    "density": "density",
    "density variations": "density variations",
    "surface characteristics": "surface characteristics",
    "relationship with adjacent organs": "relationship with surrounding organs",
    "specific features": "specific features",
}
# The order of the training reports' dictionary, and so of the strings.
_ORDER = (
    "enhancement status",
    "lesion location",
    "shape",
    "density",
    "density variations",
    "CT value",
    "surface characteristics",
    "relationship with adjacent organs",
    "specific features",
    "cavity",
)
_UNHEARD_BY_LMNET = ("size", "CT value", "density", "density variations")


@dataclass(frozen=True)
class ReleasedEntry:
    """One lesion of a ``type.json``.

    raw: the entry exactly as in the file, [a, b, attributes, coordinates]; it holds what a report has no place for (CT
    value, coordinates). warnings: one sentence for each value that could not be read into the report.
    """

    class_id: int  # TotalSegmentator 1 number
    report: LesionReport
    raw: list
    warnings: tuple[str, ...]

    @property
    def attributes(self) -> Mapping[str, str]:
        return self.raw[2]


def read_type_json(text: str | bytes) -> list[ReleasedEntry]:
    """Entries of a ``type.json``, in its order. Raises ReportError when the file has not that form.

    Sizes: a report written by the authors' script (it has "cavity") states full extents in mm, (x, y, z). Annotated
    ones state what agrees with half extents in (z, y, x) in the published cases; they are doubled and reversed.
    """
    return [_read_entry(key, entry) for key, entry in json_object(text, "the type file").items()]


def write_type_json(report: LesionReport, organ_box_mm: tuple[float, float, float]) -> str:
    """The text of a ``type.json`` with one lesion, in the form that the authors' box script reads.

    organ_box_mm: extents (X, Y, Z) of the organ's bounding box. Raises ReportError when organ, lesion location or size
    are not stated.
    """
    if report.size_mm is None:
        raise ReportError('a type file needs the "size" of the lesion; set it, for example size=12x10x14')
    organ_label = _class_name(report).replace(" ", "_")
    class_id = str(next(n for n, label in _classes().items() if label == organ_label))
    size_vox = [max(1, round(extent)) for extent in report.size_mm]  # the released grid is 1 mm
    attributes = released_attributes(report)
    attributes |= {"lesion location": class_id, "size": f"{[size_vox]} pixel", "cavity": CAVITIES[region_rule(report)]}
    coordinates = [[[round(extent) for extent in organ_box_mm]], [size_vox]]
    return json.dumps({class_id: [attributes.get("shape", ""), "", attributes, coordinates]})


def released_attributes(report: LesionReport, ct_value_hu: float | None = None) -> dict[str, str]:
    """Stated values under the released names, in the order and the spelling of the training reports.

    "lesion location" is the class name; "specific features" is always there, empty when none is stated. Raises
    ReportError when the organ is not a single one.
    """
    texts = {name: ",".join(_released_spelling(report, ours)) for name, ours in _READ.items()}
    found = {name: text + "," for name, text in texts.items() if text}
    found.setdefault("specific features", "")
    return _in_order(found | {"lesion location": _class_name(report)} | _ct_value(ct_value_hu))


def released_mask_strings(report: LesionReport | ReleasedEntry, cavity: str | None = None) -> list[str]:
    """The strings for the released LMNet: one per value, specific features only if there are any, cavity last.

    An entry of a type file contributes its own spelling. cavity: one of CAVITIES' texts; None derives it from the
    report's organ and lesion location. (The released code derives it from the path of the image instead.) Raises
    ReportError.
    """
    source = report.report if isinstance(report, ReleasedEntry) else report
    if cavity is None:
        cavity = CAVITIES[region_rule(source)]
    if cavity.rstrip(",") not in CAVITIES.values():
        raise ReportError(f'unknown cavity "{cavity:.60}"; allowed: {", ".join(CAVITIES.values())}')
    heard = {name: text for name, text in _attributes(report).items() if name not in _UNHEARD_BY_LMNET}
    if not heard.get("specific features"):
        heard.pop("specific features", None)
    return [*(heard | {"cavity": cavity.rstrip(",") + ","}).values()]


def released_image_strings(report: LesionReport | ReleasedEntry, ct_value_hu: float | None = None) -> list[str]:
    """The strings for the released LINet in the form of its training: one per value, without size and cavity.

    ct_value_hu: mean HU that the lesion is to have. None keeps that of an entry, in the short form of the training; a
    report has none. Every string list of the training held one, so whoever knows the CT should give it: the value
    measured in an annotated lesion, or the one expected of the wanted density in this organ and contrast phase.

    Raises ReportError when the organ is not a single one.
    """
    heard = {name: text for name, text in _attributes(report, ct_value_hu).items() if name not in ("size", "cavity")}
    if "CT value" in heard:
        found = re.search(r"approximately\s*(-?\d+(?:\.\d+)?)\s*HU", heard["CT value"])
        heard["CT value"] = f"{float(found[1])} HU," if found else heard["CT value"]
    return [*heard.values()]


def _attributes(report: LesionReport | ReleasedEntry, ct_value_hu: float | None = None) -> dict[str, str]:
    """Released attributes with the class name as location: an entry's own, or those of a report."""
    if isinstance(report, LesionReport):
        return released_attributes(report, ct_value_hu)
    class_name = _classes()[report.class_id].replace("_", " ")
    own = {name: str(text) for name, text in report.attributes.items()} | {"lesion location": class_name}
    return own if ct_value_hu is None else _in_order(own | _ct_value(ct_value_hu))


def _ct_value(ct_hu: float | None) -> dict[str, str]:
    return {} if ct_hu is None else {"CT value": f"{float(ct_hu)} HU,"}


def _in_order(attributes: Mapping[str, str]) -> dict[str, str]:
    """In the order of the training reports; names unknown to it last."""
    known = {name: attributes[name] for name in _ORDER if name in attributes}
    return known | dict(attributes)


def _released_spelling(report: LesionReport, attribute: str) -> list[str]:
    return [vocabulary().terms[attribute][value].released or value for value in report.stated(attribute)]


def _class_name(report: LesionReport) -> str:
    """The released networks' name of the organ: "kidney right"."""
    if report.organ is None:
        raise ReportError('the report does not state "organ"; the released networks need one')
    organ = vocabulary().organ(report.organ)
    if len(organ.labels) != 1:
        parts = ", ".join(organ.parts)
        raise ReportError(f'the released networks know single organs, not "{organ.name}"; choose one of: {parts}')
    return organ.labels[0].replace("_", " ")


def _read_entry(key: str, entry: object) -> ReleasedEntry:
    if key not in map(str, _classes()):
        raise ReportError(f'type file: "{key:.40}" is no class number of TotalSegmentator 1; expected 1 to 104')
    if not isinstance(entry, list) or len(entry) < 3 or not isinstance(entry[2], dict):
        raise ReportError(f'type file: entry "{key}" is not a list [text, text, attributes, coordinates]')
    label, attributes, warnings = _classes()[int(key)], entry[2], []
    organ = vocabulary().find("organ", label)
    if organ is None:
        warnings.append(f'organ: "{label}" is none of the vocabulary')
    fields = {FIELDS[ours]: _read_value(ours, attributes.get(name), warnings) for name, ours in _READ.items()}
    fields |= _read_cavity(attributes.get("cavity"), warnings)
    fields["size_mm"] = _read_size(attributes.get("size"), "cavity" in attributes, warnings)
    return ReleasedEntry(int(key), LesionReport(organ=organ, **fields), entry, tuple(warnings))


def _read_value(attribute: str, text: object, warnings: list[str]) -> str | tuple[str, ...] | None:
    """A value, or several joined by commas; of "round-like,protrusion into the lumen," the first, with a warning."""
    whole = "" if text is None else str(text).strip(" ,")
    parts = [part for part in whole.split(",") if part.strip()]
    if vocabulary().find(attribute, whole):
        parts = [whole]
    found = [vocabulary().find(attribute, part) for part in parts]
    known = tuple(dict.fromkeys(value for value in found if value))
    kept = known if attribute == "specific features" else known[:1]
    if None in found or kept != known:
        warnings.append(f'{attribute}: of "{whole:.80}" only "{", ".join(kept)}" was read')
    return kept if attribute == "specific features" else next(iter(kept), None)


def _read_cavity(text: object, warnings: list[str]) -> dict[str, str]:
    whole = "" if text is None else str(text).strip(" ,")
    rule = next((rule for rule, cavity in CAVITIES.items() if cavity == whole), None)
    if whole and rule is None:
        warnings.append(f'cavity: "{whole:.80}" was not read')
    if rule is None:
        return {}
    organ_type = "hollow organ" if "hollow" in rule else "parenchymal organ"
    return {"organ_type": organ_type, "lesion_location": "inside organ" if "inside" in rule else "organ margin"}


def _read_size(text: object, full_extents: bool, warnings: list[str]) -> tuple[float, float, float] | None:
    """(X, Y, Z) in mm from "[[28 29 26]] pixel," on the released 1 mm grid; of several lesions the first."""
    numbers = re.findall(r"\d+(?:\.\d+)?", "" if text is None else str(text))
    if not numbers:
        return None
    triple = numbers[:3] if full_extents else [str(2 * float(number)) for number in reversed(numbers[:3])]
    try:
        size_mm = parse_size("x".join(triple))
    except ReportError as error:
        warnings.append(f"size: {error}")
        return None
    if len(numbers) > 3:
        warnings.append(f'size: of "{text!s:.80}" only the first triple was read')
    return size_mm


@functools.cache
def _classes() -> dict[int, str]:
    return load_table("totalseg_v1")
