"""The change comes home, and only it."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_geometry

from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.homecoming import bring_home, falloff_mm, measure_change
from LesionDiffusionLib.resampling import home_box, sample, window_grid
from LesionDiffusionLib.volume import Volume
from LesionDiffusionLib.windowing import WindowRule

LPS = np.diag([-1.0, -1.0, 1.0])
GEOMETRY = make_geometry((50, 46, 40), (1.2, 1.0, 2.0), LPS, degrees_xyz=(4, 7, -9))


@pytest.fixture
def patient(generator):
    return Volume(np.round(generator.normal(50, 12, GEOMETRY.shape)).astype(np.int16), GEOMETRY)


@pytest.fixture
def mask():
    mask = np.zeros(GEOMETRY.shape, bool)
    mask[20:30, 18:28, 17:23] = True
    return mask


def brought_home(patient, mask, change_hu, spacing_mm=1.5, size=24):
    """What comes home when the networks add ``change_hu`` everywhere in the window."""
    grid = window_grid(GEOMETRY, (24.5, 22.5, 19.5), spacing_mm, (size,) * 3)
    window = sample(patient, grid)
    reach_mm = falloff_mm(mask, grid, GEOMETRY)
    near, values = bring_home(patient, mask, grid, (window + change_hu, window), reach_mm)
    after = patient.array.copy()
    after[near.slices] = values
    return after, reach_mm


@pytest.mark.parametrize("axes", [np.eye(3), LPS, -np.eye(3)])
@pytest.mark.parametrize("start", [20, 21])
@pytest.mark.parametrize("shorter", [0, 1])
def test_the_largest_lesion_of_a_fixed_window_comes_home(axes, start, shorter, generator):
    """On whole voxels, where a window cannot lie in the middle of every lesion."""
    rule = WindowRule((16, 16, 16), 1.0, 1.0)
    geometry = make_geometry((60, 60, 60), (1.0, 1.0, 1.0), axes)
    edge = int(rule.largest_lesion_mm[0]) - shorter
    patient = Volume(np.round(generator.normal(50, 12, geometry.shape)).astype(np.int16), geometry)
    box = Box((start,) * 3, (start + edge,) * 3)
    mask = np.zeros(geometry.shape, bool)
    mask[box.slices] = True
    grid = window_grid(geometry, box.center_vox, rule.spacing_for((edge,) * 3), rule.shape)
    assert home_box(grid, geometry).contains(box)
    near, values = bring_home(
        patient, mask, grid, (sample(patient, grid) - 40, sample(patient, grid)), falloff_mm(mask, grid, geometry)
    )
    change = values.astype(int) - patient.array[near.slices]
    assert np.median(change[mask[near.slices]]) == -40


def test_the_lesion_takes_the_whole_change_and_keeps_the_noise(patient, mask):
    after, _ = brought_home(patient, mask, -40.0)
    change = after.astype(int) - patient.array
    assert np.median(change[mask]) == -40
    assert after[mask].std() > 0.6 * patient.array[mask].std()
    assert after.dtype == np.int16


def test_no_change_in_the_window_is_no_change_at_home_outside_the_lesion(patient, mask):
    """The autoencoder's blur cancels: what was not synthesized is not touched, to the bit."""
    after, _ = brought_home(patient, mask, 0.0)
    assert np.array_equal(after[~mask], patient.array[~mask])


def test_the_change_fades_to_exactly_nothing(patient, mask):
    after, reach_mm = brought_home(patient, mask, -40.0)
    found = measure_change(patient.array, after, mask, GEOMETRY, reach_mm)
    assert found["max_abs_change_outside_hu"] == 0
    assert found["voxels_changed"] > mask.sum()


def test_a_lesion_as_large_as_its_window_fades_inside_it(patient, mask):
    """No step at the window's edge: the falloff shrinks to the room that is left."""
    grid = window_grid(GEOMETRY, (24.5, 22.5, 19.5), 1.0, (16,) * 3)
    roomy = window_grid(GEOMETRY, (24.5, 22.5, 19.5), 1.0, (32,) * 3)
    narrow = falloff_mm(mask, grid, GEOMETRY)
    assert narrow < falloff_mm(mask, roomy, GEOMETRY) == pytest.approx(4.0)
    after, reach_mm = brought_home(patient, mask, -300.0, spacing_mm=1.0, size=16)
    rim = after.astype(int) - patient.array
    assert reach_mm == narrow
    assert rim[mask].min() < -250


def test_a_window_that_knows_one_voxel_beyond_the_lesion_fades_on_it():
    """3 mm voxels and a window of 19 mm round a lesion of 15: only from the second voxel on nothing may change."""
    geometry = make_geometry((20, 20, 20), (3.0, 3.0, 3.0))
    mask = np.zeros(geometry.shape, bool)
    mask[8:13, 8:13, 8:13] = True
    grid = window_grid(geometry, (10.0, 10.0, 10.0), 0.6, (32,) * 3)
    flat = Volume(np.zeros(geometry.shape, np.float32), geometry)
    window, reach_mm = sample(flat, grid), falloff_mm(mask, grid, geometry)
    near, values = bring_home(flat, mask, grid, (window - 40, window), reach_mm)
    after = np.zeros(geometry.shape, np.float32)
    after[near.slices] = values
    faded = -40 * (0.5 + 0.5 * np.cos(np.pi * 3 / 4))  # 3 of the 4 mm in which it falls
    assert after[5:16, 10, 10] == pytest.approx([0, 0, faded, *5 * [-40], faded, 0, 0], abs=0.5)


def test_the_volumes_own_border_does_not_shorten_the_falloff():
    mask = np.zeros(GEOMETRY.shape, bool)
    mask[:6, 18:28, 17:23] = True
    grid = window_grid(GEOMETRY, (2.5, 22.5, 19.5), 1.5, (24,) * 3)
    assert falloff_mm(mask, grid, GEOMETRY) == pytest.approx(4.5)


def test_the_proof_counts_right_at_its_border(patient, mask):
    """One voxel changed just inside the neighborhood is allowed, one just outside is found, as is one far away."""
    for step_vox, expected in ((3, 0), (4, 1), (15, 1)):
        after = patient.array.copy()
        after[29 + step_vox, 22, 20] += 7  # 1.2 mm a voxel
        found = measure_change(patient.array, after, mask, GEOMETRY, 4.0)
        assert found["voxels_changed"] == 1
        assert found["voxels_changed_outside"] == expected
        assert found["max_abs_change_outside_hu"] == 7 * expected


def test_values_stay_in_the_range_of_the_dtype(patient, mask):
    after, _ = brought_home(Volume(np.maximum(patient.array, 0).astype(np.uint8), GEOMETRY), mask, -4000.0)
    assert after.dtype == np.uint8
    assert after[mask].min() == 0
    assert after.max() < 130, "nothing wrapped round"
