"""A voxel array on its grid, and the checks that two volumes belong together and that one of them is a CT."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from LesionDiffusionLib.errors import GeometryError, VolumeError
from LesionDiffusionLib.geometry import Box, Geometry, nearest_voxel, parallel_axes

_MIN_OVERLAP = 0.5  # of the CT or of the map: below it the two do not show the same part of the patient
_MIN_OVERLAP_SAME_SHAPE = 0.9  # equal shapes on different grids are nearly always a map whose header was lost
_MIN_HU_RANGE = 100.0  # air to soft tissue spans about 1000 HU; normalized images span 1 to 10


@dataclass(frozen=True, eq=False)
class Volume:
    """``array`` (I, J, K), i fastest on disk, and the ``geometry`` that says where its voxels lie.

    Raises:
        VolumeError: the array is not 3-D or its shape is not that of the geometry.
    """

    array: np.ndarray
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.array.ndim != 3:
            raise VolumeError(f"expected a 3-D array, got shape {self.array.shape}; give one volume (I, J, K)")
        if self.array.shape != self.geometry.shape:
            raise VolumeError(
                f"the array has shape {self.array.shape} but its grid {self.geometry.shape}; "
                "give the array in (I, J, K) order with the geometry it was read with"
            )

    def cropped(self, box: Box) -> Volume:
        """The part in ``box``, which must lie inside: a view, not a copy. GeometryError otherwise."""
        if not Box.whole(self.geometry.shape).contains(box):
            raise GeometryError(f"box {box} reaches outside the volume of shape {self.geometry.shape}; clip it first")
        return Volume(self.array[box.slices], self.geometry.cropped(box))


def require_same_grid(ct: Volume, other: Volume, name: str) -> None:
    """GeometryError, saying by how much, unless ``other`` (called ``name``) lies on the CT's grid."""
    difference = ct.geometry.difference(other.geometry)
    if difference is not None:
        raise GeometryError(
            f"the CT and the {name} are on different grids: {difference}; resample the {name} to the CT"
        )


def align_to(label_map: Volume, ct: Volume, name: str) -> Volume:
    """``label_map`` on the CT's grid: itself when it is there already, else its nearest labels (0 outside the map).

    Raises:
        GeometryError: the two do not show the same part of the patient, so that resampling would hide a mistake.
    """
    difference = ct.geometry.difference(label_map.geometry)
    if difference is None:
        return label_map
    of_ct = _share_inside(ct.geometry, label_map.geometry)
    of_map = _share_inside(label_map.geometry, ct.geometry)
    same_shape = ct.geometry.shape == label_map.geometry.shape
    if max(of_ct, of_map) < _MIN_OVERLAP or (same_shape and min(of_ct, of_map) < _MIN_OVERLAP_SAME_SHAPE):
        raise GeometryError(
            f"the {name} does not lie where the CT lies: {difference}; it covers {of_ct:.0%} of the CT, and "
            f"{of_map:.0%} of it is inside the CT; give the {name} made from this CT, with its geometry in the header"
        )
    return Volume(_nearest_on_grid(label_map, ct.geometry), ct.geometry)


def check_ct(volume: Volume, name: str = "the CT") -> None:
    """VolumeError unless the values can be HU of a 3-D CT: finite, with air or fat below 0, and some contrast."""
    array = volume.array
    if min(array.shape) < 2:
        raise VolumeError(f"{name} is only one voxel thick, shape {array.shape}; give a 3-D CT with several slices")
    lowest, highest = float(array.min()), float(array.max())
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        bad = array.size - int(np.isfinite(array).sum())
        raise VolumeError(f"{name} has {bad} voxels that are NaN or infinite; replace them, for instance by -1000 HU")
    if lowest == highest:
        raise VolumeError(f"{name} is empty: every voxel is {lowest:g}; give a CT in HU")
    if lowest >= 0 or highest - lowest < _MIN_HU_RANGE:
        raise VolumeError(
            f"{name} is not in HU: its values run from {lowest:g} to {highest:g}, expected about -1000 (air) to 1000 "
            "(bone) or more; give a CT, neither normalized nor another modality, with its rescale intercept applied"
        )


def _share_inside(geometry: Geometry, other: Geometry, points_per_axis: int = 16) -> float:
    """Share of the extent of ``geometry`` that lies within ``other``, estimated on a lattice of points."""
    steps = (np.arange(points_per_axis) + 0.5) / points_per_axis
    lattice = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1)
    points = geometry.to_voxel_of(other, lattice * geometry.shape - 0.5)
    return float(np.all((points >= -0.5) & (points <= np.asarray(other.shape) - 0.5), axis=-1).mean())


def _nearest_on_grid(label_map: Volume, grid: Geometry) -> np.ndarray:
    """Labels at the voxel centers of ``grid``, 0 outside the map."""
    correspondence = parallel_axes(label_map.geometry, grid)
    if correspondence is None:
        from scipy import ndimage  # here, because a window that only holds volumes should open quickly

        to_map = np.linalg.inv(label_map.geometry.affine_ras) @ grid.affine_ras
        return ndimage.affine_transform(
            label_map.array, to_map[:3, :3], to_map[:3, 3], grid.shape, order=0, mode="grid-constant", cval=0
        )
    # Flipped, permuted or scaled axes only: the same one axis at a time, which is many times faster.
    axes, coordinates = correspondence
    labels = label_map.array
    for axis, vox in enumerate(coordinates):
        last = labels.shape[axis] - 1
        nearest = nearest_voxel(vox)
        labels = labels.take(np.clip(nearest, 0, last), axis)
        labels[(slice(None),) * axis + ((nearest < 0) | (nearest > last),)] = 0
    return labels.transpose(axes)
