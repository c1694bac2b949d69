"""Windows and sampling: closed forms, exact copies, and the released rule for the place of a window."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_geometry

from LesionDiffusionLib.errors import GeometryError
from LesionDiffusionLib.geometry import Box, Geometry
from LesionDiffusionLib.resampling import box_on_grid, fitting_grid, home_box, sample, sample_home, window_grid
from LesionDiffusionLib.volume import Volume

LPS = np.diag([-1, -1, 1])
GRADIENT_RAS = np.array([1.5, -2.0, 0.75])  # per mm


def lattice(geometry: Geometry) -> np.ndarray:
    """(I, J, K, 3) voxel coordinates of every voxel center."""
    return np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1)


def ramp(geometry: Geometry) -> np.ndarray:
    """A function that is linear in the patient's coordinates, at every voxel center."""
    return geometry.to_ras(lattice(geometry)) @ GRADIENT_RAS


@pytest.fixture
def patient() -> Geometry:
    return make_geometry((31, 28, 17), (0.8, 0.8, 2.5), LPS, (5, -12, 8), (80, 33, -200))


def test_window_axes_grow_to_superior_anterior_left_along_the_patients_axes(patient):
    window = window_grid(patient, (15, 14, 8), 1.0, (12, 14, 16))
    assert window.shape == (12, 14, 16)
    assert window.axis_codes == "SAL"
    assert window.spacing_mm == pytest.approx((1, 1, 1))
    cosines = np.abs(window.directions_ras.T @ patient.directions_ras)
    assert np.sort(cosines, axis=None) == pytest.approx([0] * 6 + [1] * 3, abs=1e-9)


def test_a_window_in_the_middle_is_centered(patient):
    window = window_grid(patient, (15.2, 13.1, 8.3), 1.0, (12, 14, 16))
    assert window.to_voxel_of(patient, (5.5, 6.5, 7.5)) == pytest.approx((15.2, 13.1, 8.3))


def test_a_window_at_the_border_stays_inside_where_the_volume_is_large_enough(patient):
    for center in ((0, 0, 0), (30, 27, 16)):
        window = window_grid(patient, center, 1.0, (12, 14, 16))
        faces = window.to_voxel_of(patient, Box.whole(window.shape).corners_vox())
        touched = faces.min(axis=0) if center == (0, 0, 0) else np.asarray(patient.shape) - 1 - faces.max(axis=0)
        assert touched == pytest.approx([-0.5] * 3)


def test_a_window_larger_than_the_volume_is_centered_on_it(patient):
    window = window_grid(patient, (0, 0, 0), 1.0, (60, 40, 50))
    assert window.to_voxel_of(patient, (29.5, 19.5, 24.5)) == pytest.approx((15, 13.5, 8))


def released_start(first: int, last: int, size: int, volume: int) -> int:
    """released-model 5.4, written out: the window along one axis around voxels ``first`` to ``last`` inclusive."""
    center = (first + last) // 2
    start, end = max(center - size // 2, 0), min(max(center - size // 2, 0) + size, volume)
    if end - start < size:
        start = 0 if center - size // 2 < 0 else volume - size
    return start


@pytest.mark.parametrize("axes", [np.eye(3), LPS, np.array([[0, 0, -1], [-1, 0, 0], [0, 1, 0]])])
def test_at_equal_spacing_the_window_is_the_released_one(axes, generator):
    """In the network's own frame, whatever the orientation of the file."""
    for _ in range(100):
        size = generator.integers(3, 20, 3)
        volume = size + generator.integers(0, 20, 3)
        first = (generator.random(3) * volume).astype(int)
        stop = np.minimum(first + generator.integers(1, 12, 3), volume)
        # The network's frame of this patient: S, A, L; the patient's file has its axes permuted and flipped.
        network = make_geometry(volume, (1, 1, 1), np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]]))
        patient = window_grid_free_copy(network, axes)
        box = box_on_grid(Box(tuple(first), tuple(stop)), network, patient)
        window = window_grid(patient, box.center_vox, 1.0, tuple(size))
        start = [released_start(*of_axis) for of_axis in zip(first, stop - 1, size, volume, strict=True)]
        assert window.to_voxel_of(network, (0, 0, 0)) == pytest.approx(start, abs=1e-6)


def window_grid_free_copy(network: Geometry, axes: np.ndarray) -> Geometry:
    """The same voxels as ``network`` listed along other array axes (``axes``: signed permutation in RAS)."""
    affine = np.eye(4)
    affine[:3, :3] = axes
    corners = network.to_ras(Box.whole(network.shape).corners_vox())
    shape = np.rint(np.abs(axes.T @ np.ptp(corners, axis=0))).astype(int)
    low, high = corners.min(axis=0) + 0.5, corners.max(axis=0) - 0.5
    affine[:3, 3] = np.where(axes.sum(axis=1) > 0, low, high)
    return Geometry(tuple(shape), affine)


def test_nearly_equal_spacing_counts_as_equal_and_does_not_drift():
    patient = make_geometry((200, 40, 40), (1.0009, 1, 1), LPS)
    window = window_grid(patient, (100, 20, 20), 1.0, (16, 16, 128))
    coordinates = window.to_voxel_of(patient, lattice(window))
    assert coordinates == pytest.approx(np.rint(coordinates), abs=1e-6)


def test_a_linear_ramp_is_sampled_in_closed_form(patient):
    window = window_grid(patient, (15, 14, 8), 1.0, (12, 14, 16))
    sampled = sample(Volume(ramp(patient), patient), window)
    assert sampled.dtype == np.float32
    assert sampled == pytest.approx(ramp(window), abs=1e-3)


def test_a_coarser_grid_of_a_ramp_is_the_ramp_too_although_smoothed(patient):
    """Averaging over a larger voxel leaves a linear function as it is, away from the volume's border."""
    window = window_grid(patient, (15, 14, 8), 2.0, (4, 4, 4))
    assert sample(Volume(ramp(patient), patient), window) == pytest.approx(ramp(window), abs=1e-3)


def test_smoothing_is_against_aliasing_and_only_where_the_grid_is_coarser():
    patient = make_geometry((60, 40, 40), (1, 1, 1), LPS)
    stripes = Volume((-1.0) ** lattice(patient)[..., 0], patient)
    coarse = window_grid(patient, (30, 20, 20), 3.0, (9, 9, 9))
    assert np.abs(sample(stripes, coarse, smooth=False)).max() == pytest.approx(1)
    assert np.abs(sample(stripes, coarse)).max() < 0.01
    fine = window_grid(patient, (30, 20, 20), 1.0, (9, 9, 9))
    assert np.array_equal(sample(stripes, fine), sample(stripes, fine, smooth=False))


def test_smoothing_keeps_a_constant_also_at_the_border():
    patient = make_geometry((9, 9, 9), (1, 1, 1), LPS)
    window = window_grid(patient, (4, 4, 4), 2.5, (8, 8, 8))
    assert sample(Volume(np.full(patient.shape, -734.0), patient), window) == pytest.approx(np.full((8, 8, 8), -734))


def test_outside_the_volume_the_edge_repeats():
    patient = make_geometry((4, 4, 4), (1, 1, 1), np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]]))  # S, A, L
    volume = Volume(np.arange(64, dtype=np.float32).reshape(4, 4, 4), patient)
    window = window_grid(patient, (0, 0, 0), 1.0, (8, 4, 4))
    assert np.array_equal(sample(volume, window), np.pad(volume.array, ((2, 2), (0, 0), (0, 0)), mode="edge"))


def test_labels_keep_their_dtype_and_no_new_label_appears(patient, generator):
    labels = generator.choice(np.array([0, 5, 104], np.uint8), patient.shape)
    sampled = sample(Volume(labels, patient), window_grid(patient, (15, 14, 8), 1.0, (12, 14, 16)), order=0)
    assert sampled.dtype == np.uint8
    assert set(np.unique(sampled)) <= {0, 5, 104}


def test_nearest_labels_are_those_of_the_voxel_around_the_point(patient):
    window = window_grid(patient, (15, 14, 8), 1.0, (12, 14, 16))
    number = np.arange(np.prod(patient.shape)).reshape(patient.shape)
    i, j, k = np.moveaxis(np.rint(window.to_voxel_of(patient, lattice(window))).astype(int), -1, 0)
    assert np.array_equal(sample(Volume(number, patient), window, order=0), number[i, j, k])


def test_sampling_never_returns_a_view_of_the_patient():
    patient = make_geometry((5, 5, 5), (1, 1, 1), np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]]))
    volume = Volume(np.zeros((5, 5, 5), np.float32), patient)
    for order in (0, 1):
        sample(volume, patient, order=order)[:] = 7
    assert volume.array.max() == 0


def test_a_grid_that_is_rotated_to_the_volume_is_refused(patient):
    rotated = make_geometry((12, 12, 12), (1, 1, 1), degrees_xyz=(0, 0, 30))
    with pytest.raises(GeometryError, match=r"must follow the voxel axes of its volume.* rotated to each other"):
        sample(Volume(ramp(patient), patient), rotated)


def test_home_box_holds_exactly_the_voxel_centers_inside_the_window(patient):
    window = window_grid(patient, (27, 2, 8), 1.0, (14, 9, 60))
    in_window = window.to_voxel(patient.to_ras(lattice(patient)))
    inside = np.all((in_window >= -0.5 - 1e-9) & (in_window <= np.asarray(window.shape) - 0.5 + 1e-9), axis=-1)
    assert home_box(window, patient) == Box.bounding(inside)
    assert inside.sum() == np.prod(home_box(window, patient).shape)


def test_a_window_without_any_voxel_center_has_no_home():
    thick = make_geometry((20, 20, 20), (5, 5, 5), LPS)
    with pytest.raises(GeometryError, match="thinner than one voxel"):
        home_box(window_grid(thick, (10.5, 10.5, 10.5), 1.0, (4, 4, 4)), thick)


def test_a_ramp_comes_home_unchanged(patient):
    window = window_grid(patient, (15, 14, 8), 1.0, (24, 14, 16))
    box = home_box(window, patient)
    home = sample_home(sample(Volume(ramp(patient), patient), window), window, patient, box)
    # The outermost half voxel of the window repeats its edge; test the voxels within its outermost centers.
    in_window = patient.to_voxel_of(window, lattice(patient)[box.slices])
    within = np.all((in_window >= 0) & (in_window <= np.asarray(window.shape) - 1), axis=-1)
    assert within.mean() > 0.7
    assert home[within] == pytest.approx(ramp(patient)[box.slices][within], abs=1e-3)


def test_outside_the_window_is_fill():
    patient = make_geometry((9, 9, 9), (1, 1, 1), LPS)
    window = window_grid(patient, (4, 4, 4), 1.0, (3, 4, 5))
    home = sample_home(np.ones(window.shape), window, patient, Box.whole(patient.shape), fill=-7)
    box = home_box(window, patient)
    assert box.shape == (5, 4, 3)
    assert np.all(home[box.slices] == 1)
    assert np.count_nonzero(home == -7) == 9**3 - 3 * 4 * 5


def test_a_mask_comes_home_with_its_dtype(patient):
    window = window_grid(patient, (15, 14, 8), 1.0, (12, 14, 16))
    home = sample_home(np.ones(window.shape, np.uint8), window, patient, home_box(window, patient), order=0)
    assert home.dtype == np.uint8
    assert home.all()


def test_a_box_thinner_than_a_grid_voxel_becomes_the_voxel_at_its_middle():
    patient = make_geometry((30, 30, 30), (0.25, 0.25, 0.25), LPS)
    grid = window_grid(patient, (15, 15, 15), 1.0, (7, 7, 7))
    for first in range(8, 14):
        tiny = Box((first,) * 3, (first + 1,) * 3)
        on_grid = box_on_grid(tiny, patient, grid)
        assert on_grid.shape == (1, 1, 1)
        center = patient.to_voxel_of(grid, tiny.center_vox)
        assert np.abs(center - on_grid.center_vox).max() <= 0.5 + 1e-6


def test_what_reaches_beyond_the_box_ends_at_it_and_nothing_else_moves(patient):
    grid = window_grid(patient, (8.0, 9.0, 7.0), 1.1, (12, 12, 12))
    box = Box((6, 7, 5), (10, 11, 9))
    faces = patient.to_voxel_of(grid, box.corners_vox())
    low, high = faces.min(axis=0), faces.max(axis=0)
    start = np.floor(low + 0.5).astype(int) + np.array([-2, 1, 0])  # beyond it, within it, at it
    stop = np.ceil(high + 0.5).astype(int) + np.array([0, -1, 3])
    drawn = Box(tuple(start), tuple(stop))
    fitted = fitting_grid(grid, drawn, box, patient)
    ends = fitted.to_voxel_of(grid, drawn.corners_vox())
    assert ends.min(axis=0) == pytest.approx(np.maximum(start - 0.5, low), abs=1e-6)
    assert ends.max(axis=0) == pytest.approx(np.minimum(stop - 0.5, high), abs=1e-6)
    inner = Box(tuple(np.ceil(low + 0.5).astype(int)), tuple(np.floor(high + 0.5).astype(int)))
    assert grid.difference(fitting_grid(grid, inner, box, patient)) is None
    assert fitting_grid(grid, Box((0, 0, 0), (1, 1, 1)), box, patient) is grid, "they do not meet"


def test_a_box_may_reach_outside_the_grid(patient):
    grid = window_grid(patient, (15, 14, 8), 1.0, (6, 6, 6))
    on_grid = box_on_grid(Box.whole(patient.shape), patient, grid)
    assert on_grid.contains(Box.whole(grid.shape))
    assert on_grid.size_mm(grid) == pytest.approx((17 * 2.5, 28 * 0.8, 31 * 0.8), abs=1)
