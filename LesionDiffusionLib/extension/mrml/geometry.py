"""Where the voxels of a volume node lie in the world, and the way between nodes and grids."""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from LesionDiffusionLib.errors import GeometryError, VolumeError
from LesionDiffusionLib.geometry import Box, Geometry, nearest_voxel


def volume_geometry(volume: slicer.vtkMRMLScalarVolumeNode) -> Geometry:
    """The volume's grid in the world: IJK to RAS and then through its parent transforms.

    Raises:
        VolumeError: it has no voxels, or several numbers a voxel.
        GeometryError: a parent transform is not linear, or shears the grid.
    """
    image = volume.GetImageData()
    if image is None or not image.GetPointData().GetScalars():
        raise VolumeError(f'"{volume.GetName()}" has no voxels; load it again or choose another volume')
    if image.GetNumberOfScalarComponents() != 1:
        raise VolumeError(f'"{volume.GetName()}" has several numbers a voxel; choose a CT')
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return Geometry(image.GetDimensions(), world_matrix(volume) @ as_array(matrix))


def world_matrix(node: slicer.vtkMRMLTransformableNode) -> np.ndarray:
    """(4, 4): the node's own RAS to world RAS, through all its parent transforms.

    Raises:
        GeometryError: one of them is not linear.
    """
    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    if not parent.IsTransformToWorldLinear():
        raise GeometryError(
            f'"{node.GetName()}" is under the transform "{parent.GetName()}", which is not linear; '
            "harden it first (Transforms module), or move the node out of it"
        )
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return as_array(matrix)


def voxels(volume: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    """The volume's own memory as (I, J, K); call `voxels_changed` after writing to it."""
    return slicer.util.arrayFromVolume(volume).transpose(2, 1, 0)


def voxels_changed(volume: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Let the views know."""
    slicer.util.arrayFromVolumeModified(volume)


def as_array(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    return slicer.util.arrayFromVTKMatrix(matrix)


def as_matrix(array: np.ndarray) -> vtk.vtkMatrix4x4:
    return slicer.util.vtkMatrixFromArray(np.asarray(array, float))


def oriented_image(volume: slicer.vtkMRMLScalarVolumeNode, box: Box | None = None) -> slicer.vtkOrientedImageData:
    """A grid without voxels: the volume's, in its own RAS (no parent transform), or the part of it in a box."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    image = slicer.vtkOrientedImageData()
    box = box or Box.whole(volume.GetImageData().GetDimensions())
    image.SetExtent([edge for pair in zip(box.start, np.subtract(box.stop, 1), strict=True) for edge in map(int, pair)])
    image.SetGeometryFromImageToWorldMatrix(matrix)
    return image


def box_of_points(points_world: np.ndarray, geometry: Geometry) -> Box:
    """The smallest box of a grid round points (N, 3) in world mm, its faces at the nearest voxel faces; at least one
    voxel; may reach outside."""
    faces = geometry.to_voxel(points_world) + 0.5  # face n lies between the voxels n - 1 and n
    start = nearest_voxel(faces.min(axis=0))
    stop = np.maximum(nearest_voxel(faces.max(axis=0)), start + 1)
    return Box(tuple(start), tuple(stop))
