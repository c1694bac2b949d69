"""48 axis orientations x {isotropic, anisotropic} x {straight, oblique}: a box, a mask and the untouched voxels, from
the patient's grid to a model's window and back.

Tolerances are half a voxel of the coarser grid for each step, plus float64 rounding. Volumes are of odd size, and one
is smaller than the window, which then reaches outside.
"""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from conftest import make_geometry

from LesionDiffusionLib.geometry import Box, Geometry
from LesionDiffusionLib.resampling import box_on_grid, home_box, sample, sample_home, window_grid
from LesionDiffusionLib.volume import Volume

ORIENTATIONS = [
    np.eye(3)[:, list(order)] * signs for order in permutations(range(3)) for signs in product((1, -1), repeat=3)
]
SPACINGS_MM = {"isotropic": (1.0, 1.0, 1.0), "anisotropic": (0.7, 1.3, 2.6)}
ROTATIONS = {"straight": (0, 0, 0), "oblique": (9, -14, 17)}
SHAPE = (27, 31, 23)
WINDOW = (16, 13, 18)  # mm; along the longest anisotropic axis it holds 7 voxels, along a small one it reaches outside
ROUNDING = 1e-6
LESION = Box((11, 14, 8), (16, 20, 13))  # another size along each axis and off center: a swap or a flip shows

matrix = [
    pytest.param(make_geometry(shape, spacing, axes, ROTATIONS[rotation], (-93.5, 210.25, 1002.0)), id=name)
    for n, axes in enumerate(ORIENTATIONS)
    for (kind, spacing), rotation in product(SPACINGS_MM.items(), ROTATIONS)
    for shape in [SHAPE if n % 2 else (27, 22, 15)]
    for name in [f"{make_geometry(SHAPE, spacing, axes).axis_codes}-{kind}-{rotation}"]
]


def test_the_matrix_is_complete():
    assert len({np.array2string(axes) for axes in ORIENTATIONS}) == 48
    assert len({parameters.id for parameters in matrix}) == 48 * 2 * 2


def lesion_window(patient: Geometry) -> Geometry:
    return window_grid(patient, LESION.center_vox, 1.0, WINDOW)


def faces_apart_mm(box: Box, grid: Geometry, other_box: Box, other_grid: Geometry) -> np.ndarray:
    """(2, 3): distance between the low and high faces of two boxes, along the axes of ``grid``, through RAS."""
    corners = box.corners_vox()
    other = grid.to_voxel(other_grid.to_ras(other_box.corners_vox()))
    apart = np.stack([corners.min(axis=0) - other.min(axis=0), corners.max(axis=0) - other.max(axis=0)])
    return np.abs(apart) * grid.spacing_mm


def coarser_mm(patient: Geometry) -> np.ndarray:
    return np.maximum(patient.spacing_mm, 1.0)


@pytest.mark.parametrize("patient", matrix)
def test_a_box_lands_where_it_should_both_ways(patient):
    window = lesion_window(patient)
    there = box_on_grid(LESION, patient, window)
    assert np.all(faces_apart_mm(LESION, patient, there, window) <= coarser_mm(patient) / 2 + ROUNDING)
    back = box_on_grid(there, window, patient)
    assert np.all(faces_apart_mm(back, patient, there, window) <= coarser_mm(patient) / 2 + ROUNDING)
    # Where the window is not the coarser grid, nothing is lost at all.
    exact = np.asarray(patient.spacing_mm) >= 1
    assert np.all(np.abs(np.subtract(back.start, LESION.start))[exact] == 0)
    assert np.all(np.abs(np.subtract(back.stop, LESION.stop))[exact] == 0)


@pytest.mark.parametrize("patient", matrix)
def test_a_mask_lands_where_it_should_both_ways(patient):
    mask = np.zeros(patient.shape, bool)
    mask[LESION.slices] = True
    window = lesion_window(patient)
    in_window = sample(Volume(mask, patient), window) >= 0.5
    assert np.all(
        faces_apart_mm(LESION, patient, Box.bounding(in_window), window) <= coarser_mm(patient) / 2 + ROUNDING
    )
    home = np.zeros(patient.shape, bool)
    box = home_box(window, patient)
    home[box.slices] = sample_home(in_window, window, patient, box) >= 0.5
    assert np.all(faces_apart_mm(LESION, patient, Box.bounding(home), patient) <= coarser_mm(patient) / 2 + ROUNDING)
    assert home[LESION.padded(-1).slices].all()  # a threshold of interpolated values may round the box's corners only


@pytest.mark.parametrize("patient", matrix)
def test_values_are_those_of_the_same_place_in_the_patient(patient):
    def ramp(grid: Geometry) -> np.ndarray:
        points = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
        return grid.to_ras(points) @ (0.5, -0.25, 0.125)

    window = lesion_window(patient)
    in_patient = np.stack(np.meshgrid(*map(np.arange, window.shape), indexing="ij"), axis=-1)
    in_patient = window.to_voxel_of(patient, in_patient)
    inside = np.all((in_patient >= 0) & (in_patient <= np.asarray(patient.shape) - 1), axis=-1)
    sampled = sample(Volume(ramp(patient), patient), window, smooth=False)
    assert inside.mean() > 0.4
    assert sampled[inside] == pytest.approx(ramp(window)[inside], abs=1e-3)


@pytest.mark.parametrize("patient", matrix)
def test_untouched_voxels_stay_bit_identical(patient, generator):
    """The home-coming of the main job: ct + weight * (synthesized - ct), weight 0 outside the lesion."""
    ct = generator.uniform(-1000, 1000, patient.shape).astype(np.float32)
    window = lesion_window(patient)
    in_window = sample(Volume(ct, patient), window)
    lesion = np.zeros(window.shape, np.float32)
    there = box_on_grid(LESION, patient, window).clipped(window.shape)
    lesion[there.slices] = 1

    box = home_box(window, patient)
    change = sample_home(lesion * 300, window, patient, box)
    weight = sample_home(lesion, window, patient, box)
    out = ct.copy()
    out[box.slices] += weight * change

    changed = out != ct
    reach = LESION.padded(tuple(int(n) for n in np.ceil(1.5 * coarser_mm(patient) / patient.spacing_mm)))
    assert changed[LESION.slices].mean() > 0.5
    changed[reach.clipped(patient.shape).slices] = False
    assert not changed.any()
    if patient.spacing_mm == pytest.approx((1, 1, 1)):
        assert np.array_equal(sample_home(in_window, window, patient, box), ct[box.slices])
