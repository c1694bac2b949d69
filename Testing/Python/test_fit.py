"""The verdicts: each can say yes and no."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import make_geometry
from scipy import ndimage

from LesionDiffusionLib.case import Case, Measurement
from LesionDiffusionLib.fit import Finding, measure, surroundings
from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.volume import Volume

SHAPE = (60, 60, 60)
GEOMETRY = make_geometry(SHAPE, (1.0, 1.0, 1.0), np.diag([-1.0, -1.0, 1.0]))
ORGAN_HU = 100.0
REPORT = LesionReport(
    lesion_type="liver cyst",
    organ="liver",
    organ_type="parenchymal organ",
    lesion_location="inside organ",
    size_mm=(20.0, 20.0, 20.0),
    shape="round-like",
    surface="well-defined margin",
    specific_features=(),
    density="hypodense lesion",
    density_variations="homogeneous",
    enhancement="enhanced CT",
)


def ellipsoid(radii_mm, center=(30, 30, 30)):
    x, y, z = np.indices(SHAPE)
    return sum(((p - c) / r) ** 2 for p, c, r in zip((x, y, z), center, radii_mm, strict=True)) <= 1


def finding(mask, lesion_hu=60.0, organ=None, texture_hu=0.0, blur_mm=0.0):
    generator = np.random.default_rng(0)
    ct_hu = np.full(SHAPE, ORGAN_HU)
    weight = ndimage.gaussian_filter(mask.astype(float), blur_mm) if blur_mm else mask
    texture = ndimage.gaussian_filter(generator.normal(size=SHAPE), 3)
    texture *= texture_hu / texture[mask].std()
    ct_hu += weight * (lesion_hu + texture - ORGAN_HU) + generator.normal(0, 6, SHAPE)
    return Finding(ct_hu, mask, np.ones(SHAPE, bool) if organ is None else organ, GEOMETRY)


def verdict(attribute, f, **changes):
    found = {m.attribute: m for m in measure(dataclasses.replace(REPORT, **changes), f)}
    return found[attribute].fits


BALL = ellipsoid((10, 10, 10))


def test_everything_fits_a_lesion_as_described():
    assert {m.attribute: m.fits for m in measure(REPORT, finding(BALL))} == {
        "size": True,
        "lesion location": True,
        "density": True,
        "density variations": True,
        "surface characteristics": True,
        "shape": True,
    }


@pytest.mark.parametrize(
    ("size_mm", "fits"),
    [((20, 20, 20), True), ((24, 20, 20), True), ((20, 20, 34), False), ((60, 10, 10), False), ((8, 20, 20), False)],
)
def test_size_is_judged_along_every_axis(size_mm, fits):
    assert verdict("size", finding(BALL), size_mm=size_mm) == fits


def test_location():
    organ = np.zeros(SHAPE, bool)
    organ[15:] = True
    deep, crossing, outside = (ellipsoid((r,) * 3, (x, 30, 30)) for r, x in ((8, 40), (8, 17), (5, 7)))
    inside = [verdict("lesion location", finding(m, organ=organ)) for m in (deep, crossing, outside)]
    assert inside == [True, False, False]
    margin = [
        verdict("lesion location", finding(m, organ=organ), lesion_location="organ margin")
        for m in (deep, crossing, outside)
    ]
    assert margin == [False, True, False], "a lesion deep inside is not at the margin"


@pytest.mark.parametrize(
    ("density", "fitting_hu", "other_hu"),
    [
        ("hypodense lesion", 80, 95),
        ("isodense lesion", 105, 85),
        ("hyperdense lesion", 130, 105),
        ("hypoattenuating fluid-like lesion", 12, 40),
        ("isodense soft tissue mass", 50, -40),
        ("low-density ground-glass opacity", -500, 20),
        ("ring enhancement", 70, 130),
    ],
)
def test_density(density, fitting_hu, other_hu):
    assert verdict("density", finding(BALL, fitting_hu), density=density) is True
    assert verdict("density", finding(BALL, other_hu), density=density) is False


def test_no_density_is_both_hypodense_and_isodense():
    for lesion_hu in range(60, 141, 5):
        f = finding(BALL, lesion_hu)
        fitting = [d for d in ("hypodense", "isodense", "hyperdense") if verdict("density", f, density=f"{d} lesion")]
        assert len(fitting) == 1


def test_stones_and_lesions_without_organ_around():
    stone = {"density": "hyperdense lesion", "specific_features": ("stone",)}
    assert verdict("density", finding(BALL, 400), **stone) is True
    assert verdict("density", finding(BALL, 130), **stone) is True
    assert verdict("density", finding(BALL, 110), **stone) is False
    assert verdict("density", finding(BALL, 60, organ=BALL)) is None, "nothing to compare with"


def test_variation_margin_and_shape():
    assert verdict("density variations", finding(BALL, texture_hu=25), density_variations="heterogeneous") is True
    assert verdict("density variations", finding(BALL, texture_hu=25)) is False
    assert verdict("surface characteristics", finding(BALL, 40, blur_mm=3.0), surface="ill-defined margin") is True
    assert verdict("surface characteristics", finding(BALL, 40, blur_mm=3.0)) is False
    dented = BALL & ~ellipsoid((9, 3, 12), (22, 30, 30)) & ~ellipsoid((3, 9, 12), (33, 36, 30))
    assert verdict("shape", finding(dented), shape="irregular") is True
    assert verdict("shape", finding(dented)) is False


def test_too_small_to_judge_is_not_a_verdict():
    tiny = ellipsoid((1.5, 1.5, 1.5))
    assert verdict("shape", finding(tiny)) is None
    assert verdict("density variations", finding(tiny)) is None


@pytest.mark.parametrize("shape", ["irregular", "round-like", "punctate"])
def test_a_shape_that_no_report_would_be_measured_from_is_not_judged(shape):
    few, flat = ellipsoid((4, 4, 4)), np.zeros(SHAPE, bool)
    flat[20:40, 20:40, 30:32] = True
    assert 50 < few.sum() < 400 < flat.sum()
    for mask in (few, flat):
        (told,) = [m for m in measure(LesionReport(shape=shape), finding(mask)) if m.attribute == "shape"]
        assert (told.measured, told.fits) == ("too small to measure", None)


def test_what_is_not_stated_is_not_measured():
    assert measure(LesionReport(), finding(BALL)) == ()


def test_surroundings_stay_in_the_volume():
    corner = np.zeros(SHAPE, bool)
    corner[:4, :4, -4:] = True
    box = surroundings(corner, GEOMETRY)
    assert Box.whole(SHAPE).contains(box)
    assert box.shape == (29, 29, 29)


def test_a_candidate_that_could_not_be_judged_does_not_win():
    def case(*fits):
        measurements = tuple(Measurement("a", "b", "c", fit) for fit in fits)
        volume = Volume(np.zeros((2, 2, 2)), make_geometry((2, 2, 2)))
        box = Box((0, 0, 0), (1, 1, 1))
        return Case(volume, box, np.zeros((1, 1, 1)), volume, REPORT, box, measurements, (), {})

    assert case(True, True, False).share_fitting > case(None, None, None).share_fitting > case(False).share_fitting
    assert case(True).share_fitting == 1
