"""A language model behind any OpenAI-compatible endpoint fills in what a lesion report leaves open.

Only lesion type, organ, attributes and sizes in mm leave this machine. The answer is checked like any other report.
Sources: LesionDiffusion paper, "Inference process"; released-model 8.4.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from LesionDiffusionLib.adapters.chat_endpoint import LanguageModel, Transport, complete, http_post
from LesionDiffusionLib.errors import ReportError
from LesionDiffusionLib.lesion_types import LesionType
from LesionDiffusionLib.lesion_types import lesion_type as lesion_type_named
from LesionDiffusionLib.report import FIELDS, NO_FEATURES, LesionReport, format_size, parse_size
from LesionDiffusionLib.vocabulary import LESION_TYPE, vocabulary, words

_MAX_TEXT = 10_000  # characters of an answer that are read, from its end; a report has less than 1,000
_INSTRUCTION = (
    "You are an expert radiologist. Describe one imaginary lesion for a synthetic CT: choose values that are medically "
    "plausible together for the given lesion type and organ, and that fit the fixed attributes. Sizes are full extents "
    "in whole mm along x (right-left), y (anterior-posterior) and z (superior-inferior). "
    "Answer with one JSON object that is valid under this JSON schema, and with nothing else: "
)


def write_report(
    model: LanguageModel,
    lesion_type: str,
    organ: str,
    organ_size_mm: Sequence[float] | None,
    given: LesionReport,
    transport: Transport = http_post,
) -> tuple[LesionReport, list[str]]:
    """A complete report from the model, and the complaints that were sent back to it about rejected answers.

    lesion_type, organ: win over those of ``given``; everything else that ``given`` states is kept and not asked for.
    organ_size_mm: extents of the organ along X, Y, Z, limits of the lesion's; None: the limit of the lesion type.

    Raises:
        ReportError: unknown lesion type or organ; the endpoint fails; or no answer is valid within ``model.tries``.
    """
    kind, place = lesion_type_named(lesion_type), vocabulary().organ(organ)
    organ_type = given.organ_type or place.organ_type
    fixed = dataclasses.replace(given, lesion_type=kind.name, organ=place.name, organ_type=organ_type)
    question = _Question(fixed, _largest_mm(kind, organ_size_mm))
    if not question.asked:
        return fixed, []
    request = {"model": model.model, "messages": question.messages(), "response_format": question.response_format()}
    complaints = []
    for _ in range(model.tries):
        text = complete(model, request, transport)
        try:
            return question.read(text), complaints
        except ReportError as error:
            complaints.append(model.shown(str(error)))
        request["messages"] += [
            {"role": "assistant", "content": text[-_MAX_TEXT:] or "(nothing)"},
            {"role": "user", "content": f"This answer cannot be used: {complaints[-1]}. Answer again, in full."},
        ]
    raise ReportError(
        f"{model.model} at {model.host} gave no valid report in {model.tries} tries; the last complaint: "
        f"{complaints[-1]}; try again or take another model"
    )


def _largest_mm(kind: LesionType, organ_size_mm: Sequence[float] | None) -> tuple[int, int, int]:
    """The largest size allowed along X, Y, Z, in whole mm. Raises ReportError for an organ size that is none."""
    if organ_size_mm is None:
        return (math.floor(kind.size_mm.max),) * 3
    checked_mm = parse_size("x".join(f"{extent:f}" for extent in organ_size_mm))
    return tuple(max(1, math.floor(extent)) for extent in checked_mm)


@dataclass(frozen=True)
class _Question:
    """What the model is asked, and how its answer is read."""

    fixed: LesionReport
    largest_mm: tuple[int, int, int]

    @property
    def asked(self) -> list[str]:
        """Attributes that are not stated yet."""
        return [name for name, field in FIELDS.items() if getattr(self.fixed, field) is None]

    def schema(self) -> dict:
        """JSON schema of the answer: the vocabulary's values, sizes within the limits.

        The keys are the field names of LesionReport: not every endpoint allows spaces in keys.
        """
        return _object_schema({FIELDS[name]: {"description": name, **self._value_schema(name)} for name in self.asked})

    def _value_schema(self, attribute: str) -> dict:
        if attribute == "size":
            limits = zip("xyz", self.largest_mm, strict=True)
            return _object_schema({axis: {"type": "integer", "minimum": 1, "maximum": mm} for axis, mm in limits})
        value = {"type": "string", "enum": list(vocabulary().values(attribute))}
        return {"type": "array", "items": value} if attribute == "specific features" else value

    def response_format(self) -> dict:
        """The schema in the form that endpoints take."""
        named = {"name": "lesion_report", "strict": True, "schema": self.schema()}
        return {"type": "json_schema", "json_schema": named}

    def messages(self) -> list[dict[str, str]]:
        """The first messages. They hold the schema too, for endpoints that overlook or refuse ``response_format``."""
        facts = {
            LESION_TYPE: self.fixed.lesion_type,
            "fixed attributes": self.fixed.attributes(),
            "largest possible size": format_size(self.largest_mm),
        }
        return [
            {"role": "system", "content": _INSTRUCTION + json.dumps(self.schema())},
            {"role": "user", "content": json.dumps(facts)},
        ]

    def read(self, text: str) -> LesionReport:
        """The complete report of an answer; keys that were not asked for do not count. Raises ReportError."""
        names = vocabulary().attribute_names
        answer = {names.get(words(key)): value for key, value in _last_object(text).items() if value is not None}
        answer.setdefault("specific features", NO_FEATURES)
        told = {name: _as_text(name, answer[name]) for name in self.asked if name in answer}
        if missing := [FIELDS[name] for name in self.asked if name not in told]:
            raise ReportError(f"one JSON object with all keys is expected; missing: {', '.join(missing)}")
        answered = LesionReport.from_attributes(told)
        self._check_size(answered)
        report = dataclasses.replace(self.fixed, **{FIELDS[name]: getattr(answered, FIELDS[name]) for name in told})
        if (clash := _contradiction(report)) and clash != _contradiction(self.fixed):
            raise ReportError(f'"{clash[0]}" and "{clash[1]}" contradict each other')
        return report

    def _check_size(self, answered: LesionReport) -> None:
        for axis, extent, largest in zip("xyz", answered.size_mm or (), self.largest_mm, strict=False):
            if extent > largest:
                raise ReportError(f"the lesion is {extent:g} mm along {axis}, more than the {largest} mm possible")


def _object_schema(properties: dict) -> dict:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _last_object(text: str) -> dict:
    """The last JSON object in an answer: thoughts, code fences and words around it do not count."""
    decoder, found = json.JSONDecoder(), None
    text = text.strip()[-_MAX_TEXT:]
    start = text.find("{")
    while start >= 0:
        try:
            found, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)
    if found is None:
        raise ReportError("it holds no complete JSON object")
    return found


def _as_text(attribute: str, value: object) -> object:
    """A size or a list of features as a report spells it; the rest as it came, for the report to judge."""
    separator = {"size": "x", "specific features": ", "}.get(attribute)
    if attribute == "size" and isinstance(value, dict):
        value = [value.get(axis) for axis in "xyz"]
    if separator is None or not isinstance(value, list) or any(isinstance(part, (list, dict)) for part in value):
        return value
    return separator.join(map(str, value))


def _contradiction(report: LesionReport) -> tuple[str, str] | None:
    return vocabulary().contradiction({name: report.stated(name) for name in FIELDS})
