"""Result nodes: a copy of the CT with lesions, their segments, and what undo and saving need, all kept in the scene.

Beside the CT, in a folder of the subject hierarchy: the volume "... SYNTHETIC", a segmentation with one segment a
lesion, and one text node a lesion. The text (JSON) holds the lesion's patch, the voxels that it replaced and its
provenance, so that a lesion can also be taken out, bit-exactly, after the scene was saved and loaded again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import slicer
from vtk.util.numpy_support import numpy_to_vtk

from LesionDiffusionLib.errors import PlacementError, VolumeError
from LesionDiffusionLib.extension.mrml.geometry import oriented_image, volume_geometry, voxels, voxels_changed
from LesionDiffusionLib.extension.mrml.organs import organ_labels
from LesionDiffusionLib.extension.organ_matching import anatomic_region, structure_of_organ
from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.lesion_patch import LesionPatch, pack, unpack
from LesionDiffusionLib.lesion_types import lesion_type

INPUT_ROLE, SEGMENTATION_ROLE, LESION_ROLE = (f"LesionDiffusion.{name}" for name in ("Input", "Segmentation", "Lesion"))
SYNTHETIC = "SYNTHETIC"
TERMINOLOGY = "Synthetic lesions - LesionDiffusion"
REGIONS = "Anatomic codes - DICOM master list"
TYPES = {  # family of lesion types -> (SNOMED CT code, meaning, color), as in Resources/LesionDiffusion.term.json
    "": ("52988006", "Lesion", (255, 176, 32)),
    "cancer": ("108369006", "Neoplasm", (240, 98, 70)),
    "cyst": ("367643001", "Cyst", (205, 205, 100)),
    "stone": ("56381008", "Calculus", (246, 240, 214)),
    "hemorrhage": ("50960005", "Hemorrhage", (188, 65, 28)),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Lesion:
    """One lesion of a result, as the scene keeps it.

    Attributes:
        node: its text node.
        segment_id: in the result's segmentation.
        patch: the lesion.
        replaced: the CT's voxels in ``patch.changed_box`` before the lesion was put in.
        histogram: see `histogram.lesion_histogram`.
    """

    node: slicer.vtkMRMLTextNode
    segment_id: str
    patch: LesionPatch
    replaced: np.ndarray
    histogram: Mapping[str, Any]


def create_result(ct: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLScalarVolumeNode:
    """A copy of the CT (voxels, transform, window and level) with an empty segmentation, in a folder beside it."""
    volume = slicer.modules.volumes.logic().CloneVolume(slicer.mrmlScene, ct, f"{ct.GetName()} {SYNTHETIC}")
    name = volume.GetName()
    for attribute in list(volume.GetAttributeNames()):  # a copy of a scan is no scan: no DICOM identity
        if attribute.startswith("DICOM."):
            volume.RemoveAttribute(attribute)
    volume.RemoveNodeReferenceIDs(LESION_ROLE)  # those of a result that is copied stay its own
    volume.SetAttribute("LesionDiffusion.synthetic", "true")
    volume.SetDescription("Contains synthetic lesions. Research use only; not for diagnosis.")
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{name} lesions")
    segmentation.CreateDefaultDisplayNodes()
    segmentation.GetDisplayNode().SetOpacity2DFill(0.15)
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segmentation.SetAndObserveTransformNodeID(ct.GetTransformNodeID())
    volume.SetNodeReferenceID(INPUT_ROLE, ct.GetID())
    volume.SetNodeReferenceID(SEGMENTATION_ROLE, segmentation.GetID())
    _put_beside(ct, [volume, segmentation], name)
    return volume


def remove_result(result: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Take a result and all that belongs to it out of the scene."""
    hierarchy = _hierarchy()
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(result))
    for node in (*(lesion.node for lesion in lesions(result)), segmentation_of(result), result):
        if node is not None:
            _remove(hierarchy, node)
    if hierarchy.GetItemDataNode(folder) is None and not hierarchy.GetNumberOfItemChildren(folder):
        hierarchy.RemoveItem(folder)


def is_result(volume: slicer.vtkMRMLScalarVolumeNode | None) -> bool:
    """Whether a volume was made by `create_result`."""
    return volume is not None and volume.GetNodeReference(SEGMENTATION_ROLE) is not None


def input_of(result: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The CT that a result was made from, if it is still in the scene."""
    return result.GetNodeReference(INPUT_ROLE)


def segmentation_of(result: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLSegmentationNode | None:
    return result.GetNodeReference(SEGMENTATION_ROLE)


def lesions(result: slicer.vtkMRMLScalarVolumeNode) -> list[Lesion]:
    """The lesions of a result, in the order in which they were put in."""
    nodes = [result.GetNthNodeReference(LESION_ROLE, n) for n in range(result.GetNumberOfNodeReferences(LESION_ROLE))]
    return [_read(node) for node in nodes if node is not None]


def stamp(result: slicer.vtkMRMLScalarVolumeNode) -> tuple:
    """Changes when the lesions of a result do: reading them all takes time."""
    count = result.GetNumberOfNodeReferences(LESION_ROLE)
    nodes = [result.GetNthNodeReference(LESION_ROLE, n) for n in range(count)]
    return result.GetID(), *((node.GetID(), node.GetMTime()) for node in nodes if node is not None)


def add_lesion(
    result: slicer.vtkMRMLScalarVolumeNode, patch: LesionPatch, histogram: Mapping[str, Any], scene_facts: Mapping
) -> Lesion:
    """Put a lesion into a result: voxels, segment, text node, attributes.

    Args:
        result: made by `create_result`.
        patch: for this very volume.
        histogram: for the plot.
        scene_facts: provenance that only the scene knows; kept as provenance["slicer"].
    """
    array = voxels(result)
    replaced = array[patch.changed_box.slices].copy(order="F")
    if replaced.dtype != patch.changed_hu.dtype or not Box.whole(array.shape).contains(patch.changed_box):
        raise VolumeError(
            f'the lesion was made for another volume than "{result.GetName()}" '
            f"({patch.changed_hu.dtype} in {patch.changed_box}, got {array.dtype} {array.shape}); run again"
        )
    patch = dataclasses.replace(patch, provenance=dict(patch.provenance) | {"slicer": dict(scene_facts)})
    array[patch.changed_box.slices] = patch.changed_hu
    segment_id = _add_segment(result, patch)
    lesion = Lesion(_add_text(result), segment_id, patch, replaced, histogram)
    _write(lesion)
    _describe(result)
    voxels_changed(result)
    return lesion


def remove_lesion(result: slicer.vtkMRMLScalarVolumeNode, index: int) -> None:
    """Take one lesion out: the voxels it replaced come back, bit-exactly.

    Raises:
        PlacementError: a later lesion reaches into it.
    """
    held = lesions(result)
    lesion = held[index]
    for number, later in enumerate(held[index + 1 :], index + 2):
        if later.patch.changed_box.intersection(lesion.patch.changed_box) is not None:
            raise PlacementError(f"lesion {number} reaches into lesion {index + 1}; undo lesion {number} first")
    voxels(result)[lesion.patch.changed_box.slices] = lesion.replaced
    result.RemoveNthNodeReferenceID(LESION_ROLE, index)
    segmentation = segmentation_of(result)
    if segmentation is not None:
        segmentation.GetSegmentation().RemoveSegment(lesion.segment_id)
    _remove(_hierarchy(), lesion.node)
    _describe(result)
    voxels_changed(result)


def voxels_before(result: slicer.vtkMRMLScalarVolumeNode, index: int, out: np.ndarray) -> None:
    """Write the result as it was before lesion ``index`` (and all later ones) was put in into ``out`` (I, J, K)."""
    np.copyto(out, voxels(result))
    for lesion in reversed(lesions(result)[index:]):
        out[lesion.patch.changed_box.slices] = lesion.replaced


def drawn_mask(result: slicer.vtkMRMLScalarVolumeNode, index: int) -> tuple[Box, np.ndarray]:
    """The lesion's segment as it is now, perhaps edited: its tight box on the volume's grid, and the mask in it.

    Raises:
        VolumeError: it is empty, or gone.
    """
    lesion, segmentation = lesions(result)[index], segmentation_of(result)
    if segmentation is None or segmentation.GetSegmentation().GetSegment(lesion.segment_id) is None:
        raise VolumeError("the lesion's segment is gone; undo the lesion and make it again")
    labels = np.zeros(volume_geometry(result).shape, np.uint8, order="F")
    organ_labels(segmentation, {lesion.segment_id: 1}, result, labels)
    if not labels.any():
        raise VolumeError("the lesion's segment is empty; paint the lesion first")
    box = Box.bounding(labels)
    return box, labels[box.slices] > 0


def source_file(volume: slicer.vtkMRMLScalarVolumeNode) -> str:
    """The file that a volume was loaded from, "" when there is none or its voxels changed since."""
    storage = volume.GetStorageNode()
    if storage is None or storage.GetNumberOfFileNames() > 1 or volume.GetModifiedSinceRead():
        return ""
    return storage.GetFullNameFromFileName() or ""


def _add_segment(result: slicer.vtkMRMLScalarVolumeNode, patch: LesionPatch) -> str:
    image = oriented_image(result, patch.lesion_box)
    values = numpy_to_vtk(patch.lesion.ravel(order="F").astype(np.uint8), deep=True)
    image.GetPointData().SetScalars(values)
    kind = patch.report.lesion_type
    code, meaning, color = TYPES[lesion_type(kind).family if kind else ""]
    name = f"{kind or 'lesion'} (synthetic, seed {patch.provenance['settings']['seed']})"
    segmentation = segmentation_of(result)
    segment_id = segmentation.AddSegmentFromBinaryLabelmapRepresentation(image, name, [c / 255 for c in color])
    region, side = anatomic_region(structure_of_organ(patch.report.organ))
    parts = (TERMINOLOGY, "SCT^49755003^Morphologically Altered Structure", f"SCT^{code}^{meaning}", "^^")
    segment = segmentation.GetSegmentation().GetSegment(segment_id)
    segment.SetTerminology("~".join((*parts, REGIONS, region, side)))
    return segment_id


def _add_text(result: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLTextNode:
    number = result.GetNumberOfNodeReferences(LESION_ROLE) + 1
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", f"{result.GetName()} lesion {number} provenance")
    result.AddNodeReferenceID(LESION_ROLE, node.GetID())
    hierarchy = _hierarchy()
    _move(hierarchy, node, hierarchy.GetItemParent(hierarchy.GetItemByDataNode(result)))
    return node


def _write(lesion: Lesion) -> None:
    content = {"format": 1, "segment": lesion.segment_id, "histogram": dict(lesion.histogram)}
    content |= {"replaced": pack(lesion.replaced), "lesion": lesion.patch.to_json()}
    lesion.node.SetText(json.dumps(content, indent=1))
    lesion.node.SetAttribute("mimetype", "application/json")
    lesion.node.SetAttribute("LesionDiffusion.report", lesion.patch.report.describe())


def _read(node: slicer.vtkMRMLTextNode) -> Lesion:
    try:
        content = json.loads(node.GetText())
        patch = LesionPatch.from_json(content["lesion"])
        replaced = unpack(content["replaced"], patch.changed_box.shape)
        return Lesion(node, content["segment"], patch, replaced, content["histogram"])
    except (ValueError, LookupError, TypeError) as error:
        raise VolumeError(f'the text node "{node.GetName()}" was changed and describes no lesion: {error}') from error


def _describe(result: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Short provenance where scripts and exporters look: node attributes and the DICOM series description."""
    patches = [lesion.patch for lesion in lesions(result)]
    facts = {
        "lesions": str(len(patches)),
        "seeds": " ".join(str(patch.provenance["settings"]["seed"]) for patch in patches),
        "bundles": " ".join(dict.fromkeys(patch.provenance["bundle"]["name"] for patch in patches)),
        "reports": " ".join(patch.report.describe() for patch in patches),
    }
    for name, text in facts.items():
        result.SetAttribute(f"LesionDiffusion.{name}", text)
    hierarchy = _hierarchy()
    item = hierarchy.GetItemByDataNode(result)
    hierarchy.SetItemAttribute(item, "DICOM.SeriesDescription", f"{SYNTHETIC} lesions, research use only")


def _put_beside(ct: slicer.vtkMRMLScalarVolumeNode, nodes: list[slicer.vtkMRMLNode], name: str) -> None:
    """A folder with the nodes, next to the CT in the subject hierarchy."""
    hierarchy = _hierarchy()
    beside = hierarchy.GetItemByDataNode(ct)
    parent = hierarchy.GetItemParent(beside) if beside else hierarchy.GetSceneItemID()
    folder = hierarchy.CreateFolderItem(parent, name)
    for node in nodes:
        _move(hierarchy, node, folder)


def _move(hierarchy: slicer.vtkMRMLSubjectHierarchyNode, node: slicer.vtkMRMLNode, parent: int) -> None:
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, parent)
    else:  # Slicer itself makes an item for every node; plain MRML does not
        hierarchy.CreateItem(parent, node)


def _remove(hierarchy: slicer.vtkMRMLSubjectHierarchyNode, node: slicer.vtkMRMLNode) -> None:
    slicer.mrmlScene.RemoveNode(node)
    item = hierarchy.GetItemByDataNode(node)
    if item:  # Slicer itself removes the item with its node; plain MRML does not
        hierarchy.RemoveItem(item, False)


def _hierarchy() -> slicer.vtkMRMLSubjectHierarchyNode:
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
