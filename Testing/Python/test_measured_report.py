"""Measured reports say what was put in, and nothing that cannot be told."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_geometry

from LesionDiffusionLib.fit import Finding
from LesionDiffusionLib.labels import OrganMap
from LesionDiffusionLib.lesion_types import lesion_type
from LesionDiffusionLib.measured_report import measured_enhancement, measured_report
from LesionDiffusionLib.volume import Volume

ORGAN_HU = 60.0


def finding(
    center=(24, 24, 24),
    radii=(7, 7, 7),
    lesion_hu=20.0,
    blur=0.0,
    texture=0.0,
    lobes=False,
    axes=None,
    organ_hu=ORGAN_HU,
    spacing_mm=(1.5, 1.5, 1.5),
) -> Finding:
    """A lesion in a ball of an organ on a 1.5 mm grid; lengths in voxels."""
    from scipy import ndimage

    geometry = make_geometry((48, 48, 48), spacing_mm, axes)
    grids = np.meshgrid(*(np.arange(48),) * 3, indexing="ij")
    mask = sum(((g - c) / r) ** 2 for g, c, r in zip(grids, center, radii, strict=True)) < 1
    if lobes:
        mask |= sum((g - c - o) ** 2 for g, c, o in zip(grids, center, (11, 0, 0), strict=True)) < 20
        mask |= sum((g - c - o) ** 2 for g, c, o in zip(grids, center, (0, 11, 3), strict=True)) < 20
    organ = (sum((g - 24) ** 2 for g in grids) < 20**2) | mask
    generator = np.random.default_rng(0)
    inside = lesion_hu + texture * ndimage.gaussian_filter(generator.normal(size=mask.shape), 2) / 0.05
    weight = ndimage.gaussian_filter(mask.astype(float), blur) if blur else mask
    ct_hu = np.where(organ, organ_hu, -90.0) + weight * (inside - organ_hu) + generator.normal(0, 4, mask.shape)
    return Finding(ct_hu, mask, organ, geometry)


@pytest.mark.parametrize(
    ("changes", "attribute", "value"),
    [
        ({}, "density", "hypoattenuating fluid-like lesion"),
        ({"lesion_hu": 38.0}, "density", "hypodense lesion"),
        ({"lesion_hu": ORGAN_HU}, "density", "isodense lesion"),
        ({"lesion_hu": 95.0}, "density", "hyperdense lesion"),
        ({}, "density_variations", "homogeneous"),
        ({"texture": 25.0}, "density_variations", "heterogeneous"),
        ({}, "surface", "well-defined margin"),
        ({"blur": 3.0}, "surface", "ill-defined margin"),
        ({"lesion_hu": ORGAN_HU}, "surface", None),
        ({}, "shape", "round-like"),
        ({"lobes": True}, "shape", "irregular"),
        ({"radii": (2, 2, 2)}, "shape", "punctate"),
        ({"radii": (4, 4, 4)}, "shape", None),
        ({"radii": (12, 12, 1.2), "spacing_mm": (0.5, 0.5, 5.0)}, "shape", "round-like"),
        ({"radii": (18, 18, 0.9), "spacing_mm": (0.5, 0.5, 5.0)}, "shape", None),
        ({}, "lesion_location", "inside organ"),
        ({"center": (5, 24, 24)}, "lesion_location", "organ margin"),
        ({"lesion_hu": 400.0}, "specific_features", ("stone",)),
        ({}, "organ_type", "parenchymal organ"),
    ],
)
def test_each_attribute(changes, attribute, value):
    assert getattr(measured_report(finding(**changes), "liver"), attribute) == value


def test_size_is_told_along_the_patients_axes():
    """On a grid whose first axis runs along the patient, the longest extent is still that of head to foot."""
    axes = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], float)  # i -> S, j -> R, k -> A
    report = measured_report(finding(radii=(9, 5, 7), axes=axes), "liver")
    assert report.size_mm == pytest.approx((13.5, 19.5, 25.5))


def test_without_a_ct_no_density_is_told():
    report = measured_report(finding(), "liver", has_ct=False)
    assert (report.density, report.density_variations, report.surface) == (None, None, None)
    assert report.shape == "round-like"


def test_relationship_is_told_only_where_neighbors_are_known():
    f = finding(center=(36, 24, 24))
    assert measured_report(f, "liver").relationship is None
    far = np.zeros_like(f.mask)
    far[0:4] = True
    assert measured_report(f, "liver", far).relationship == "no close relationship with surrounding organs"
    near = far.copy()
    near[43:] = True
    assert measured_report(f, "liver", near).relationship == "close relationship with adjacent organs"


@pytest.mark.parametrize(
    ("lesion_hu", "density"), [(-600.0, "low-density ground-glass opacity"), (30.0, "isodense soft tissue mass")]
)
def test_lungs_have_words_of_their_own(lesion_hu, density):
    assert measured_report(finding(lesion_hu=lesion_hu), "right upper lung lobe").density == density


@pytest.mark.parametrize(
    ("aorta_hu", "vein_hu", "told"),
    [
        (41.0, 41.0, "non-contrast CT"),
        (75.0, 75.0, "non-contrast CT"),
        (80.0, 150.0, None),
        (100.0, 150.0, None),
        (110.0, 94.0, "enhanced CT"),
        (180.0, 60.0, "enhanced CT"),
        (None, 140.0, "enhanced CT"),
        (None, None, None),
    ],
)
def test_contrast_is_told_by_the_first_vessel_and_only_where_it_is_clear(aorta_hu, vein_hu, told):
    labels, hu = np.zeros((8, 8, 8), np.uint8), np.full((8, 8, 8), 50.0)
    for number, vessel_hu in ((1, aorta_hu), (2, vein_hu)):
        if vessel_hu is not None:
            labels[number], hu[number] = number, vessel_hu
    geometry = make_geometry((8, 8, 8))
    organs = OrganMap(Volume(labels, geometry), {1: "aorta", 2: "inferior_vena_cava"})
    assert measured_enhancement(Volume(hu, geometry), organs) == told
    assert measured_enhancement(Volume(hu, geometry), organs, ("aorta",)) == (told if aorta_hu else None)


def test_the_ruler_of_roundness_can_be_stricter():
    f, organ = finding(), "liver"
    assert measured_report(f, organ).shape == "round-like"
    assert measured_report(f, organ, round_sphericity=1.1).shape == "irregular"


@pytest.mark.parametrize(
    ("kind", "lesion_hu", "organ_hu", "enhancement", "stone"),
    [
        ("kidney cancer", 150.0, 190.0, "enhanced CT", False),
        ("kidney cancer", 600.0, 40.0, "non-contrast CT", False),
        ("kidney stone", 150.0, 40.0, None, True),
        ("gallstone", 150.0, 10.0, "enhanced CT", True),
        ("gallstone", 60.0, 10.0, None, False),
        (None, 150.0, 190.0, "enhanced CT", False),
        (None, 150.0, 40.0, None, False),
        (None, 150.0, 40.0, "non-contrast CT", True),
        (None, 600.0, 190.0, "enhanced CT", True),
        (None, 60.0, 40.0, "non-contrast CT", False),
    ],
)
def test_contrast_alone_makes_no_stone(kind, lesion_hu, organ_hu, enhancement, stone):
    f = finding(lesion_hu=lesion_hu, organ_hu=organ_hu)
    kind = kind and lesion_type(kind)
    report = measured_report(f, "right kidney", kind=kind, enhancement=enhancement)
    assert report.specific_features == (("stone",) if stone else None)
    assert report.enhancement == enhancement


def test_where_the_scan_ends_the_organ_does_not():
    """A lesion deep in an organ, cut by the last slice: nothing shows the organ's outside."""
    f = finding()
    half = (slice(None), slice(None), slice(0, 24))
    cut = Finding(f.ct_hu[half], f.mask[half], f.organ[half], make_geometry((48, 48, 24), (1.5, 1.5, 1.5)))
    assert measured_report(cut, "liver").lesion_location == "inside organ"
