"""Meters against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage, special

from LesionDiffusionLib import meters
from LesionDiffusionLib.fit import is_blurred

SPACINGS = [(1.0, 1.0, 1.0), (0.8, 1.1, 1.5)]


def ellipsoid(radii_mm, spacing_mm, margin=6):
    reach = [math.ceil(r / s) + margin for r, s in zip(radii_mm, spacing_mm, strict=True)]
    axes = [np.arange(-n, n + 1) * s for n, s in zip(reach, spacing_mm, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    return (x / radii_mm[0]) ** 2 + (y / radii_mm[1]) ** 2 + (z / radii_mm[2]) ** 2 <= 1


@pytest.mark.parametrize("spacing_mm", SPACINGS)
def test_volume_surface_and_sphericity_of_a_sphere(spacing_mm):
    mask = ellipsoid((15, 15, 15), spacing_mm)
    assert meters.volume_mm3(mask, spacing_mm) == pytest.approx(4 / 3 * math.pi * 15**3, rel=0.01)
    assert meters.surface_mm2(mask, spacing_mm) == pytest.approx(4 * math.pi * 15**2, rel=0.02)
    assert meters.sphericity(mask, spacing_mm) == pytest.approx(1, abs=0.02)
    assert meters.convexity(mask, spacing_mm) > 0.9


@pytest.mark.parametrize(("voxels", "sphericity"), [(3000, 1.00), (400, 1.03), (200, 1.06), (100, 1.10), (50, 1.17)])
def test_a_sphere_of_few_voxels_is_rounder_than_round(voxels, sphericity, generator):
    radius, found = (voxels * 3 / (4 * math.pi)) ** (1 / 3), []
    for offset in generator.uniform(-0.5, 0.5, (8, 3)):
        grids = np.indices((24, 24, 24)) - 12 - offset[:, None, None, None]
        found.append(meters.sphericity((grids**2).sum(axis=0) <= radius**2, (1, 1, 1)))
    assert np.mean(found) == pytest.approx(sphericity, abs=0.015)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
def test_surface_of_a_long_ellipsoid(spacing_mm):
    a, b, c, p = 24.0, 12.0, 12.0, 1.6075  # Thomsen's approximation, within 1.1 %
    wanted = 4 * math.pi * (((a * b) ** p + (a * c) ** p + (b * c) ** p) / 3) ** (1 / p)
    assert meters.surface_mm2(ellipsoid((a, b, c), spacing_mm), spacing_mm) == pytest.approx(wanted, rel=0.03)


def drawn(shape, spacing_mm):
    """A shape on a grid that its center does not lie on."""
    starts_mm = [offset * s - 36 for offset, s in zip((0.3, 0.4, 0.2), spacing_mm, strict=True)]
    axes = [np.arange(start, 36, s) for start, s in zip(starts_mm, spacing_mm, strict=True)]
    return SHAPES[shape](*np.meshgrid(*axes, indexing="ij", sparse=True))


def ball(x, y, z, radius=15.0):
    return x**2 + y**2 + z**2 < radius**2


SHAPES = {
    "ball": ball,
    "crescent": lambda x, y, z: ball(x, y, z) & ~ball(x - 10, y, z),
    "rod": lambda x, y, z: (x**2 + z**2 < 7**2) & (abs(y) < 24),
    "lobes": lambda x, y, z: ball(x, y, z, 12) | ball(x - 17, y, z, 8) | ball(x, y - 17, z - 4, 8),
}


@pytest.mark.parametrize("spacing_mm", [(0.8, 0.8, 3.0), (0.45, 0.45, 5.0), (5.0, 0.7, 0.7), (0.8, 1.1, 1.5)])
@pytest.mark.parametrize("shape", SHAPES)
def test_thick_slices_tell_a_shape_as_thin_ones_do(shape, spacing_mm):
    """Smoothing over a slice's thickness made crescents, rods and lobes rounder than a ball: 1.03, 1.21, 1.14."""
    wanted = meters.sphericity(drawn(shape, (1, 1, 1)), (1, 1, 1))
    found = meters.sphericity(drawn(shape, spacing_mm), spacing_mm)
    assert found == pytest.approx(wanted, abs=0.07)
    assert (found > 0.95) == (shape == "ball"), "round and not are far from 0.85 on either side"
    assert found < 1.01


def test_isotropic_masks_are_measured_as_they_are():
    """The ruler of figures that are published: the total variation of the smoothed mask itself."""
    mask = drawn("lobes", (1, 1, 1))
    gradient = np.gradient(ndimage.gaussian_filter(mask.astype(float), 0.8))
    assert meters.surface_mm2(mask, (1, 1, 1)) == pytest.approx(np.sqrt(sum(g * g for g in gradient)).sum())
    thin = np.zeros((5, 5, 5), bool)
    thin[2, 2, 2] = True
    assert meters.sphericity(thin, (0.45, 0.45, 5.0)) > 0, "thinner than isotropic voxels of that volume"


def test_dents_and_spikes_lower_convexity_and_sphericity():
    round_mask = ellipsoid((14, 14, 14), (1, 1, 1))
    dented = round_mask.copy()
    dented[: dented.shape[0] // 2, dented.shape[1] // 2 - 3 : dented.shape[1] // 2 + 3] = False
    assert meters.convexity(dented, (1, 1, 1)) < meters.convexity(round_mask, (1, 1, 1)) - 0.05
    assert meters.sphericity(dented, (1, 1, 1)) < meters.sphericity(round_mask, (1, 1, 1)) - 0.1


def test_convexity_of_a_box_is_one():
    mask = np.zeros((9, 9, 9), bool)
    mask[2:5, 3:8, 1:7] = True
    assert meters.convexity(mask, (1.0, 2.0, 0.5)) == pytest.approx(1)
    single = np.zeros((3, 3, 3), bool)
    single[1, 1, 1] = True
    assert meters.convexity(single, (1, 1, 1)) == pytest.approx(1)


def test_extents_count_whole_voxels():
    mask = np.zeros((10, 10, 10), bool)
    mask[2:5, 4:5, 1:9] = True
    assert meters.extents_mm(mask, (1.0, 2.0, 0.5)) == (3.0, 2.0, 4.0)


def blurred_ball(sigma_mm, spacing_mm=(1.0, 1.0, 1.0), step_hu=-60.0):
    mask = ellipsoid((14, 14, 14), spacing_mm, margin=12)
    profile = ndimage.gaussian_filter(mask.astype(float), [sigma_mm / s for s in spacing_mm])
    return 100 + step_hu * profile, mask


@pytest.mark.parametrize("sigma_mm", [1.5, 2.5, 3.5])
def test_margin_width_follows_the_blur(sigma_mm):
    """A step blurred by sigma goes from 20 % to 80 % within 1.683 sigma."""
    ct_hu, mask = blurred_ball(sigma_mm)
    assert meters.margin_width_mm(ct_hu, mask, (1, 1, 1)) == pytest.approx(1.683 * sigma_mm, abs=0.5)


def scanned_ball(radius_mm, sigma_mm, spacing_mm, generator):
    """A ball whose edge is blurred by sigma, averaged over the voxels as a scanner does, with its noise."""
    count = [2 * math.ceil((radius_mm + 12) / s) + 1 for s in spacing_mm]
    finer = [math.ceil(s / 0.4) for s in spacing_mm]
    axes = [
        ((np.arange(n * f) + 0.5) / f - n / 2 + shift) * s
        for n, f, s, shift in zip(count, finer, spacing_mm, generator.uniform(-0.5, 0.5, 3), strict=True)
    ]
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij", sparse=True)))
    share = 0.5 * special.erfc((radius - radius_mm) / (sigma_mm * math.sqrt(2)))
    share = share.reshape([n for pair in zip(count, finer, strict=True) for n in pair]).mean(axis=(1, 3, 5))
    return 100 - 50 * share + generator.normal(0, 10, share.shape), share >= 0.5


@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (2.5, 2.5, 2.5), (0.8, 0.8, 3.0), (0.8, 0.8, 5.0)])
@pytest.mark.parametrize("radius_mm", [8, 15])
def test_margin_width_of_a_scanned_ball(radius_mm, spacing_mm, generator):
    """A lesion of six coarse voxels still shows whether its edge is sharp: finer than the voxels, and judged so."""
    sharp, blurred = (
        meters.margin_width_mm(*scanned_ball(radius_mm, sigma_mm, spacing_mm, generator), spacing_mm)
        for sigma_mm in (0.5, 2.0)
    )
    assert sharp < max(1.5, 0.95 * min(spacing_mm), 0.4 * max(spacing_mm))
    assert 1.683 * 2.0 - 0.5 < blurred < 1.683 * 2.0 + 2.0  # voxels only widen
    assert not is_blurred(sharp, spacing_mm)
    assert is_blurred(blurred, spacing_mm)


def test_margin_width_does_not_see_what_lies_behind_the_organ():
    """A lesion that bulges into fat: without the organ, the step from organ to fat passes for its own edge."""
    ct_hu, mask = blurred_ball(0.7)
    organ = np.zeros_like(mask)
    organ[mask.shape[0] // 2 - 4 :] = True
    ct_hu = np.where(organ | mask, ct_hu, -100.0)
    true_mm = 1.683 * 0.7
    assert meters.margin_width_mm(ct_hu, mask, (1, 1, 1), organ) == pytest.approx(true_mm, abs=0.4)
    assert abs(meters.margin_width_mm(ct_hu, mask, (1, 1, 1)) - true_mm) > 0.6


def test_margin_width_needs_an_edge_in_the_organ():
    ct_hu, mask = blurred_ball(1.0)
    assert meters.margin_width_mm(ct_hu, mask, (1, 1, 1), np.zeros_like(mask)) is None
    assert meters.margin_width_mm(ct_hu, np.ones_like(mask), (1, 1, 1)) is None


def test_margin_width_orders_sharp_before_blurred_whatever_the_sign():
    for step_hu in (-60.0, 60.0):
        sharp, blurred = (meters.margin_width_mm(*blurred_ball(s, step_hu=step_hu), (1, 1, 1)) for s in (0.5, 3.0))
        assert sharp < blurred


def test_margin_width_needs_a_step():
    ct_hu, mask = blurred_ball(1.0, step_hu=2.0)
    assert meters.margin_width_mm(ct_hu, mask, (1, 1, 1)) is None


def test_margin_width_is_not_told_of_a_slope():
    """An organ that grows darker from the lesion's middle outwards: the widest of all edges fits, and is none."""
    mask = blurred_ball(1.0)[1]
    signed_mm = ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask)
    assert meters.margin_width_mm(100 - 5 * signed_mm, mask, (1, 1, 1)) is None


def test_texture_ignores_noise_and_sees_slow_variation(generator):
    mask = ellipsoid((14, 14, 14), (1, 1, 1))
    noise = generator.normal(0, 20, mask.shape)
    slow = ndimage.gaussian_filter(generator.normal(0, 1, mask.shape), 4)
    slow *= 20 / slow[mask].std()
    plain = meters.texture_std_hu(noise, mask, (1, 1, 1))
    varied = meters.texture_std_hu(noise + slow, mask, (1, 1, 1))
    assert plain < 6
    assert varied > 12


def test_surroundings_are_the_organ_near_the_lesion():
    mask = ellipsoid((6, 6, 6), (1, 1, 1), margin=16)
    ct_hu = np.where(mask, 10.0, 60.0)
    organ = np.zeros_like(mask)
    organ[: mask.shape[0] // 2] = True
    ct_hu[mask.shape[0] // 2 :][~mask[mask.shape[0] // 2 :]] = -900  # not the organ: must not count
    assert meters.surrounding_hu(ct_hu, mask, organ & ~mask, (1, 1, 1)) == 60
    assert meters.surrounding_hu(ct_hu, mask, np.zeros_like(mask), (1, 1, 1)) is None
    assert meters.median_hu(ct_hu, mask) == 10


def test_core_leaves_out_the_rim_but_never_everything():
    mask = ellipsoid((8, 8, 8), (1, 1, 1))
    inner = meters.core(mask, (1, 1, 1))
    assert 0 < inner.sum() < mask.sum()
    assert not (inner & ~mask).any()
    tiny = np.zeros((5, 5, 5), bool)
    tiny[2, 2, 2] = True
    assert meters.core(tiny, (1, 1, 1)).sum() == 1


def test_dice():
    a, b = np.zeros((4, 4, 4), bool), np.zeros((4, 4, 4), bool)
    assert meters.dice(a, b) == 1
    a[0], b[0, :2] = True, True
    assert meters.dice(a, b) == pytest.approx(2 * 8 / 24)


@pytest.mark.parametrize("meter", [meters.volume_mm3, meters.extents_mm, meters.sphericity, meters.convexity])
def test_an_empty_mask_is_refused(meter):
    with pytest.raises(ValueError, match="at least one voxel"):
        meter(np.zeros((4, 4, 4), bool), (1, 1, 1))
