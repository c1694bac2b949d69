"""The patient that the panel has chosen: which segment is which organ, what hinders Apply, the way to the worker."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from LesionDiffusionLib.bundle_folders import MANIFEST, BundleSummary, installed_bundles, summarize
from LesionDiffusionLib.errors import LabelError, LesionDiffusionError, SettingsError
from LesionDiffusionLib.extension.mrml.geometry import volume_geometry, voxels
from LesionDiffusionLib.extension.mrml.lesions import input_of, is_result
from LesionDiffusionLib.extension.mrml.organs import organ_labels, segments
from LesionDiffusionLib.extension.mrml.placement import roi_box
from LesionDiffusionLib.extension.organ_matching import structure_for
from LesionDiffusionLib.extension.parameters import (
    LesionDiffusionParameterNode,
    Placement,
    corrections_in,
    report_in,
)
from LesionDiffusionLib.geometry import Box, axes_to_size
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.shared_arrays import SharedArray, share
from LesionDiffusionLib.vocabulary import vocabulary
from LesionDiffusionLib.worker_protocol import SharedVolume

Node = LesionDiffusionParameterNode
_structure_for = functools.cache(structure_for)


def matching(node: Node) -> dict[str, str]:
    """Segment id -> structure, "" for none: by terminology or name, unless the user corrected it."""
    if node.organSegmentation is None:
        return {}
    corrections = corrections_in(node)
    found = {s.id: _structure_for(s.name, s.terminology) or "" for s in segments(node.organSegmentation)}
    return found | {segment_id: structure for segment_id, structure in corrections.items() if segment_id in found}


def organs_present(node: Node) -> list[str]:
    """Organ terms of the vocabulary, groups included, of which a segment is matched."""
    labels = [_labels_of(structure) for structure in matching(node).values() if structure]
    return [name for name, organ in vocabulary().organs.items() if any(p and p <= set(organ.labels) for p in labels)]


def segments_of(node: Node, organ: str) -> list[str]:
    """Ids of the segments that show an organ or a part of it; all matched ones for ""."""
    whole = set(vocabulary().organ(organ).labels) if organ else None
    return [
        segment_id
        for segment_id, structure in matching(node).items()
        if structure and (whole is None or (_labels_of(structure) and _labels_of(structure) <= whole))
    ]


def ct_of(node: Node) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The volume that the next lesion is put into: the input, or the result when another lesion is added to it."""
    return node.resultVolume if adds_to_result(node) else node.inputVolume


def first_ct() -> slicer.vtkMRMLScalarVolumeNode | None:
    """The first scalar volume of the scene that is neither a label map or the like, nor one of our results."""
    volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    plain = (v for v in volumes if v.GetClassName() == "vtkMRMLScalarVolumeNode")  # subclasses match the search, too
    return next((volume for volume in plain if not is_result(volume)), None)


def adds_to_result(node: Node) -> bool:
    """Whether the next lesion goes into the result that is there: it is asked for, and the result is of this CT."""
    result = node.resultVolume
    return node.addToResult and is_result(result) and node.inputVolume in (input_of(result), result)


def box_in(node: Node) -> Box | None:
    """The lesion's box on the CT's grid, perhaps reaching outside; None when the rule chooses the place, or the user
    has not yet drawn the box.

    Raises GeometryError for a CT or a box under a transform that is not linear.
    """
    if node.placement != Placement.BOX or not _drawn(node.roi) or ct_of(node) is None:
        return None
    return roi_box(node.roi, volume_geometry(ct_of(node)))


def bundle_summary(node: Node) -> BundleSummary | None:
    """The chosen model, or None when it is not installed or damaged."""
    folder = installed_bundles().get(node.bundle)
    try:
        return None if folder is None else _summary(folder, (folder / MANIFEST).stat().st_mtime_ns)
    except (LesionDiffusionError, OSError):
        return None


@functools.lru_cache(maxsize=8)
def _summary(folder: Path, _changed_ns: int) -> BundleSummary:
    """Read once for every state of the file: the panel asks several times a second while a box is dragged."""
    return summarize(folder)


def obstacle(node: Node) -> str | None:
    """Why no lesion can be made now, as a sentence that says what to do; None when all is ready."""
    try:
        return _missing(node) or _unfit(node, report_in(node))
    except LesionDiffusionError as error:
        return str(error)


def require_ready(node: Node) -> None:
    """For scripts. Raises SettingsError with the obstacle."""
    hindered = obstacle(node)
    if hindered is not None:
        raise SettingsError(hindered)


def lend(
    node: Node, ct: slicer.vtkMRMLScalarVolumeNode, fill_ct: Callable[[np.ndarray], None] | None = None
) -> tuple[list[SharedArray], dict[str, Any]]:
    """A CT and its organ map in shared memory, and how a request names them: the one copy of the CT.

    Args:
        node: the panel's choices, for the organs.
        ct: the volume.
        fill_ct: writes the voxels (I, J, K) to hand over when they are not the volume's own.

    Raises:
        LabelError: the matched segments have no voxel on the CT.
        VolumeError, GeometryError: the CT is none, or lies under a transform that is not linear.
    """
    geometry, array = volume_geometry(ct), voxels(ct)
    structures = matching(node)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(filter(None, structures.values())), 1)}
    blocks = [share(geometry.shape, array.dtype), share(geometry.shape, np.uint8)]
    try:
        ct_block, organ_block = blocks
        if fill_ct is None:
            np.copyto(ct_block.array, array)
        else:
            fill_ct(ct_block.array)
        by_segment = {segment_id: numbers[name] for segment_id, name in structures.items() if name}
        organ_labels(node.organSegmentation, by_segment, ct, organ_block.array)
        if not organ_block.array.any():
            raise LabelError(
                f'"{node.organSegmentation.GetName()}" has no organ on the CT "{ct.GetName()}"; '
                "choose the segmentation that belongs to this CT"
            )
    except BaseException:
        for block in blocks:
            block.close()
        raise
    content = {
        "ct": SharedVolume(ct_block.address, geometry).to_json(),
        "organs": SharedVolume(organ_block.address, geometry).to_json(),
        "table": {str(number): name for name, number in numbers.items()},
    }
    return blocks, content


def _drawn(roi: slicer.vtkMRMLMarkupsROINode | None) -> bool:
    """Whether there is a box: a new ROI has no size, no point and is not shown."""
    return roi is not None and roi.GetNumberOfControlPoints() > 0


def _missing(node: Node) -> str | None:
    if node.inputVolume is None:
        return "Select a CT."
    if is_result(node.inputVolume) and not adds_to_result(node):
        return (
            "The CT holds synthetic lesions already: choose the scan that it was made from, or let Apply add another "
            "lesion to this result."
        )
    volume_geometry(ct_of(node))
    if node.organSegmentation is None:
        return "Select the segmentation of the organs, or make one with TotalSegmentator."
    if not organs_present(node):
        return "No segment is matched with an organ that can have a lesion: correct the table of organs."
    if bundle_summary(node) is None:
        return f'The model "{node.bundle}" is not installed or damaged: choose or install one under Models.'
    if node.placement == Placement.BOX and not _drawn(node.roi):
        return "Place a box: click a point, fit it to a segment, or draw it."
    return None


def _unfit(node: Node, report: LesionReport) -> str | None:
    if report.organ is not None and report.organ not in organs_present(node):
        return f"No segment is matched with the {report.organ}: choose another organ or correct the table of organs."
    box, size_mm, limits = box_in(node), report.size_mm, bundle_summary(node).largest_lesion_mm
    if box is not None:
        geometry = volume_geometry(ct_of(node))
        if not Box.whole(geometry.shape).contains(box):
            return "The box reaches outside the CT: move it inside."
        size_mm = axes_to_size(geometry, box.size_mm(geometry))
    if size_mm is not None and any(s > limit + 1e-6 for s, limit in zip(size_mm, limits, strict=True)):
        told = " x ".join(f"{limit:.0f}" for limit in limits)
        return f"The lesion is larger than the {told} mm that this model takes: make it smaller or take another model."
    return None


@functools.cache
def _labels_of(structure: str) -> frozenset[str]:
    """The vocabulary's labels of a structure; empty when it is none of our organs."""
    organ = vocabulary().organs.get(vocabulary().find("organ", structure))
    return frozenset() if organ is None else frozenset(organ.labels)
