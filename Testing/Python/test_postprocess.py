"""Mask choice and seams."""

from __future__ import annotations

import numpy as np
import pytest

from LesionDiffusionLib.postprocess import (
    MAX_BIAS_HU,
    MAX_NOISE_HU,
    blend_weight,
    keep_noise,
    largest_component,
    threshold_by_extents,
    threshold_by_volume,
)


def test_largest_component_is_face_connected():
    mask = np.zeros((6, 6, 6), bool)
    mask[0, 0, 0:3] = True
    mask[1, 1, 3] = True  # touches only by an edge
    mask[4:6, 4:6, 4:6] = True
    found = largest_component(mask)
    assert found.sum() == 8
    assert found[4:, 4:, 4:].all()
    assert not largest_component(np.zeros((3, 3, 3), bool)).any()


def test_threshold_by_volume_takes_the_nearest_size_and_the_first_on_ties():
    probability = np.zeros((10, 10, 10))
    probability[2:8, 2:8, 2:8] = 0.45
    probability[3:7, 3:7, 3:7] = 0.85
    mask, threshold = threshold_by_volume(probability, box_voxels=200)
    assert (mask.sum(), threshold) == (216, 0.4)
    mask, threshold = threshold_by_volume(probability, box_voxels=70)
    assert (mask.sum(), threshold) == (64, 0.8)


THRESHOLDS = (0.5, 0.4, 0.3, 0.2)


def test_threshold_by_extents_lengthens_what_the_first_threshold_cuts_short():
    allowed = np.ones((10, 4, 20), bool)
    probability = np.zeros(allowed.shape)
    probability[:, :, 2:18] = 0.25
    probability[:, :, 4:14] = 0.35
    probability[:, :, 6:12] = 0.9
    assert threshold_by_extents(probability, allowed, THRESHOLDS).sum() == 10 * 4 * 16
    assert threshold_by_extents(probability, allowed, THRESHOLDS[:2]).sum() == 10 * 4 * 6, "the least short one"
    probability[:, :, 1:17] = 0.9
    assert threshold_by_extents(probability, allowed, THRESHOLDS).sum() == 10 * 4 * 16, "long enough: the first one"


def test_threshold_by_extents_stays_where_the_lesion_may_lie_and_in_one_piece():
    allowed = np.zeros((8, 8, 8), bool)
    allowed[:, :, :3] = True
    allowed[:2, :, 5:] = True
    found = threshold_by_extents(np.full(allowed.shape, 0.3), allowed, THRESHOLDS)
    assert found.sum() == 8 * 8 * 3
    assert not (found & ~allowed).any()


def test_threshold_by_extents_draws_nothing_from_nothing():
    assert not threshold_by_extents(np.full((5, 5, 5), 0.1), np.ones((5, 5, 5), bool), THRESHOLDS).any()
    assert not threshold_by_extents(np.ones((5, 5, 5)), np.zeros((5, 5, 5), bool), THRESHOLDS).any()


def test_threshold_by_extents_takes_a_lesion_smaller_than_the_voxels():
    probability = np.zeros((2, 2, 2))
    probability[1, 0, 1] = 0.3
    assert threshold_by_extents(probability, np.ones((2, 2, 2), bool), THRESHOLDS).sum() == 1


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 0.7, 3.0)])
def test_blend_weight_is_one_inside_and_exactly_zero_beyond_the_falloff(spacing_mm):
    mask = np.zeros((25, 25, 15), bool)
    mask[10:15, 9:16, 6:9] = True
    weight = blend_weight(mask, spacing_mm, 4.0)
    inside = np.argwhere(mask) * spacing_mm
    distance_mm = np.array(
        [np.sqrt(((inside - np.array(v) * spacing_mm) ** 2).sum(1)).min() for v in np.ndindex(mask.shape)]
    ).reshape(mask.shape)
    assert (weight[mask] == 1).all()
    assert (weight[distance_mm >= 4.0] == 0).all()
    between = (distance_mm > 0) & (distance_mm < 3.99)
    assert ((weight[between] > 0) & (weight[between] < 1)).all()
    order = np.argsort(distance_mm[between])
    assert (np.diff(weight[between][order]) <= 1e-6).all(), "falls monotonically with distance"
    assert not blend_weight(np.zeros_like(mask), spacing_mm, 4.0).any()


def test_keep_noise_keeps_noise_and_cuts_edges(generator):
    reconstruction = np.full((20, 20, 20), 50.0)
    noise = generator.normal(0, 10, reconstruction.shape)
    ct = reconstruction + noise
    ct[10, 10, 10] += 500  # a vessel wall the lesion replaces
    kept = keep_noise(ct, reconstruction, np.ones(ct.shape, bool))
    typical = np.abs(noise) < 20
    typical[10, 10, 10] = False
    np.testing.assert_allclose(kept[typical], noise[typical])
    assert np.abs(kept).max() < 32


def test_keep_noise_takes_edges_everywhere_for_no_noise(generator):
    """A lesion on the border between air and bowel wall: the autoencoder misses by hundreds of HU in most voxels."""
    reconstruction = np.zeros((12, 12, 12))
    missed = generator.choice([-300.0, 300.0], reconstruction.shape)
    kept = keep_noise(reconstruction + missed, reconstruction, np.ones(missed.shape, bool))
    assert np.abs(kept).max() <= 2.5 * MAX_NOISE_HU + MAX_BIAS_HU
