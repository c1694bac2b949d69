"""The plan: what is stated wins, what is measured is known, the rest is drawn, and a word never moves the place."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from patients import make_patient

from LesionDiffusionLib.errors import LabelError, PlacementError, ReportError
from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.labels import OrganMap
from LesionDiffusionLib.planning import SIZE_TRIES, plan_lesion
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.volume import Volume
from LesionDiffusionLib.wish import Wish

CYST = LesionReport(lesion_type="liver cyst")
BOX = Box((18, 16, 24), (28, 24, 32))


def plan(wish, seed=0, patient=None):
    ct, organs = patient or make_patient()
    seeds = np.random.SeedSequence(seed).spawn(2)
    return plan_lesion(ct, organs, wish, [np.random.default_rng(s) for s in seeds])


def test_the_report_is_completed_and_placed_by_its_rule():
    made = plan(Wish(CYST))
    assert made.report.organ == "liver"
    assert made.rule == "inside parenchymal organ"
    assert made.place == "rule"
    assert all(getattr(made.report, f.name) is not None for f in dataclasses.fields(made.report))


def test_stating_what_would_be_drawn_anyway_changes_nothing():
    free = plan(Wish(CYST), seed=3)
    for changes in ({"organ": "liver"}, {"density": free.report.density}, {"size_mm": free.report.size_mm}):
        bound = plan(Wish(dataclasses.replace(CYST, **changes)), seed=3)
        assert (bound.report, bound.box) == (free.report, free.box)


@pytest.mark.parametrize("density", ["hypodense lesion", "isodense lesion", "hyperdense lesion"])
def test_a_word_does_not_move_the_place(density):
    sized = dataclasses.replace(CYST, size_mm=(20.0, 20.0, 20.0))
    assert plan(Wish(dataclasses.replace(sized, density=density)), 5).box == plan(Wish(sized), 5).box


def test_stated_words_choose_the_lesion_type():
    hard = plan(Wish(LesionReport(organ="liver", density="hyperdense lesion", shape="irregular")))
    assert hard.report.lesion_type == "liver cancer"
    assert not [w for w in hard.warnings if "unusual" in w]


def test_an_organ_without_known_lesions_still_gets_one():
    ct, organs = make_patient()
    labels = np.where(organs.volume.array == 5, 1, 0).astype(np.uint8)  # the liver is called spleen
    made = plan(Wish(LesionReport(organ="spleen")), patient=(ct, OrganMap(Volume(labels, ct.geometry), organs.table)))
    assert made.report.organ == "spleen"
    assert made.report.lesion_type is None
    assert made.report.density is not None


def test_a_map_without_any_known_organ_is_refused():
    ct, organs = make_patient()
    labels = np.where(organs.volume.array > 0, 7, 0).astype(np.uint8)  # nothing but aorta
    with pytest.raises(ReportError, match="no known lesion occurs in the organs of this map"):
        plan(
            Wish(LesionReport(density="hypodense lesion")),
            patient=(ct, OrganMap(Volume(labels, ct.geometry), organs.table)),
        )


def test_an_absent_organ_is_named():
    with pytest.raises((LabelError, ReportError), match="pancreas"):
        plan(Wish(LesionReport(lesion_type="pancreas cyst")))
    with pytest.raises(LabelError, match="pancreas"):
        plan(Wish(LesionReport(organ="pancreas")))


def test_a_drawn_size_is_redrawn_until_it_fits_and_only_the_size():
    """A liver cyst of up to many cm in a liver with room for a small one."""
    ct, organs = make_patient()
    labels = organs.volume.array.copy()
    x, y, z = np.indices(labels.shape)
    small = ((x - 24) * 2.0) ** 2 + ((y - 22) * 2.2) ** 2 + ((z - 27) * 2.5) ** 2 < 9**2
    labels[(labels == 5) & ~small] = 0
    patient = (ct, OrganMap(Volume(labels, ct.geometry), organs.table))
    sizes = {seed: plan(Wish(CYST), seed, patient).report.size_mm for seed in range(5)}
    assert all(max(size) <= 18 for size in sizes.values())
    free = plan(Wish(CYST), 1)
    tight = plan(Wish(CYST), 1, patient)
    assert dataclasses.replace(tight.report, size_mm=free.report.size_mm) == free.report


@pytest.mark.parametrize("stated", [None, "kidney", "right kidney"])
def test_an_organ_without_room_gives_way_to_another_unless_it_was_stated(stated):
    """A lesion of 20 mm, a right kidney of 8 mm, and a left one of 36 mm."""
    ct, organs = make_patient()
    labels = np.zeros_like(organs.volume.array)
    x, y, z = np.indices(labels.shape)
    for number, (i, j, k), radius_mm in ((2, (12, 20, 20), 4), (3, (34, 20, 20), 18)):
        labels[((x - i) * 2.0) ** 2 + ((y - j) * 2.2) ** 2 + ((z - k) * 2.5) ** 2 < radius_mm**2] = number
    patient = (ct, OrganMap(Volume(labels, ct.geometry), organs.table))
    words = LesionReport(lesion_type="kidney cyst", organ=stated, lesion_location="inside organ", size_mm=(20.0,) * 3)
    if stated == "right kidney":
        with pytest.raises(PlacementError, match="expected room for a 20x20x20 mm lesion"):
            plan(Wish(words), 0, patient)
        return
    plans = [plan(Wish(words), seed, patient) for seed in range(8)]
    assert {p.report.organ for p in plans} == {"left kidney"}
    assert all(p.site.organ[p.box.slices].mean() > 0.5 for p in plans)


def two_kidneys():
    """A patient with a right kidney (2) left in the array, and a left one (3) twice as wide."""
    ct, organs = make_patient()
    labels = np.zeros_like(organs.volume.array)
    labels[6:14, 12:28, 10:30] = 2
    labels[22:42, 12:28, 10:30] = 3
    return ct, OrganMap(Volume(labels, ct.geometry), organs.table)


@pytest.mark.parametrize("stated", [{}, {"organ": "kidney"}, {"lesion_type": None}])
@pytest.mark.parametrize("place", ["box", "center_ras_mm", "mask"])
def test_an_own_place_decides_which_organ_is_meant(stated, place):
    """Of those that the report leaves open; drawn by volume it would be the left one in two of three cases."""
    ct, _ = patient = two_kidneys()
    box, mask = Box((7, 16, 14), (13, 24, 22)), np.zeros(ct.array.shape, bool)
    mask[box.slices] = True
    own = {"box": box, "center_ras_mm": tuple(ct.geometry.to_ras(box.center_vox)), "mask": mask}
    report = dataclasses.replace(LesionReport(lesion_type="kidney cyst"), **stated)
    plans = [plan(Wish(report, **{place: own[place]}), seed, patient) for seed in range(6)]
    assert {made.report.organ for made in plans} == {"right kidney"}
    assert not any("does not touch" in warning for made in plans for warning in made.warnings)


def test_an_organ_that_was_stated_is_not_exchanged_for_the_one_at_the_place():
    patient = two_kidneys()
    report = LesionReport(lesion_type="kidney cyst", organ="left kidney")
    made = plan(Wish(report, box=Box((7, 16, 14), (13, 24, 22))), 0, patient)
    assert made.report.organ == "left kidney"
    assert any("does not touch the target organ" in warning for warning in made.warnings)


def test_a_place_in_no_organ_leaves_the_choice_to_chance():
    made = plan(Wish(LesionReport(lesion_type="kidney cyst"), box=Box((0, 0, 0), (4, 4, 4))), 0, two_kidneys())
    assert made.report.organ in ("left kidney", "right kidney")
    assert any("does not touch the target organ" in warning for warning in made.warnings)


def test_a_stated_size_that_does_not_fit_is_not_changed():
    with pytest.raises(PlacementError, match="at most"):
        plan(Wish(dataclasses.replace(CYST, size_mm=(80.0, 80.0, 80.0))))
    assert SIZE_TRIES > 1


def test_a_box_sets_the_size_and_says_when_another_was_asked_for():
    made = plan(Wish(CYST, box=BOX))
    assert made.box == BOX
    assert made.report.size_mm == pytest.approx((20.0, 17.6, 20.0))
    noisy = plan(Wish(dataclasses.replace(CYST, size_mm=(9.0, 9.0, 9.0)), box=BOX))
    assert any("so the size 9x9x9 mm was not used" in w for w in noisy.warnings)


def test_a_center_near_the_border_clips_the_box_and_the_report_says_so():
    ct, _ = make_patient()
    center = tuple(ct.geometry.to_ras((24, 22, 38.6)))
    made = plan(Wish(dataclasses.replace(CYST, size_mm=(20.0, 20.0, 20.0)), center_ras_mm=center))
    assert Box.whole(ct.geometry.shape).contains(made.box)
    assert made.report.size_mm[2] < 20
    assert any("of the 20x20x20 mm only" in warning for warning in made.warnings)
    inside = plan(
        Wish(dataclasses.replace(CYST, size_mm=(9.0, 9.0, 9.0)), center_ras_mm=tuple(ct.geometry.to_ras((24, 22, 27))))
    )
    assert not any("the CT ends" in warning for warning in inside.warnings)


def test_a_mask_is_judged_by_itself_not_by_its_box():
    """A crescent inside the liver whose box reaches out of it."""
    _, organs = make_patient()
    liver = organs.mask("liver")
    edge = liver & ~np.roll(liver, 3, axis=0)
    made = plan(Wish(CYST, mask=edge))
    assert not [w for w in made.warnings if "inside the organ" in w]
    assert made.box == Box.bounding(edge)


def test_what_is_to_be_avoided_is_kept_clear_or_warned_about():
    ct, organs = make_patient()
    labels = organs.volume.array.copy()
    labels[22:26, 20:24, 20:36] = 8  # a vein through the liver
    patient = (ct, OrganMap(Volume(labels, ct.geometry), organs.table))
    small = dataclasses.replace(CYST, size_mm=(12.0, 12.0, 12.0))
    for seed in range(5):
        box = plan(Wish(small, avoid=("inferior_vena_cava",)), seed, patient).box
        assert not (labels == 8)[box.slices].all()
    made = plan(Wish(CYST, box=BOX, avoid=("inferior_vena_cava",)), patient=patient)
    assert any("touches what was to be avoided" in w for w in made.warnings)
    vein = labels == 8
    beside = np.zeros(labels.shape, bool)
    beside[14:30, 16:28, 22:32] = ~vein[14:30, 16:28, 22:32]
    made = plan(Wish(CYST, mask=beside, avoid=("inferior_vena_cava",)), patient=patient)
    assert not any("touches what was to be avoided" in w for w in made.warnings), "its box alone does"
    with pytest.raises(LabelError, match="unknown organ or structure"):
        plan(Wish(CYST, avoid=("inferior_vena_cave",)))


def test_enhancement_is_measured_and_a_contradiction_is_told():
    ct, organs = make_patient()
    labels, hu = organs.volume.array.copy(), ct.array.copy()
    labels[:6, :6], hu[:6, :6] = 7, 160
    patient = (Volume(hu, ct.geometry), OrganMap(Volume(labels, ct.geometry), organs.table))
    assert plan(Wish(CYST), patient=patient).report.enhancement == "enhanced CT"
    told = plan(Wish(dataclasses.replace(CYST, enhancement="non-contrast CT")), patient=patient)
    assert told.report.enhancement == "non-contrast CT"
    assert any("the vessels look like enhanced CT" in w for w in told.warnings)


def test_an_unclear_enhancement_contradicts_nothing():
    ct, organs = make_patient()
    labels, hu = organs.volume.array.copy(), ct.array.copy()
    labels[:6, :6], hu[:6, :6] = 7, 95
    patient = (Volume(hu, ct.geometry), OrganMap(Volume(labels, ct.geometry), organs.table))
    for stated in ("enhanced CT", "non-contrast CT"):
        made = plan(Wish(dataclasses.replace(CYST, enhancement=stated)), patient=patient)
        assert made.report.enhancement == stated
        assert not any("vessels" in w for w in made.warnings)


def test_one_place_at_most():
    with pytest.raises(PlacementError, match="at most one of box, center and mask"):
        plan(Wish(CYST, box=BOX, center_ras_mm=(0.0, 0.0, 0.0)))
