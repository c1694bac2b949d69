"""The choices of the panel, kept in the scene: one parameter node, and what it asks of the worker."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from typing import Annotated, Any

from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from LesionDiffusionLib.extension.form import ATTRIBUTES, report_of
from LesionDiffusionLib.report import LesionReport

MAX_SEED = 2**31 - 1  # what a spin box holds


class Placement(enum.Enum):
    """Who chooses the place of the lesion."""

    RULE = "rule"
    BOX = "box"

    def label(self) -> str:
        return {"rule": "At random, where such lesions occur", "box": "In the box"}[self.value]


class Sampler(enum.Enum):
    """`sampling.SAMPLERS`, or the model's own."""

    MODEL = ""
    DPMPP = "dpmpp"
    DDIM = "ddim"
    RELEASED = "released"

    def label(self) -> str:
        names = {
            "": "The model's own",
            "dpmpp": "DPM-Solver++ 2M",
            "ddim": "DDIM",
            "released": "Released (DDIM, eta 1)",
        }
        return names[self.value]


@parameterNodeWrapper
class LesionDiffusionParameterNode:
    """All choices that belong to a scene. Devices, keys and folders do not: they are in `settings`.

    The ten fields from shape to densityVariations are the attributes of the report but for the size; "" means drawn at
    random. steps and guidance 0 mean the model's own.
    """

    inputVolume: vtkMRMLScalarVolumeNode  # noqa: N815 - the names are Slicer's, in camelCase
    organSegmentation: vtkMRMLSegmentationNode  # noqa: N815
    organMatching: str  # noqa: N815 - JSON: segment id -> structure, "" for none; only what the user corrected
    lesionType: str  # noqa: N815
    description: str
    shape: str
    organType: str  # noqa: N815
    lesionLocation: str  # noqa: N815
    organ: str
    relationship: str
    surface: str
    specificFeatures: str  # noqa: N815
    enhancement: str
    density: str
    densityVariations: str  # noqa: N815
    sizeStated: bool = False  # noqa: N815
    sizeX: Annotated[float, WithinRange(1, 300)] = 20.0  # noqa: N815
    sizeY: Annotated[float, WithinRange(1, 300)] = 20.0  # noqa: N815
    sizeZ: Annotated[float, WithinRange(1, 300)] = 20.0  # noqa: N815
    placement: Placement = Placement.RULE
    roi: vtkMRMLMarkupsROINode
    bundle: str = "starter"
    sampler: Sampler = Sampler.MODEL
    steps: Annotated[int, WithinRange(0, 1000)] = 0
    guidance: Annotated[float, WithinRange(0, 30)] = 0.0
    seed: Annotated[int, WithinRange(0, MAX_SEED)] = 1
    candidates: Annotated[int, WithinRange(1, 16)] = 1
    resultVolume: vtkMRMLScalarVolumeNode  # noqa: N815
    addToResult: bool = False  # noqa: N815 - the next lesion goes into resultVolume, not into a new copy
    fade: Annotated[float, WithinRange(0, 100)] = 100.0  # how much of the result the slice views show, in %


def parameter_name(field: str) -> str:
    """The parameter of a field of `LesionReport` ("lesion_location" -> "lesionLocation")."""
    first, *rest = field.split("_")
    return first + "".join(part.capitalize() for part in rest)


def form_in(node: LesionDiffusionParameterNode) -> dict[str, str]:
    """The lesion form, see `form`."""
    return {field: getattr(node, parameter_name(field)) for field in ATTRIBUTES}


def write_form(node: LesionDiffusionParameterNode, form: Mapping[str, str]) -> None:
    """Set fields of the lesion form."""
    for field, text in form.items():
        setattr(node, parameter_name(field), text)


def size_in(node: LesionDiffusionParameterNode) -> tuple[float, float, float]:
    """The size in mm (X, Y, Z) in the panel, stated or not."""
    return node.sizeX, node.sizeY, node.sizeZ


def write_size(node: LesionDiffusionParameterNode, size_mm: tuple[float, float, float]) -> None:
    """Set the size in mm (X, Y, Z), within what the panel can show."""
    node.sizeX, node.sizeY, node.sizeZ = (float(min(max(extent, 1), 300)) for extent in size_mm)


def write_report(node: LesionDiffusionParameterNode, report: LesionReport, form: Mapping[str, str]) -> None:
    """Set lesion type and size from a report where it states them, and the given fields of the form."""
    if report.lesion_type is not None:
        node.lesionType = report.lesion_type
    write_form(node, form)
    if report.size_mm is not None:
        write_size(node, report.size_mm)
        node.sizeStated = True


def report_in(node: LesionDiffusionParameterNode) -> LesionReport:
    """What the panel states of the lesion; a box brings its own size. Raises ReportError for words nobody knows."""
    size_mm = size_in(node) if node.sizeStated and node.placement == Placement.RULE else None
    return report_of(form_in(node), node.lesionType, size_mm)


def settings_in(node: LesionDiffusionParameterNode) -> dict[str, Any]:
    """`run.Settings` as plain types; None for the model's own."""
    return {
        "seed": node.seed,
        "sampler": node.sampler.value or None,
        "steps": node.steps or None,
        "guidance": node.guidance or None,
        "candidates": node.candidates,
    }


def corrections_in(node: LesionDiffusionParameterNode) -> dict[str, str]:
    """Segment id -> structure ("" for none), as the user corrected the matching."""
    try:
        corrections = json.loads(node.organMatching or "{}")
    except ValueError:
        return {}
    return corrections if isinstance(corrections, dict) else {}


def correct(node: LesionDiffusionParameterNode, segment_id: str, structure: str) -> None:
    """Match a segment with another structure, or with none."""
    node.organMatching = json.dumps(corrections_in(node) | {segment_id: structure})
