"""Arrays on grids: what belongs together, what does not, and what is a CT."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_geometry

from LesionDiffusionLib.errors import GeometryError, VolumeError
from LesionDiffusionLib.geometry import Box, Geometry
from LesionDiffusionLib.volume import Volume, align_to, check_ct, require_same_grid

OBLIQUE = {"degrees_xyz": (8, -5, 12), "origin_ras": (-100, 50, 400)}


def labels_at(geometry: Geometry) -> np.ndarray:
    """Labels 1..8 for the octants around a point of the patient: a truth that every grid can evaluate."""
    center = make_geometry((20, 24, 16), (2, 2, 3), **OBLIQUE).to_ras((9.6, 11.3, 7.7))
    points = geometry.to_ras(np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1))
    return (1 + (points > center) @ [1, 2, 4]).astype(np.uint8)


@pytest.fixture
def ct() -> Volume:
    geometry = make_geometry((20, 24, 16), (2, 2, 3), **OBLIQUE)
    return Volume(np.zeros(geometry.shape, np.float32), geometry)


def test_shape_and_dimension_are_checked():
    with pytest.raises(VolumeError, match=r"expected a 3-D array, got shape \(4, 4\)"):
        Volume(np.zeros((4, 4)), make_geometry((4, 4, 4)))
    with pytest.raises(VolumeError, match=r"shape \(4, 5, 6\) but its grid \(6, 5, 4\)"):
        Volume(np.zeros((4, 5, 6)), make_geometry((6, 5, 4)))


def test_cropping_is_a_view_that_keeps_its_place(ct):
    part = ct.cropped(Box((2, 3, 4), (5, 9, 16)))
    assert np.shares_memory(part.array, ct.array)
    assert part.geometry.to_ras((0, 0, 0)) == pytest.approx(ct.geometry.to_ras((2, 3, 4)))
    for outside in (Box((-1, 0, 0), (3, 3, 3)), Box((0, 0, 0), (3, 25, 3))):
        with pytest.raises(GeometryError, match="reaches outside the volume"):
            ct.cropped(outside)


def test_grids_that_must_agree_are_compared(ct):
    require_same_grid(ct, Volume(np.ones_like(ct.array), ct.geometry), "mask")
    moved = Geometry(ct.geometry.shape, ct.geometry.affine_ras + np.eye(4, k=3) * 30)
    with pytest.raises(GeometryError, match="the CT and the mask are on different grids: origins 30 mm apart"):
        require_same_grid(ct, Volume(ct.array, moved), "mask")


def test_a_map_on_the_same_grid_is_returned_as_it_is(ct):
    label_map = Volume(labels_at(ct.geometry), ct.geometry)
    assert align_to(label_map, ct, "organ map") is label_map


@pytest.mark.parametrize("axes", [np.diag([-1, 1, 1]), np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]])])
def test_a_map_with_other_axis_order_is_reordered_exactly(ct, axes):
    """The same voxels, stored along other axes: no label may move at all."""
    truth = labels_at(ct.geometry)
    stored = truth.transpose(np.abs(axes).argmax(axis=0))  # stored axis t runs along CT axis order[t]
    flips = [t for t in range(3) if axes[:, t].sum() < 0]
    first = np.zeros(3)
    for t in flips:
        first[np.abs(axes[:, t]).argmax()] = truth.shape[np.abs(axes[:, t]).argmax()] - 1
    affine = np.eye(4)
    affine[:3, :3] = ct.geometry.affine_ras[:3, :3] @ axes
    affine[:3, 3] = ct.geometry.to_ras(first)
    label_map = Volume(np.flip(stored, flips), Geometry(stored.shape, affine))
    aligned = align_to(label_map, ct, "organ map")
    assert np.array_equal(aligned.array, truth)
    assert aligned.array.dtype == truth.dtype
    assert aligned.geometry is ct.geometry


def test_a_finer_rotated_map_is_right_away_from_label_borders(ct):
    finer = make_geometry((60, 66, 62), (1, 1, 1), origin_ras=ct.geometry.to_ras((-2, -4, -1)))
    aligned = align_to(Volume(labels_at(finer), finer), ct, "organ map")
    truth = labels_at(ct.geometry)
    known = aligned.array > 0
    assert known.mean() > 0.8
    # Nearest neighbor moves a border by at most half the map's voxel diagonal; test what is farther away.
    center = ct.geometry.to_ras((9.6, 11.3, 7.7))
    points = ct.geometry.to_ras(np.stack(np.meshgrid(*map(np.arange, truth.shape), indexing="ij"), axis=-1))
    clear = known & (np.abs(points - center).min(axis=-1) > 0.87)
    assert clear.mean() > 0.5
    assert np.array_equal(aligned.array[clear], truth[clear])


def test_a_cropped_map_is_placed_and_padded_with_background(ct):
    part = Volume(labels_at(ct.geometry), ct.geometry).cropped(Box((3, 4, 5), (10, 12, 11)))
    aligned = align_to(part, ct, "organ map")
    assert np.array_equal(aligned.array[3:10, 4:12, 5:11], part.array)
    assert np.count_nonzero(aligned.array) == part.array.size


def test_a_mask_stays_boolean(ct):
    part = Volume(np.ones((4, 4, 4), bool), ct.geometry.cropped(Box((3, 3, 3), (7, 7, 7))))
    aligned = align_to(part, ct, "mask")
    assert aligned.array.dtype == bool
    assert aligned.array.sum() == 64
    rotated = make_geometry((20, 24, 17), (2, 2, 3), origin_ras=OBLIQUE["origin_ras"])
    assert align_to(Volume(np.ones(rotated.shape, bool), rotated), ct, "mask").array.dtype == bool


def test_a_map_of_another_place_is_refused_with_the_distance(ct):
    elsewhere = Geometry(ct.geometry.shape, ct.geometry.affine_ras + np.eye(4, k=3) * 500)
    label_map = Volume(labels_at(elsewhere), elsewhere)
    with pytest.raises(GeometryError, match=r"organ map does not lie where the CT lies: origins 500 mm apart; .* 0%"):
        align_to(label_map, ct, "organ map")


def test_a_map_whose_header_was_lost_is_refused_although_it_lies_inside():
    """Same shape but default spacing: wholly inside the CT, and wrong."""
    ct = Volume(np.zeros((20, 20, 20), np.float32), make_geometry((20, 20, 20), (3, 3, 3), origin_ras=(-20, -20, -20)))
    label_map = Volume(np.ones((20, 20, 20), np.uint8), make_geometry((20, 20, 20)))
    with pytest.raises(GeometryError, match=r"spacings \(3, 3, 3\) and \(1, 1, 1\) mm.* 100% of it is inside"):
        align_to(label_map, ct, "organ map")


def ct_like(array: np.ndarray) -> Volume:
    return Volume(array, make_geometry(array.shape))


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_a_ct_is_accepted(generator, dtype):
    check_ct(ct_like(generator.uniform(-1024, 1500, (5, 6, 7)).astype(dtype)))
    check_ct(ct_like(generator.uniform(-90, 60, (5, 6, 7)).astype(dtype)))  # a crop of fat and muscle


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.linspace(0, 1, 60).reshape(3, 4, 5), "not in HU: its values run from 0 to 1, expected about -1000"),
        (np.linspace(-1, 1, 60).reshape(3, 4, 5), "not in HU: its values run from -1 to 1"),
        (np.linspace(0, 4000, 60).reshape(3, 4, 5), "not in HU: its values run from 0 to 4000"),
        (np.arange(60, dtype=np.uint8).reshape(3, 4, 5), "not in HU: its values run from 0 to 59"),
        (np.full((3, 4, 5), -1000.0), "empty: every voxel is -1000"),
        (np.linspace(-1000, 1000, 20).reshape(4, 5, 1), r"one voxel thick, shape \(4, 5, 1\)"),
        (np.array([np.nan, np.inf, -1000, 500] * 6).reshape(2, 3, 4), "12 voxels that are NaN or infinite"),
        (np.array([-np.inf, 0, -1000, 500] * 6).reshape(2, 3, 4), "6 voxels that are NaN or infinite"),
    ],
)
def test_what_is_not_a_ct_is_refused(array, message):
    with pytest.raises(VolumeError, match=message):
        check_ct(ct_like(array))


def test_the_name_of_the_volume_is_in_the_message():
    with pytest.raises(VolumeError, match=r"^scan\.nii is empty"):
        check_ct(ct_like(np.zeros((3, 3, 3))), "scan.nii")
