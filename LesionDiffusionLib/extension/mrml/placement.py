"""The lesion's box as a Markups ROI: both directions exact, also for oblique volumes and under linear transforms."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import numpy as np
import slicer

from LesionDiffusionLib.extension.mrml.geometry import (
    as_array,
    as_matrix,
    box_of_points,
    volume_geometry,
    world_matrix,
)
from LesionDiffusionLib.extension.mrml.organs import share_inside
from LesionDiffusionLib.geometry import Box, Geometry, axes_to_size

CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
PROBES = 9  # a side of the lattice of points that is looked up in the organ
INSIDE_SHARE = 0.95


class BoxState(enum.Enum):
    """What is the matter with a box; the value is the color of its outline."""

    FINE = (0.35, 0.85, 0.45)
    LEAVES_ORGAN = (1.0, 0.75, 0.1)
    OUTSIDE_VOLUME = (0.95, 0.2, 0.2)
    TOO_LARGE = (0.85, 0.3, 0.9)


def roi_box(roi: slicer.vtkMRMLMarkupsROINode, geometry: Geometry) -> Box:
    """The voxels of a grid that a ROI covers: all 8 corners, through both nodes' transforms; may reach outside.

    Raises:
        GeometryError: the ROI is under a transform that is not linear.
    """
    return box_of_points(roi_corners_world(roi), geometry)


def roi_corners_world(roi: slicer.vtkMRMLMarkupsROINode) -> np.ndarray:
    """(8, 3) in world mm. Raises GeometryError for a transform that is not linear."""
    to_world = world_matrix(roi) @ as_array(roi.GetObjectToNodeMatrix())
    return CORNERS * np.array(roi.GetSize()) @ to_world[:3, :3].T + to_world[:3, 3]


def add_roi(name: str) -> slicer.vtkMRMLMarkupsROINode:
    """A new ROI without size, shown as an outline."""
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
    roi.CreateDefaultDisplayNodes()
    display = roi.GetDisplayNode()
    display.SetFillOpacity(0.08)
    display.SetPropertiesLabelVisibility(False)
    display.SetHandlesInteractive(True)
    return roi


def start_placing(markups: slicer.vtkMRMLMarkupsNode) -> None:
    """Let the next clicks into a view place this node's points."""
    logic = slicer.modules.markups.logic()
    logic.SetActiveList(markups)
    logic.StartPlaceMode(False)


def set_roi(roi: slicer.vtkMRMLMarkupsROINode, box: Box, geometry: Geometry) -> None:
    """Make the ROI cover exactly the voxels of a box, its axes along the grid's.

    The grid may be left-handed (it often is): a ROI's axes must not be, so that its last axis may point the other way.
    Raises GeometryError when the ROI is under a transform that is not linear.
    """
    to_node = np.eye(4)
    to_node[:3, :3] = geometry.directions_ras
    if np.linalg.det(to_node[:3, :3]) < 0:
        to_node[:3, 2] *= -1
    to_node[:3, 3] = geometry.to_ras(box.center_vox)
    local = np.linalg.inv(world_matrix(roi)) @ to_node
    scale = np.linalg.norm(local[:3, :3], axis=0)  # of the ROI's own parent transform
    local[:3, :3] /= scale
    with slicer.util.NodeModify(roi):
        roi.SetROIType(slicer.vtkMRMLMarkupsROINode.ROITypeBox)
        roi.SetAndObserveObjectToNodeMatrix(as_matrix(local))
        roi.SetSize(*(np.array(box.size_mm(geometry)) * scale))


def box_state(
    box: Box,
    geometry: Geometry,
    organ: tuple[slicer.vtkMRMLSegmentationNode, Sequence[str]] | None,
    largest_mm: Sequence[float],
) -> BoxState:
    """What is the matter with a box of a grid.

    Args:
        box: may reach outside.
        geometry: the grid.
        organ: the segmentation and the ids of the segments in which the lesion should lie; None when that is unknown.
        largest_mm: the model's limit along the patient's X, Y, Z.
    """
    if not Box.whole(geometry.shape).contains(box):
        return BoxState.OUTSIDE_VOLUME
    size_mm = axes_to_size(geometry, box.size_mm(geometry))
    if any(extent > limit + 1e-6 for extent, limit in zip(size_mm, largest_mm, strict=True)):
        return BoxState.TOO_LARGE
    if organ is not None and share_inside(*organ, _probes(box, geometry)) < INSIDE_SHARE:
        return BoxState.LEAVES_ORGAN
    return BoxState.FINE


def show_state(roi: slicer.vtkMRMLMarkupsROINode, state: BoxState) -> None:
    """Color the outline."""
    display = roi.GetDisplayNode()
    if display is not None and tuple(display.GetSelectedColor()) != state.value:
        display.SetSelectedColor(*state.value)
        display.SetColor(*state.value)


def last_point_world(markups: slicer.vtkMRMLMarkupsNode) -> np.ndarray | None:
    """World mm of the last point that was placed; None when there is none."""
    count = markups.GetNumberOfDefinedControlPoints()
    if not count:
        return None
    point = [0.0, 0.0, 0.0]
    markups.GetNthControlPointPositionWorld(markups.GetNumberOfControlPoints() - 1, point)
    return np.array(point)


def crosshair_world() -> np.ndarray:
    """World mm of the crosshair."""
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    return np.zeros(3) if crosshair is None else np.array(crosshair.GetCrosshairRAS())


def box_center_world(box: Box, volume: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    """World mm of the middle of a box of a volume's grid."""
    return volume_geometry(volume).to_ras(np.array(box.center_vox))


def _probes(box: Box, geometry: Geometry) -> np.ndarray:
    """Points in world mm that fill the ellipsoid inscribed in a box."""
    steps = (np.arange(PROBES) + 0.5) / PROBES * 2 - 1
    lattice = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    inside = lattice[(lattice**2).sum(axis=1) <= 1]
    return geometry.to_ras(np.array(box.center_vox) + inside * np.array(box.shape) / 2)
