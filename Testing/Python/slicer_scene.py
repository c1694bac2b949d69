"""A real MRML scene from the slicer-core wheel, and made-up patients in it. Tests that need it skip loudly without."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from LesionDiffusionLib.geometry import Geometry
from LesionDiffusionLib.labels import OrganMap
from LesionDiffusionLib.volume import Volume

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "slicer"))

try:
    import slicer
except ImportError as error:  # also without the system's libraries that VTK needs
    pytest.skip(f"SKIPPED, not passed: no slicer-core, no MRML to test on: {error}", allow_module_level=True)

from standin.scene import make_scene


@pytest.fixture
def scene():
    """An empty scene in ``slicer.mrmlScene``."""
    scene = make_scene()
    yield scene
    scene.Clear(True)


def add_ct(ct: Volume, name: str = "CT"):
    """A volume node with these voxels and this grid."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.CreateDefaultDisplayNodes()
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(ct.array.transpose(2, 1, 0)))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ct.geometry.affine_ras))
    return node


def add_segmentation(organs: OrganMap, reference, name: str = "organs", names: dict[str, str] | None = None):
    """A segmentation with a segment for every structure of an organ map; ``names`` renames segments."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    node.SetAndObserveTransformNodeID(reference.GetTransformNodeID())
    for structure in organs.names_present():
        number = next(n for n, label in organs.table.items() if label == structure)
        shown = (names or {}).get(structure, structure)
        segment_id = node.GetSegmentation().AddEmptySegment(structure, shown)
        mask = (organs.volume.array == number).astype(np.uint8).transpose(2, 1, 0)
        slicer.util.updateSegmentBinaryLabelmapFromArray(np.ascontiguousarray(mask), node, segment_id, reference)
    return node


def put_under_transform(node, matrix: np.ndarray, name: str = "moved"):
    """Put a node under a linear transform."""
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def put_under_bend(node):
    """Put a node under a transform that is not linear."""
    import vtk

    bend = vtk.vtkThinPlateSplineTransform()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for corner in np.ndindex(2, 2, 2):
        point = np.array(corner) * 100.0 - 50
        source.InsertNextPoint(point)
        target.InsertNextPoint(point * (1 + 0.1 * corner[0]))
    bend.SetSourceLandmarks(source)
    bend.SetTargetLandmarks(target)
    bend.SetBasisToR()
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "bend")
    transform.SetAndObserveTransformToParent(bend)
    node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def rigid(degrees_xyz=(0, 0, 0), shift_mm=(0, 0, 0)) -> np.ndarray:
    """A 4x4 rotation and shift."""
    from conftest import rotation

    matrix = np.eye(4)
    matrix[:3, :3] = rotation(degrees_xyz)
    matrix[:3, 3] = shift_mm
    return matrix


def moved(grid: Geometry, matrix: np.ndarray) -> Geometry:
    """A grid after a transform."""
    return Geometry(grid.shape, matrix @ grid.affine_ras)
