"""Rendered training lesions are what their reports say, measured by the same meters that judge syntheses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from LesionDiffusionLib import meters
from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.training.rendering import Scene, render_density, render_mask

ISO = (1.0, 1.0, 1.0)
SIZE = 48
BASE = LesionReport(
    organ="liver",
    organ_type="parenchymal organ",
    lesion_location="inside organ",
    shape="round-like",
    surface="well-defined margin",
    density="hypodense lesion",
    density_variations="homogeneous",
    enhancement="enhanced CT",
)
BOX = Box((12, 13, 14), (36, 35, 34))


@pytest.fixture
def scene(generator):
    ct_hu = (100 + generator.normal(0, 8, (SIZE,) * 3)).astype(np.float32)
    organ = np.ones(ct_hu.shape, bool)
    organ[:, :, :4] = False
    return Scene(ct_hu, organ, np.zeros_like(organ), 1.0)


def hollow_scene(generator):
    """A tube along the first axis: lumen of fluid, wall, fat outside."""
    _, y, x = np.indices((SIZE,) * 3)
    radius = np.hypot(y - 24, x - 24)
    ct_hu = np.where(radius < 12, 10.0, np.where(radius < 16, 50.0, -90.0)) + generator.normal(0, 5, (SIZE,) * 3)
    return Scene(ct_hu.astype(np.float32), radius < 16, np.zeros((SIZE,) * 3, bool), 1.0)


def masks(report, scene, count=12):
    return [render_mask(report, scene, BOX, np.random.default_rng(seed)) for seed in range(count)]


def test_masks_fill_their_box_and_stay_in_it(scene):
    for mask in masks(BASE, scene):
        assert BOX.contains(Box.bounding(mask))
        assert np.all(np.array(Box.bounding(mask).shape) >= np.array(BOX.shape) - 4)


def test_round_is_rounder_than_irregular_and_spiculated(scene):
    values = {}
    for shape in ("round-like", "cystic", "irregular"):
        drawn = masks(dataclasses.replace(BASE, shape=shape), scene)
        values[shape] = np.array([meters.sphericity(m, ISO) for m in drawn])
    assert values["cystic"].mean() > values["round-like"].mean() - 0.02
    assert values["round-like"].min() > values["irregular"].max() - 0.05
    spiculated = dataclasses.replace(BASE, shape="irregular", specific_features=("spiculated margins",))
    assert np.mean([meters.convexity(m, ISO) for m in masks(spiculated, scene)]) < 0.85


def test_inside_means_inside_and_margins_spare_other_organs(scene):
    blocked = np.zeros_like(scene.organ)
    blocked[30:] = True
    cut = dataclasses.replace(scene, organ=~blocked, blocked=blocked)
    for location in ("inside organ", "organ margin"):
        for mask in masks(dataclasses.replace(BASE, lesion_location=location), cut, 4):
            assert not (mask & blocked).any()


@pytest.mark.parametrize("shape", ["irregular wall thickening", "luminal narrowing", "protrusion into the lumen"])
def test_wall_lesions_grow_on_the_wall(generator, shape):
    scene = hollow_scene(generator)
    report = dataclasses.replace(
        BASE, organ="colon", organ_type="hollow organ", lesion_location="organ margin", shape=shape
    )
    box = Box((14, 5, 12), (34, 21, 36))  # one side of the tube
    if shape == "luminal narrowing":
        box = Box((14, 6, 6), (34, 42, 42))  # all round it
    mask = render_mask(report, scene, box, generator)
    assert mask.sum() > 200
    assert meters.share_inside(mask, scene.organ) > 0.6
    if shape == "luminal narrowing":
        middle = mask[24]
        assert not middle[24, 24], "the lumen stays open"
        assert all(middle[tuple(slice(None, 24) if low else slice(24, None) for low in side)].any()
                   for side in ((1, 1), (1, 0), (0, 1), (0, 0)))  # fmt: skip


@pytest.mark.parametrize(
    ("density", "low", "high"),
    [
        ("hypodense lesion", 100 - 60, 100 - 20),
        ("isodense lesion", 90, 110),
        ("hyperdense lesion", 120, 160),
        ("hypoattenuating fluid-like lesion", 0, 25),
        ("low-density ground-glass opacity", -700, -450),
    ],
)
def test_density_words(scene, generator, density, low, high):
    mask = render_mask(BASE, scene, BOX, generator)
    for seed in range(6):
        out = render_density(dataclasses.replace(BASE, density=density), scene, mask, np.random.default_rng(seed))
        assert low <= meters.median_hu(out, meters.core(mask, ISO)) <= high


def test_stones_are_dense(scene, generator):
    stone = dataclasses.replace(BASE, density="hyperdense lesion", specific_features=("stone",))
    mask = render_mask(stone, scene, Box((20, 20, 20), (28, 28, 28)), generator)
    assert meters.median_hu(render_density(stone, scene, mask, generator), meters.core(mask, ISO)) > 200


def test_heterogeneous_varies_more_and_blurred_margins_are_wider(scene, generator):
    mask = render_mask(BASE, scene, BOX, generator)
    std, width = {}, {}
    for variation in ("homogeneous", "heterogeneous"):
        report = dataclasses.replace(BASE, density_variations=variation)
        std[variation] = [
            meters.texture_std_hu(render_density(report, scene, mask, np.random.default_rng(s)), mask, ISO)
            for s in range(5)
        ]
    for surface in ("well-defined margin", "ill-defined margin"):
        report = dataclasses.replace(BASE, surface=surface)
        width[surface] = [
            meters.margin_width_mm(render_density(report, scene, mask, np.random.default_rng(s)), mask, ISO)
            for s in range(5)
        ]
    assert max(std["homogeneous"]) < min(std["heterogeneous"])
    assert max(width["well-defined margin"]) < min(width["ill-defined margin"])


def test_nothing_changes_far_away_and_the_noise_stays(scene, generator):
    mask = render_mask(BASE, scene, BOX, generator)
    out = render_density(BASE, scene, mask, generator)
    assert np.array_equal(out[:2], scene.ct_hu[:2])
    inner = meters.core(mask, ISO)
    noise_before, noise_after = (np.diff(a, axis=0)[inner[1:]].std() for a in (scene.ct_hu, out))
    assert 0.5 * noise_before < noise_after < 1.5 * noise_before
