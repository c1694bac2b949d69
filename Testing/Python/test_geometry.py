"""Grids and boxes: closed forms on flipped, permuted, oblique and anisotropic grids."""

from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import make_geometry

from LesionDiffusionLib.errors import GeometryError
from LesionDiffusionLib.geometry import (
    Box,
    Geometry,
    axes_to_size,
    nearest_axes,
    nearest_voxel,
    parallel_axes,
    size_to_axes,
)

FLIPPED_PERMUTED = np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]])  # i -> Anterior, j -> Inferior, k -> Left


@pytest.fixture
def awkward() -> Geometry:
    """Permuted, flipped, oblique, anisotropic, far from the origin, of odd sizes."""
    return make_geometry((7, 12, 5), (0.7, 1.3, 3.0), FLIPPED_PERMUTED, (10, -7, 20), (-120.5, 33.25, 807.0))


def test_spacing_directions_and_codes_are_those_the_grid_was_made_with(awkward):
    assert awkward.spacing_mm == pytest.approx((0.7, 1.3, 3.0), abs=1e-12)
    assert awkward.axis_codes == "AIL"
    assert awkward.directions_ras.T @ awkward.directions_ras == pytest.approx(np.eye(3), abs=1e-12)


def test_points_go_to_the_patient_by_the_affine_and_back(awkward, generator):
    points_vox = generator.uniform(-5, 15, (4, 6, 3))
    points_ras = awkward.to_ras(points_vox)
    i, j, k = points_vox[2, 3]
    by_hand = awkward.affine_ras[:3] @ [i, j, k, 1]
    assert points_ras[2, 3] == pytest.approx(by_hand, abs=1e-9)
    assert awkward.to_voxel(points_ras) == pytest.approx(points_vox, abs=1e-9)


def test_points_go_from_grid_to_grid_through_the_patient(awkward):
    other = make_geometry((9, 9, 9), (2, 2, 2), origin_ras=(1, 2, 3))
    there = awkward.to_voxel_of(other, (1.5, -2, 4))
    assert other.to_ras(there) == pytest.approx(awkward.to_ras((1.5, -2, 4)), abs=1e-9)


def test_cropping_and_padding_leave_every_voxel_in_its_place(awkward):
    box = Box((-2, 3, 1), (4, 20, 5))
    cropped = awkward.cropped(box)
    assert cropped.shape == (6, 17, 4)
    assert cropped.to_ras((2, 5, 3)) == pytest.approx(awkward.to_ras((0, 8, 4)), abs=1e-9)


def test_the_affine_is_a_read_only_copy():
    affine = np.eye(4)
    geometry = Geometry((2, 2, 2), affine)
    affine[0, 0] = 5
    assert geometry.spacing_mm == (1, 1, 1)
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine_ras[0, 0] = 2


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((2, 0, 2), np.eye(4), r"three positive sizes, got shape \(2, 0, 2\)"),
        ((2, 2), np.eye(4), "three positive sizes"),
        ((2, 2, 2), np.eye(3), "expected a 4x4 affine"),
        ((2, 2, 2), np.ones((4, 4)), "last row 0 0 0 1"),
        ((2, 2, 2), np.diag([1, np.nan, 1, 1]), "NaN or infinite"),
        ((2, 2, 2), np.diag([1, 0, 1, 1]), r"singular: spacing \(1, 0, 1\) mm"),
    ],
)
def test_unusable_grids_are_refused(shape, affine, message):
    with pytest.raises(GeometryError, match=message):
        Geometry(shape, affine)


def test_a_sheared_grid_is_refused_with_its_angle_but_header_rounding_is_not():
    sheared = np.eye(4)
    sheared[0, 1] = np.tan(np.radians(15))
    with pytest.raises(GeometryError, match=r"axes i and j are 75\.00 degrees apart instead of 90"):
        Geometry((2, 2, 2), sheared)
    oblique = make_geometry((3, 3, 3), (0.7, 0.7, 5), degrees_xyz=(12, 34, 56)).affine_ras
    Geometry((3, 3, 3), oblique.astype(np.float32))
    Geometry((3, 3, 3), oblique.round(4))


def test_equal_grids_have_no_difference_also_after_float32_storage(awkward):
    assert awkward.difference(awkward) is None
    assert awkward.difference(Geometry(awkward.shape, awkward.affine_ras.astype(np.float32))) is None


@pytest.mark.parametrize(
    ("other", "clause"),
    [
        (make_geometry((9, 9, 8)), r"^shapes \(9, 9, 9\) and \(9, 9, 8\)$"),
        (make_geometry((9, 9, 9), origin_ras=(0, 0, 12)), "^origins 12 mm apart$"),
        (make_geometry((9, 9, 9), (1, 1, 1.25)), r"^spacings \(1, 1, 1\) and \(1, 1, 1.25\) mm$"),
        (make_geometry((9, 9, 9), degrees_xyz=(0, 0, 3.2)), "^axes 3.2 degrees apart$"),
        (make_geometry((9, 9, 9), axes=np.diag([-1, -1, 1])), r"^axes 180 degrees apart \(RAS and LPS\)$"),
        (make_geometry((9, 9, 9), (1, 1, 2), origin_ras=(3, 4, 0)), "^spacings .* mm, origins 5 mm apart$"),
        (make_geometry((9, 9, 9), (1.001, 1, 1), degrees_xyz=(0, 0, -0.06)), r"^corners 0\.01\d voxels apart$"),
    ],
)
def test_a_difference_names_what_differs_and_nothing_else(other, clause):
    difference = make_geometry((9, 9, 9)).difference(other)
    assert difference is not None
    assert re.search(clause, difference)


def test_voxels_of_cropped_turned_and_reversed_grids_coincide(awkward):
    """(I, J, K) of the other grid are K reversed, I, J of this one, from some voxel of it on."""
    turned = np.array([[0, 1, 0, 2], [0, 0, 1, -3], [-1, 0, 0, 5], [0, 0, 0, 1]])
    other = Geometry((4, 5, 6), awkward.affine_ras @ turned)
    assert awkward.difference(other) is not None
    assert awkward.voxels_coincide(other)
    assert other.voxels_coincide(awkward)


@pytest.mark.parametrize(
    "change",
    [
        np.array([[1, 0, 0, 0.4], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.diag([2.0, 1, 1, 1]),
        np.diag([1, 1, 1.01, 1]),
        np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    ],
)
def test_voxels_of_moved_coarser_and_rotated_grids_do_not_coincide(change):
    geometry = make_geometry((9, 9, 9), (1.2, 1.2, 3), np.diag([-1, -1, 1]), degrees_xyz=(5, 0, 9))
    assert not geometry.voxels_coincide(Geometry((9, 9, 9), geometry.affine_ras @ change))


def test_the_tolerance_of_a_difference_is_in_voxels():
    thick = make_geometry((9, 9, 9), (5, 5, 5))
    moved = make_geometry((9, 9, 9), (5, 5, 5), origin_ras=(0, 0.4, 0))
    assert thick.difference(moved, tolerance_vox=0.1) is None
    assert thick.difference(moved, tolerance_vox=0.05) == "origins 0.4 mm apart"


def test_sizes_go_to_voxel_axes_and_back(awkward):
    # i runs A-P, j runs I-S, k runs R-L.
    assert size_to_axes(awkward, (10, 20, 30)) == (20, 30, 10)
    assert axes_to_size(awkward, (20, 30, 10)) == (10, 20, 30)


def test_every_axis_is_used_once_even_at_45_degrees():
    tilted = make_geometry((5, 5, 5), degrees_xyz=(45, 45, 0))
    assert sorted(axis for axis, _ in nearest_axes(tilted)) == [0, 1, 2]


def test_parallel_grids_correspond_axis_by_axis(awkward):
    flipped = Geometry((5, 4, 6), awkward.affine_ras @ [[0, 0, 0.5, 1], [-1, 0, 0, 3], [0, 2, 0, -0.25], [0, 0, 0, 1]])
    axes, coordinates = parallel_axes(awkward, flipped)
    assert axes == (1, 2, 0)
    assert coordinates[0] == pytest.approx([1, 1.5, 2, 2.5, 3, 3.5])
    assert coordinates[1].tolist() == [3, 2, 1, 0, -1]  # whole voxels exactly
    assert coordinates[2] == pytest.approx([-0.25, 1.75, 3.75, 5.75])


def test_rotated_grids_do_not_correspond(awkward):
    assert parallel_axes(awkward, make_geometry((5, 5, 5))) is None
    assert parallel_axes(make_geometry((50, 50, 50)), make_geometry((50, 50, 50), degrees_xyz=(0, 0, 0.2))) is None
    assert parallel_axes(make_geometry((5, 5, 5)), make_geometry((5, 5, 5), degrees_xyz=(45, 0, 0))) is None


def test_nearest_voxel_rounds_halves_up_also_with_rounding_noise():
    assert nearest_voxel(np.array([-0.5, 0.4, 0.5, 1.5, 1.5 - 1e-9, 2.4])).tolist() == [0, 0, 1, 2, 2, 2]


def test_a_box_is_half_open():
    box = Box((1, 2, 3), (2, 4, 7))
    assert box.shape == (1, 2, 4)
    assert box.center_vox == (1.0, 2.5, 4.5)
    assert np.zeros((9, 9, 9))[box.slices].shape == (1, 2, 4)
    assert box.size_mm(make_geometry((9, 9, 9), (0.5, 2, 3))) == (0.5, 4, 12)
    assert box.corners_vox().min(axis=0).tolist() == [0.5, 1.5, 2.5]
    assert box.corners_vox().max(axis=0).tolist() == [1.5, 3.5, 6.5]
    assert len(np.unique(box.corners_vox(), axis=0)) == 8


def test_box_text_goes_both_ways():
    for text in ("10:30,5:25,0:12", "-4:1,-2:-1,0:3"):
        assert str(Box.parse(text)) == text
    assert Box.parse(" 1:2, 3:4 ,5:6") == Box((1, 3, 5), (2, 4, 6))


@pytest.mark.parametrize("text", ["", "1:2,3:4", "1:2,3:4,5", "1:2,3:4,5:6,7:8", "1.5:2,3:4,5:6", "a:2,3:4,5:6"])
def test_other_text_is_not_a_box(text):
    with pytest.raises(GeometryError, match='expected a box "I0:I1,J0:J1,K0:K1"'):
        Box.parse(text)


@pytest.mark.parametrize("stop", [(3, 5, 3), (3, 5, 2)])
def test_empty_and_inverted_boxes_are_refused(stop):
    with pytest.raises(GeometryError, match="empty along k: its stop must be greater"):
        Box((1, 1, 3), stop)


def test_a_box_needs_three_axes():
    with pytest.raises(GeometryError, match="three starts and three stops"):
        Box((1, 1), (3, 3))


def test_the_bounding_box_is_the_smallest(generator):
    mask = np.zeros((9, 11, 7), bool)
    mask[2, 3:6, 6] = True
    mask[5, 4, 1] = True
    box = Box.bounding(mask)
    assert box == Box((2, 3, 1), (6, 6, 7))
    assert mask[box.slices].sum() == mask.sum()


def test_an_empty_mask_has_no_bounding_box():
    with pytest.raises(GeometryError, match="empty mask has no bounding box"):
        Box.bounding(np.zeros((3, 3, 3), bool))


def test_boxes_contain_intersect_pad_and_clip():
    big, small = Box((0, 0, 0), (10, 10, 10)), Box((2, 3, 4), (5, 6, 10))
    assert big.contains(small)
    assert not small.contains(big)
    assert big.intersection(Box((8, -3, 2), (12, 2, 4))) == Box((8, 0, 2), (10, 2, 4))
    assert big.intersection(Box((10, 0, 0), (12, 2, 4))) is None  # touching is not overlapping
    assert small.padded(1) == Box((1, 2, 3), (6, 7, 11))
    assert small.padded((0, 2, 1)).padded((0, -2, -1)) == small
    assert Box((-3, 2, 8), (2, 4, 12)).clipped((10, 10, 10)) == Box((0, 2, 8), (2, 4, 10))


def test_a_box_outside_cannot_be_clipped_or_sliced():
    with pytest.raises(GeometryError, match=r"outside the volume of shape \(4, 4, 4\)"):
        Box((4, 0, 0), (6, 2, 2)).clipped((4, 4, 4))
    with pytest.raises(GeometryError, match="clip it to the volume first"):
        _ = Box((-1, 0, 0), (2, 2, 2)).slices
