"""Segments as an organ map on the CT's grid, and quick questions about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from LesionDiffusionLib.errors import LabelError
from LesionDiffusionLib.extension.mrml.geometry import (
    as_array,
    box_of_points,
    oriented_image,
    volume_geometry,
    world_matrix,
)
from LesionDiffusionLib.geometry import Box

LABELMAP = "Binary labelmap"


@dataclass(frozen=True)
class SegmentInfo:
    """A segment as the matching table shows it."""

    id: str
    name: str
    terminology: str


def segments(segmentation: slicer.vtkMRMLSegmentationNode) -> list[SegmentInfo]:
    """All segments, in their order."""
    content = segmentation.GetSegmentation()
    ids = [content.GetNthSegmentID(n) for n in range(content.GetNumberOfSegments())]
    return [SegmentInfo(i, content.GetSegment(i).GetName() or "", content.GetSegment(i).GetTerminology()) for i in ids]


def organ_labels(
    segmentation: slicer.vtkMRMLSegmentationNode,
    numbers: Mapping[str, int],
    volume: slicer.vtkMRMLScalarVolumeNode,
    out: np.ndarray,
) -> None:
    """Write the segments as numbers into a label map on the volume's grid.

    Each layer of the segmentation is resampled once (nearest neighbor), whatever the number of its segments. Where
    segments overlap, those of later layers win.

    Args:
        segmentation: under any parent transform.
        numbers: segment id -> number; other segments are left out.
        volume: gives the grid.
        out: (I, J, K) of an integer type, zeros; remains so where nothing is segmented.
    """
    segmentation.GetSegmentation().CreateRepresentation(LABELMAP)
    to_volume = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        segmentation.GetParentTransformNode(), volume.GetParentTransformNode(), to_volume
    )
    reference = oriented_image(volume)
    planes = out.transpose(2, 1, 0)  # as VTK stores them
    for image, by_label in _layers(segmentation, numbers):
        resampled = slicer.vtkOrientedImageData()
        slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
            image, reference, resampled, False, False, to_volume
        )
        labels = _stored(resampled)
        table = np.zeros(max(int(labels.max(initial=0)), *by_label) + 1, out.dtype)
        for label, number in by_label.items():
            table[label] = number
        first_i, _, first_j, _, first_k, _ = resampled.GetExtent()
        for k, plane in enumerate(labels, first_k):  # plane by plane: a whole organ map is not held twice
            known = table[plane]
            target = planes[k, first_j : first_j + known.shape[0], first_i : first_i + known.shape[1]]
            np.copyto(target, known, where=known > 0)


def share_inside(
    segmentation: slicer.vtkMRMLSegmentationNode, segment_ids: Iterable[str], points_world: np.ndarray
) -> float:
    """Share of points (N, 3) in world mm that lie in any of the segments, looked up in the segments' own voxels."""
    inside = np.zeros(len(points_world), bool)
    to_local = np.linalg.inv(world_matrix(segmentation))
    points = points_world @ to_local[:3, :3].T + to_local[:3, 3]
    for segment_id in segment_ids:
        image, label = _labelmap(segmentation, segment_id)
        if image is not None:
            inside |= _stored_values(image, points) == label
    return float(inside.mean())


def segment_box(
    segmentation: slicer.vtkMRMLSegmentationNode, segment_id: str, volume: slicer.vtkMRMLScalarVolumeNode
) -> Box:
    """The box of a segment on the volume's grid, clipped to the volume.

    Raises:
        LabelError: the segment is empty.
        GeometryError: it lies outside the volume, or a transform is not linear.
    """
    image, label = _labelmap(segmentation, segment_id)
    mask = None if image is None else _stored(image).transpose(2, 1, 0) == label
    if mask is None or not mask.any():
        name = segmentation.GetSegmentation().GetSegment(segment_id).GetName()
        raise LabelError(f'the segment "{name}" is empty; choose another one')
    corners = Box.bounding(mask).corners_vox() + np.array(image.GetExtent()[::2])
    geometry = volume_geometry(volume)
    return box_of_points(_to_world(image, segmentation, corners), geometry).clipped(geometry.shape)


def segment_extent_mm(segmentation: slicer.vtkMRMLSegmentationNode, segment_id: str) -> tuple[float, float, float]:
    """Extents of a segment along the world's X, Y, Z in mm; (0, 0, 0) for an empty one."""
    image, label = _labelmap(segmentation, segment_id)
    mask = None if image is None else _stored(image).transpose(2, 1, 0) == label
    if mask is None or not mask.any():
        return 0.0, 0.0, 0.0
    corners = Box.bounding(mask).corners_vox() + np.array(image.GetExtent()[::2])
    return tuple(float(extent) for extent in np.ptp(_to_world(image, segmentation, corners), axis=0))


def _layers(
    segmentation: slicer.vtkMRMLSegmentationNode, numbers: Mapping[str, int]
) -> Iterator[tuple[slicer.vtkOrientedImageData, dict[int, int]]]:
    """Each label map of the segmentation with the numbers for its labels."""
    content = segmentation.GetSegmentation()
    for layer in range(content.GetNumberOfLayers(LABELMAP)):
        ids = [i for i in content.GetSegmentIDsForLayer(layer, LABELMAP) if i in numbers]
        image = content.GetLayerDataObject(layer, LABELMAP)
        if ids and image is not None and not image.IsEmpty():
            yield image, {content.GetSegment(i).GetLabelValue(): numbers[i] for i in ids}


def _labelmap(
    segmentation: slicer.vtkMRMLSegmentationNode, segment_id: str
) -> tuple[slicer.vtkOrientedImageData | None, int]:
    """The label map that holds a segment, and its label in it; None for an empty one."""
    content = segmentation.GetSegmentation()
    content.CreateRepresentation(LABELMAP)
    segment = content.GetSegment(segment_id)
    image = None if segment is None else segment.GetRepresentation(LABELMAP)
    if image is None or image.IsEmpty() or not image.GetPointData().GetScalars():
        return None, 0
    return image, segment.GetLabelValue()


def _stored(image: slicer.vtkOrientedImageData) -> np.ndarray:
    """The image's own memory, (K, J, I) of its extent."""
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def _stored_values(image: slicer.vtkOrientedImageData, points: np.ndarray) -> np.ndarray:
    """The image's values at points (N, 3) in its RAS, nearest voxel; -1 outside."""
    matrix = vtk.vtkMatrix4x4()
    image.GetWorldToImageMatrix(matrix)
    to_image = as_array(matrix)
    index = np.rint(points @ to_image[:3, :3].T + to_image[:3, 3]).astype(int) - np.array(image.GetExtent()[::2])
    stored = _stored(image)
    valid = np.all((index >= 0) & (index < stored.shape[::-1]), axis=1)
    values = np.full(len(points), -1)
    i, j, k = index[valid].T
    values[valid] = stored[k, j, i]
    return values


def _to_world(
    image: slicer.vtkOrientedImageData, segmentation: slicer.vtkMRMLSegmentationNode, points_vox: np.ndarray
) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    to_world = world_matrix(segmentation) @ as_array(matrix)
    return points_vox @ to_world[:3, :3].T + to_world[:3, 3]
