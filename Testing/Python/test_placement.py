"""Placement: every box obeys its rule, on every orientation; the same generator gives the same box."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_geometry

from LesionDiffusionLib.errors import PlacementError
from LesionDiffusionLib.geometry import Box, size_to_axes
from LesionDiffusionLib.placement import (
    Site,
    allowed_region,
    box_at,
    check_place,
    feasible_centers,
    inscribed_ellipsoid,
    sample_box,
)

LPS = np.diag([-1.0, -1.0, 1.0])
SHAPE, SPACING_MM = (60, 50, 40), (1.0, 1.5, 2.0)
RULES = ("inside parenchymal organ", "parenchymal organ margin", "hollow organ margin", "inside hollow organ")


def check_box(rule, site, box):
    """Warnings for the ellipsoid in a box."""
    return check_place(rule, site.cropped(box), inscribed_ellipsoid(box.shape))


def ball(shape, spacing_mm, center_vox, radius_mm):
    points = [np.arange(n) for n in shape]
    offsets = [((p - c) * s) ** 2 for p, c, s in zip(points, center_vox, spacing_mm, strict=True)]
    return offsets[0][:, None, None] + offsets[1][None, :, None] + offsets[2][None, None, :] <= radius_mm**2


def ball_site(radius_mm=22.0, neighbor=False):
    geometry = make_geometry(SHAPE, SPACING_MM, LPS)
    organ = ball(SHAPE, SPACING_MM, (30, 25, 20), radius_mm)
    blocked = np.zeros(SHAPE, bool)
    if neighbor:
        blocked[:, :, :8] = True
        blocked &= ~organ
    return Site(organ, blocked, geometry)


@pytest.mark.parametrize("rule", RULES)
def test_boxes_obey_their_rule(rule, generator):
    site, size_mm = ball_site(), (10.0, 9.0, 8.0)
    region = allowed_region(rule, site, size_mm)
    for _ in range(20):
        box = sample_box(rule, site, size_mm, generator)
        assert Box.whole(SHAPE).contains(box)
        inside = site.organ[box.slices][inscribed_ellipsoid(box.shape)].mean()
        if rule.startswith("inside"):
            assert inside > 0.95, "the half voxel by which an even box must miss the center"
            assert region[box.slices][inscribed_ellipsoid(box.shape)].mean() > 0.9
        if rule == "parenchymal organ margin":
            assert 0.3 < inside < 0.98, "a protruding lesion crosses the organ's surface"
        if rule == "hollow organ margin":
            depth_mm = 22 - np.linalg.norm((np.subtract(box.center_vox, (30, 25, 20))) * SPACING_MM)
            assert -2 < depth_mm < 6, "centered on the wall"
        assert check_box(rule, site, box) == []


def test_size_in_mm_is_honored_on_an_oblique_flipped_grid(generator):
    axes = np.array([[0, 0, -1.0], [1, 0, 0], [0, 1, 0]])  # i to A, j to S, k to L
    geometry = make_geometry(SHAPE, SPACING_MM, axes, degrees_xyz=(8, -5, 11))
    site = Site(ball(SHAPE, SPACING_MM, (30, 25, 20), 22), np.zeros(SHAPE, bool), geometry)
    size_mm = (8.0, 12.0, 16.0)
    box = sample_box("inside parenchymal organ", site, size_mm, generator)
    wanted = size_to_axes(geometry, size_mm)
    for got, mm, spacing in zip(box.size_mm(geometry), wanted, SPACING_MM, strict=True):
        assert abs(got - mm) <= spacing / 2
    assert wanted == (12.0, 16.0, 8.0)


def test_same_generator_same_box_other_generator_other_box():
    site = ball_site()
    boxes = [sample_box(RULES[0], site, (8, 8, 8), np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert boxes[0] == boxes[1] != boxes[2]


def test_centers_are_uniform_not_only_in_one_corner(generator):
    site = ball_site()
    centers = np.array([sample_box(RULES[0], site, (6, 6, 6), generator).center_vox for _ in range(200)])
    assert np.all(np.abs(centers.mean(axis=0) - (30, 25, 20)) < 3)
    assert np.all(centers.std(axis=0) * SPACING_MM > 5)


def test_an_ellipsoid_fits_exactly_where_the_closed_form_says():
    """A lesion of radius 8 in a ball of radius 22 may be centered within 14 mm of the middle."""
    site = ball_site()
    centers = feasible_centers(RULES[0], site, (16.0, 16.0, 16.0))
    distance_mm = np.linalg.norm((np.argwhere(centers) - (30, 25, 20)) * SPACING_MM, axis=1)
    assert distance_mm.max() < 14 + 2.0
    sure = ball(SHAPE, SPACING_MM, (30, 25, 20), 14 - 2.0)
    assert centers[sure].all()


def test_thinning_large_lesions_changes_the_speed_and_not_the_rule(generator):
    shape = (120, 120, 120)
    site = Site(ball(shape, (1, 1, 1), (60, 60, 60), 50), np.zeros(shape, bool), make_geometry(shape))
    for _ in range(10):
        box = sample_box(RULES[0], site, (60, 50, 56), generator)
        assert site.organ[box.slices][inscribed_ellipsoid(box.shape)].mean() > 0.97


@pytest.mark.parametrize("first", [20, 21, 22, 23, 24, 25])
def test_a_thin_vessel_is_kept_clear_of_by_a_large_lesion(first, generator):
    """Of which placement looks at every fourth voxel or so."""
    shape = (110, 110, 110)
    site = Site(np.ones(shape, bool), np.zeros(shape, bool), make_geometry(shape, (1.0, 1.0, 1.0), LPS))
    avoid = np.zeros(shape, bool)
    avoid[3 * first - 10 : 3 * first - 8, 40:43] = True
    for _ in range(10):
        box = sample_box(RULES[0], site, (40.0, 40.0, 40.0), generator, avoid)
        assert not avoid[box.slices][inscribed_ellipsoid(box.shape)].any()


def test_keeps_clear_of_what_must_be_avoided(generator):
    site = ball_site()
    avoid = np.zeros(SHAPE, bool)
    avoid[30:] = True
    for _ in range(10):
        box = sample_box(RULES[0], site, (10, 10, 10), generator, avoid)
        assert not avoid[box.slices][inscribed_ellipsoid(box.shape)].any()
    avoid[:] = True
    with pytest.raises(PlacementError, match="keeps clear of what must be avoided"):
        sample_box(RULES[0], site, (10, 10, 10), generator, avoid)


def test_margin_lesions_stay_out_of_neighboring_organs(generator):
    site = ball_site(neighbor=True)
    for rule in ("parenchymal organ margin", "hollow organ margin"):
        region = allowed_region(rule, site, (12, 12, 12))
        assert not (region & site.blocked).any()
        for _ in range(10):
            box = sample_box(rule, site, (12, 12, 12), generator)
            assert site.blocked[box.slices][inscribed_ellipsoid(box.shape)].mean() < 0.3


def test_too_large_names_the_rule_and_what_fits(generator):
    with pytest.raises(PlacementError, match=r"80x80x80 mm .*'inside parenchymal organ'.* at most (4\d)x\1x\1 mm"):
        sample_box(RULES[0], ball_site(), (80.0, 80.0, 80.0), generator)


def test_an_absent_organ_is_an_error(generator):
    site = ball_site()
    with pytest.raises(PlacementError, match="found none of its voxels"):
        sample_box(RULES[0], Site(np.zeros(SHAPE, bool), site.blocked, site.geometry), (5, 5, 5), generator)


def test_a_users_box_wins_with_a_warning():
    site = ball_site(neighbor=True)
    outside = Box((0, 0, 30), (6, 6, 36))
    assert check_box(RULES[0], site, outside) == ["the lesion's place does not touch the target organ"]
    across = Box((26, 21, 5), (34, 29, 13))
    assert any("inside the organ" in w for w in check_box(RULES[0], site, across))
    assert any("other organs" in w for w in check_box(RULES[1], site, across))
    deep = Box((28, 23, 18), (32, 27, 22))
    assert any("wholly inside" in w for w in check_box(RULES[1], site, deep))
    assert any("inside the organ" in w for w in check_box(RULES[3], site, across))


@pytest.mark.parametrize("spacing_mm", [(2.5, 2.5, 2.5), (3.0, 3.0, 3.0), (0.8, 0.8, 6.0)])
@pytest.mark.parametrize("size_mm", [3.0, 6.0, 8.0, 14.0])
def test_small_margin_lesions_find_a_place_on_coarse_scans(spacing_mm, size_mm, generator):
    shape = tuple(round(70 / s) for s in spacing_mm)
    center = [n / 2 for n in shape]
    site = Site(ball(shape, spacing_mm, center, 24), np.zeros(shape, bool), make_geometry(shape, spacing_mm))
    for rule in ("parenchymal organ margin", "hollow organ margin"):
        box = sample_box(rule, site, (size_mm,) * 3, generator)
        depth_mm = 24 - np.linalg.norm((np.subtract(box.center_vox, center)) * spacing_mm)
        assert abs(depth_mm) < max(size_mm / 2, 4.0) + 1.5 * max(spacing_mm)


def test_an_organ_cut_by_the_volumes_border(generator):
    """The border counts as the organ's border: boxes stay in the volume and inside the organ."""
    organ = ball(SHAPE, SPACING_MM, (0, 25, 20), 22)
    site = Site(organ, np.zeros(SHAPE, bool), make_geometry(SHAPE, SPACING_MM, LPS))
    for rule in RULES:
        for _ in range(5):
            assert Box.whole(SHAPE).contains(sample_box(rule, site, (8, 8, 8), generator))


@pytest.mark.parametrize("size", [1, 4, 5])
@pytest.mark.parametrize("axes", [np.eye(3), LPS])
def test_boxes_of_odd_and_even_sizes_take_the_whole_volume_and_no_more(size, axes, generator):
    """The organ is everywhere: the first and the last voxel of every axis are reached, and none beyond."""
    shape = (7, 6, size)
    site = Site(np.ones(shape, bool), np.zeros(shape, bool), make_geometry(shape, (1.0, 1.0, 1.0), axes))
    boxes = [sample_box("hollow organ margin", site, (size,) * 3, generator) for _ in range(200)]
    assert all(Box.whole(shape).contains(box) for box in boxes)
    assert {box.start[0] for box in boxes} >= {0, 7 - size}
    assert {box.start[1] for box in boxes} >= {0, 6 - size}
    assert {box.start[2] for box in boxes} == {0}


@pytest.mark.parametrize("fraction", [0.0, 0.24, 0.5, 0.76])
@pytest.mark.parametrize("size_mm", [6.0, 7.0])
def test_a_center_between_voxels_misses_by_at_most_half_a_voxel(fraction, size_mm):
    for axes in (np.eye(3), -np.eye(3)):
        geometry = make_geometry(SHAPE, (1.0, 1.0, 1.0), axes)
        wanted = np.array([20 + fraction, 21, 19])
        box = box_at(geometry.to_ras(wanted), (size_mm,) * 3, geometry)
        assert np.all(np.abs(np.subtract(box.center_vox, wanted)) <= 0.5)


def test_a_center_that_is_not_a_number():
    with pytest.raises(PlacementError, match="inside the CT"):
        box_at((np.nan, 0.0, 0.0), (5, 5, 5), make_geometry(SHAPE))


def test_a_region_without_the_organ_is_empty():
    site = ball_site()
    nothing = Site(np.zeros(SHAPE, bool), site.blocked, site.geometry)
    for rule in RULES:
        assert not allowed_region(rule, nothing, (8, 8, 8)).any()


def test_a_box_round_a_point():
    geometry = make_geometry(SHAPE, SPACING_MM, LPS, origin_ras=(5, -7, 11))
    center_ras = geometry.to_ras((20, 30, 10))
    box = box_at(center_ras, (7, 9, 10), geometry)
    assert np.all(np.abs(np.subtract(box.center_vox, (20, 30, 10))) <= 0.5)
    assert box.shape == (7, 6, 5)
    with pytest.raises(PlacementError, match="inside the CT"):
        box_at((900.0, 0.0, 0.0), (5, 5, 5), geometry)
