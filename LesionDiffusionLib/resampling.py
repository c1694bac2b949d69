"""From the patient's grid to a model's window and back.

A window grid follows the patient's own voxel axes, permuted and flipped so that its array axes (D, H, W) grow to
Superior, Anterior and Left (released-model 5.1). The patient is never rotated, so a box stays a box, resampling
is done one axis at a time, and where the spacings agree voxels are copied.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from LesionDiffusionLib.errors import GeometryError
from LesionDiffusionLib.geometry import ROUNDING_VOX, Box, Geometry, nearest_axes, nearest_voxel, parallel_axes
from LesionDiffusionLib.volume import Volume

_WINDOW_AXES = ((2, 1), (1, 1), (0, -1))  # (axis of RAS, sense): Superior, Anterior, Left
_SAME_SPACING = 1e-3  # relative
# Standard deviation of a Gaussian whose full width at half maximum is one voxel. Blurring from one voxel size to
# another needs the difference of the variances (scale factor point spread function matching, Cardoso et al. 2015).
_SIGMA_PER_VOXEL = 1 / (2 * np.sqrt(2 * np.log(2)))
_TRUNCATE_SIGMAS = 3.0


def window_grid(
    patient: Geometry, center_vox: tuple[float, float, float], spacing_mm: float, shape: tuple[int, int, int]
) -> Geometry:
    """The grid of a model's window of ``shape`` (D, H, W) around ``center_vox`` (patient voxels i, j, k).

    The window is moved to stay inside the volume (released-model 5.4), or centered on it along an axis where the volume
    is the smaller one. Where the patient's spacing equals ``spacing_mm`` window voxels coincide with patient voxels.
    """
    axes = nearest_axes(patient)
    affine = np.eye(4)
    first_vox = np.zeros(3)
    for window_axis, (world, sense) in enumerate(_WINDOW_AXES):
        axis, sign = axes[world]
        step_vox = spacing_mm / patient.spacing_mm[axis]
        if abs(step_vox - 1) <= _SAME_SPACING:
            step_vox = 1.0
        last_vox = patient.shape[axis] - 1
        # Counted in the direction in which the window grows, so that flipped patients round the same way.
        forward = sign * sense > 0
        center = center_vox[axis] if forward else last_vox - center_vox[axis]
        first = _first_voxel(center, step_vox, shape[window_axis], patient.shape[axis])
        first_vox[axis] = first if forward else last_vox - first
        affine[:3, window_axis] = patient.affine_ras[:3, axis] * (step_vox if forward else -step_vox)
    affine[:3, 3] = patient.to_ras(first_vox)
    return Geometry(shape, affine)


def sample(volume: Volume, grid: Geometry, order: int = 1, smooth: bool = True) -> np.ndarray:
    """Values of ``volume`` at the voxel centers of ``grid``, an array of ``grid.shape``; edge values repeat outside.

    ``order`` 1 interpolates linearly and gives float32; 0 takes the nearest voxel and keeps the dtype. With
    ``smooth``, linear interpolation to a coarser grid first averages over the coarser voxel, against aliasing.

    Raises:
        GeometryError: the axes of ``grid`` are not those of the volume, permuted or flipped.
    """
    axes, coordinates = _parallel_axes(volume.geometry, grid)
    sigmas = [0.0] * 3
    for t, a in enumerate(axes):
        step = grid.spacing_mm[t] / volume.geometry.spacing_mm[a]
        if smooth and order == 1 and step > 1 + _SAME_SPACING:
            sigmas[a] = _SIGMA_PER_VOXEL * np.sqrt(step**2 - 1)
    needed = [_needed(*of_axis) for of_axis in zip(coordinates, sigmas, volume.geometry.shape, strict=True)]
    array = volume.array[tuple(needed)]
    array = array.astype(np.float32 if order == 1 else array.dtype, copy=False)
    for axis, (vox, sigma) in enumerate(zip(coordinates, sigmas, strict=True)):
        if sigma > 0:
            array = ndimage.gaussian_filter1d(array, sigma, axis, mode="nearest", truncate=_TRUNCATE_SIGMAS)
        array = _interpolated(array, axis, vox - needed[axis].start, order)
    return np.ascontiguousarray(array.transpose(axes))


def sample_mask(mask: np.ndarray, patient: Geometry, grid: Geometry) -> np.ndarray:
    """A lesion mask (bool) of the patient's grid on a window: smooth where the window is finer, never empty where it is
    coarser. Raises GeometryError as `sample` does."""
    share = sample(Volume(mask, patient), grid)
    return share > min(0.5, 0.5 * float(share.max()))


def home_box(grid: Geometry, patient: Geometry) -> Box:
    """The patient voxels whose centers lie within the extent of ``grid``; GeometryError when there are none."""
    edges = grid.to_voxel_of(patient, Box.whole(grid.shape).corners_vox())
    start = np.ceil(edges.min(axis=0) - ROUNDING_VOX)
    stop = np.floor(edges.max(axis=0) + ROUNDING_VOX) + 1
    if np.any(stop <= start):
        raise GeometryError("the window is thinner than one voxel of the volume; use a model with a larger window")
    return Box(tuple(start), tuple(stop)).clipped(patient.shape)


def sample_home(
    array: np.ndarray, grid: Geometry, patient: Geometry, box: Box, order: int = 1, fill: float = 0.0
) -> np.ndarray:
    """Values of a window ``array`` on ``grid`` at the patient's voxels in ``box``; ``fill`` outside the window.

    Never smoothed: patient voxel -> window -> patient voxel must be the identity, or a ghost of the replaced
    anatomy would stay. float32 for ``order`` 1, the array's dtype for 0.
    """
    home = patient.cropped(box)
    values = sample(Volume(array, grid), home, order=order, smooth=False)
    axes, coordinates = _parallel_axes(grid, home)
    for window_axis, vox in enumerate(coordinates):
        last_edge = grid.shape[window_axis] - 0.5
        outside = (vox < -0.5 - ROUNDING_VOX) | (vox > last_edge + ROUNDING_VOX)
        values[(slice(None),) * axes.index(window_axis) + (outside,)] = fill
    return values


def box_on_grid(box: Box, patient: Geometry, grid: Geometry) -> Box:
    """``box`` of patient voxels as voxels of ``grid``, each face moved to the nearest voxel face.

    A box thinner than a voxel becomes the voxel at its middle. It may reach outside ``grid``: clip it where needed.
    """
    corners = patient.to_voxel_of(grid, box.corners_vox())
    start, stop = (nearest_voxel(face + 0.5) for face in (corners.min(axis=0), corners.max(axis=0)))
    middle = nearest_voxel(corners.mean(axis=0))
    empty = stop <= start
    return Box(tuple(np.where(empty, middle, start)), tuple(np.where(empty, middle + 1, stop)))


def fitting_grid(grid: Geometry, drawn: Box, box: Box, patient: Geometry) -> Geometry:
    """``grid`` shrunk along the axes where what fills its voxels ``drawn`` reaches beyond ``box`` of the patient.

    On the new grid it ends at the box, and its shape is kept: cut there it would have a flat face. Along the other axes
    nothing changes, nor anywhere if the two do not meet.
    """
    faces = patient.to_voxel_of(grid, box.corners_vox())
    first, last = np.array([drawn.start, drawn.stop]) - 0.5
    low, high = np.maximum(first, faces.min(axis=0)), np.minimum(last, faces.max(axis=0))
    if np.any(low >= high):
        return grid
    scale = (high - low) / (last - first)
    change = np.diag([*scale, 1.0])
    change[:3, 3] = low - scale * first
    return Geometry(grid.shape, grid.affine_ras @ change)


def _first_voxel(center: float, step_vox: float, size: int, volume_size: int) -> float:
    """Center of the first of ``size`` window voxels, ``step_vox`` apart, in a volume's voxel coordinates."""
    slack = volume_size - size * step_vox
    lowest = (step_vox - 1) / 2  # where the outer faces of window and volume coincide
    if slack < 0:
        first = lowest + slack / 2
        return float(np.floor(first)) if step_vox == 1 else first
    # The released windows round the center down and begin half a size, rounded down, before it (released-model 5.4).
    first = np.floor(center) - size // 2 if step_vox == 1 else center - (size - 1) / 2 * step_vox
    return float(np.clip(first, lowest, lowest + slack))


def _parallel_axes(volume: Geometry, grid: Geometry) -> tuple[tuple[int, ...], list[np.ndarray]]:
    """``geometry.parallel_axes`` of two grids that must be parallel."""
    correspondence = parallel_axes(volume, grid)
    if correspondence is None:
        raise GeometryError(
            f"a window must follow the voxel axes of its volume, but {grid.axis_codes} and {volume.axis_codes} are "
            "rotated to each other; make the window with window_grid() from the geometry of this volume"
        )
    return correspondence


def _needed(vox: np.ndarray, sigma: float, size: int) -> slice:
    """The voxels along one axis of ``size`` that sampling at ``vox`` reads; at least the nearest one."""
    margin = int(np.ceil(sigma * _TRUNCATE_SIGMAS))
    first = np.clip(np.floor(vox.min()) - margin, 0, size - 1)
    stop = np.clip(np.ceil(vox.max()) + margin + 1, first + 1, size)
    return slice(int(first), int(stop))


def _interpolated(array: np.ndarray, axis: int, vox: np.ndarray, order: int) -> np.ndarray:
    """A copy of ``array`` at the positions ``vox`` along ``axis``; positions outside take the edge value."""
    last = array.shape[axis] - 1
    if order == 0:
        return array.take(np.clip(nearest_voxel(vox), 0, last), axis)
    vox = np.clip(vox, 0, last)
    lower = np.floor(vox).astype(int)
    weight = (vox - lower).astype(np.float32)
    values = array.take(lower, axis)
    if weight.any():
        rise = array.take(np.minimum(lower + 1, last), axis) - values
        rise *= weight.reshape([-1 if a == axis else 1 for a in range(3)])
        values += rise
    return values
