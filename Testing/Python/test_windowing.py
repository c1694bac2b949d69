"""Window rules: voxel sizes and limits."""

from __future__ import annotations

import pytest

from LesionDiffusionLib.errors import PlacementError
from LesionDiffusionLib.windowing import WindowRule, largest_in_all

FIXED = WindowRule((64, 152, 128), 1.0, 1.0)
SCALED = WindowRule((48, 48, 48), 0.5, 5.0, 24)


def test_a_fixed_window_has_one_spacing_and_a_limit_per_axis():
    assert FIXED.spacing_for((10, 100, 60)) == 1.0
    assert FIXED.largest_lesion_mm == (127, 151, 63)  # X, Y, Z from (D, H, W)
    with pytest.raises(PlacementError, match=r"at most 127x151x63 mm .* got 10x10x70 mm"):
        FIXED.spacing_for((10, 10, 70))


def test_the_smaller_window_limits_every_axis():
    assert largest_in_all((FIXED, SCALED)) == (120, 120, 63)


def test_a_scaled_window_follows_the_longest_extent_within_bounds():
    assert SCALED.spacing_for((24, 12, 12)) == 1.0
    assert SCALED.spacing_for((12, 48, 20)) == 2.0
    assert SCALED.spacing_for((3, 3, 3)) == 0.5
    assert SCALED.spacing_for((120, 20, 20)) == 5.0
    with pytest.raises(PlacementError, match="at most 120x120x120 mm"):
        SCALED.spacing_for((121, 20, 20))


def test_a_window_reaches_furthest_along_its_longest_and_the_lesions_shortest_axis():
    assert SCALED.reach_mm((12, 48, 20)) == (48 * 2.0 - 12) / 2
    assert FIXED.reach_mm((20, 40, 10)) == (152 - 40) / 2
    assert FIXED.reach_mm((10, 60, 10)) == (128 - 10) / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((48, 48), 1, 1), "three sizes"),
        (((48, 48, 2), 1, 1), "at least 4"),
        (((48, 48, 48), 2, 1), "min_spacing_mm"),
        (((48, 48, 48), 0, 1), "min_spacing_mm"),
        (((48, 48, 48), 1, 2, 60), "box_voxels"),
        (((48, 48, 48), 1, 2, 48), "box_voxels"),
    ],
)
def test_impossible_rules(arguments, message):
    with pytest.raises(ValueError, match=message):
        WindowRule(*arguments)
