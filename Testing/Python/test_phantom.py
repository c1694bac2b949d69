"""The phantom looks like a CT to every part of the program."""

from __future__ import annotations

import numpy as np
import pytest

from LesionDiffusionLib.phantom import make_phantom, smooth_noise
from LesionDiffusionLib.volume import check_ct

ORGANS = (
    "liver", "right kidney", "left kidney", "spleen", "gallbladder", "stomach", "pancreas", "colon", "urinary bladder",
    "esophagus", "lung",
)  # fmt: skip


@pytest.fixture(scope="module")
def torso():
    return make_phantom(np.random.default_rng(0), "torso", spacing_mm=4.0)


def median(phantom, name):
    return float(np.median(phantom.ct.array[phantom.organs.mask(name)]))


def test_has_every_organ_in_a_plausible_size(torso):
    for organ in ORGANS:
        volume_ml = torso.organs.voxel_count(organ) * 4.0**3 / 1000
        low, high = {"liver": (800, 2500), "lung": (1500, 6000), "colon": (300, 1800)}.get(organ, (10, 900))
        assert low < volume_ml < high, (organ, volume_ml)
    assert {"vertebrae_L1", "rib_left_7", "aorta", "hip_right"} <= set(torso.organs.names_present())


def test_hu_look_like_a_contrast_ct(torso):
    check_ct(torso.ct)
    assert 80 < median(torso, "liver") < 140
    assert -5 < median(torso, "urinary bladder") < 25
    assert median(torso, "right kidney") > median(torso, "liver")
    assert median(torso, "lung") < -700
    assert median(torso, "vertebrae_L2") > 120
    plain = make_phantom(np.random.default_rng(0), "torso", spacing_mm=5.0, contrast=False)
    assert median(plain, "aorta") < 60 < median(torso, "aorta")


def test_sides_are_the_patients(torso):
    """Right organs lie at larger R, the spleen left, the bladder below the liver, the stomach before the spine."""
    center = {}
    for name in ("right kidney", "left kidney", "liver", "spleen", "urinary bladder", "stomach", "vertebrae_L1"):
        center[name] = torso.ct.geometry.to_ras(np.argwhere(torso.organs.mask(name))).mean(axis=0)
    assert center["right kidney"][0] > 30 > -30 > center["left kidney"][0]
    assert center["liver"][0] > 0 > center["spleen"][0]
    assert center["urinary bladder"][2] < center["liver"][2] - 100
    assert center["stomach"][1] > center["vertebrae_L1"][1] + 30
    assert torso.ct.geometry.axis_codes == "LPS"


def test_same_generator_same_phantom_and_persons_differ():
    first, again, other = (make_phantom(np.random.default_rng(s), "torso", 6.0) for s in (1, 1, 2))
    assert np.array_equal(first.ct.array, again.ct.array)
    assert np.array_equal(first.organs.volume.array, again.organs.volume.array)
    assert (first.organs.volume.array != other.organs.volume.array).mean() > 0.05


def test_the_head_holds_a_brain():
    head = make_phantom(np.random.default_rng(0), "head", spacing_mm=3.0, contrast=False)
    assert 20 < median(head, "brain") < 50
    assert 600 < head.organs.voxel_count("brain") * 27 / 1000 < 2200


@pytest.mark.parametrize("sigma_vox", [0.6, 2.5, 9.0])
def test_smooth_noise_has_unit_spread_and_the_asked_smoothness(sigma_vox, generator):
    noise = smooth_noise((70, 60, 50), sigma_vox, generator)
    assert noise.shape == (70, 60, 50)
    assert noise.std() == pytest.approx(1, abs=0.35)
    correlation = np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1]
    assert correlation == pytest.approx(np.exp(-1 / (4 * sigma_vox**2)), abs=0.12)
