"""The panel's form and the matching of segments with organs, without Slicer."""

from __future__ import annotations

import numpy as np
import pytest

from LesionDiffusionLib.errors import ReportError
from LesionDiffusionLib.extension import form
from LesionDiffusionLib.extension.organ_matching import (
    anatomic_region,
    known_structures,
    structure_for,
    structure_of_organ,
)
from LesionDiffusionLib.labels import load_table
from LesionDiffusionLib.lesion_types import all_lesion_types, checks, draw_report
from LesionDiffusionLib.vocabulary import vocabulary


def entry(type_code: str, modifier: str = "^^", region: str = "^^") -> str:
    return f"Some list~SCT^123037004^Anatomical Structure~{type_code}~{modifier}~Some regions~{region}~^^"


@pytest.mark.parametrize(
    ("name", "structure"),
    [
        ("liver", "liver"),
        ("Liver", "liver"),
        ("Liver_1", "liver"),
        ("right kidney", "kidney_right"),
        ("kidney_right", "kidney_right"),
        ("Left Kidney", "kidney_left"),
        ("kidneys", "kidney"),
        ("superior lobe of left lung", "lung_upper_lobe_left"),
        ("lung_upper_lobe_left", "lung_upper_lobe_left"),
        ("Right upper lobe", "lung_upper_lobe_right"),
        ("right lung", "lung_right"),
        ("lungs", "lung"),
        ("inferior vena cava", "inferior_vena_cava"),
        ("Aorta", "aorta"),
        ("portal vein and splenic vein", "portal_vein_and_splenic_vein"),
        ("bladder", "urinary_bladder"),
        ("Segment_1", None),
        ("liver tumor", None),
        ("", None),
        ("12", None),
    ],
)
def test_a_segment_s_name_tells_its_organ(name, structure):
    assert structure_for(name, "") == structure


@pytest.mark.parametrize(
    ("terminology", "structure"),
    [
        (entry("SCT^10200004^Liver"), "liver"),
        (entry("SCT^64033007^Kidney", "SCT^24028007^Right"), "kidney_right"),
        (entry("SCT^64033007^Kidney", "SCT^7771000^Left"), "kidney_left"),
        (entry("SCT^64033007^Kidney"), "kidney"),
        (entry("SCT^45653009^Upper lobe of lung", "SCT^7771000^Left"), "lung_upper_lobe_left"),
        (entry("SCT^4147007^Mass", region="SCT^10200004^Liver"), None),
        (entry("SCT^85756007^Tissue"), None),
        ("", None),
        ("broken~text", None),
        ("a~b~c~d~e~f~g", None),
    ],
)
def test_a_segment_s_terminology_tells_its_organ(terminology, structure):
    assert structure_for("Segment_1", terminology) == structure


def test_terminology_wins_over_the_name():
    assert structure_for("liver", entry("SCT^78961009^Spleen")) == "spleen"


def test_every_organ_can_be_matched_and_found_again():
    known = known_structures()
    assert len(known) == len(set(known))
    assert set(load_table("totalseg_v1").values()) | set(load_table("totalseg_v2").values()) <= set(known)
    for organ in vocabulary().organs:
        structure = structure_of_organ(organ)
        assert structure in known
        assert structure_for(structure, "") == structure
        region, side = anatomic_region(structure)
        assert region.startswith("SCT^"), organ
        parts = organ.split()
        assert ("Right" in side, "Left" in side) == ("right" in parts and "middle" not in parts, "left" in parts)


def test_a_structure_without_code_has_no_region():
    assert anatomic_region("rib_left_3") == ("^^", "^^")


@pytest.mark.parametrize("field", form.ATTRIBUTES)
def test_plausible_values_come_first_and_none_is_lost(field):
    allowed = set(vocabulary().values(form.ATTRIBUTES[field]))
    for kind in all_lesion_types():
        offered = form.choices(field, kind.name)
        assert offered.plausible, kind.name
        assert not set(offered.plausible) & set(offered.others)
        single = {part for text in offered.plausible for part in text.split(", ")}
        assert allowed <= single | set(offered.others)
    assert not form.choices(field, "").plausible


def test_the_most_usual_value_is_the_first():
    assert form.choices("density", "liver cyst").plausible[0] == "hypoattenuating fluid-like lesion"
    assert "stone" in form.choices("specific_features", "gallstone").plausible


def test_organs_that_are_not_there_are_not_plausible():
    offered = form.choices("organ", "kidney cyst", ["right kidney", "liver"])
    assert offered.plausible == ("right kidney",)
    assert "left kidney" in offered.others


def test_lesion_types_by_the_organs_present():
    offered = form.lesion_types_for(["liver", "left kidney"])
    assert "liver cyst" in offered.plausible
    assert "kidney stone" in offered.plausible
    assert "lung cancer" in offered.others
    assert len(form.lesion_types_for(None).plausible) == len(all_lesion_types())


def test_a_report_survives_the_form(generator):
    for kind in all_lesion_types():
        report = draw_report(kind, generator)
        assert form.report_of(form.form_of(report), kind.name, report.size_mm) == report


def test_an_empty_form_states_nothing():
    report = form.report_of(dict.fromkeys(form.ATTRIBUTES, ""), "", None)
    assert report == type(report)()
    with pytest.raises(ReportError, match="unknown shape"):
        form.report_of({"shape": "hexagonal"}, "", None)


def test_surprises_are_plausible(generator):
    for lesion in ("", "gallstone"):
        for _ in range(10):
            report = form.surprise(lesion, ["liver", "gallbladder"], generator)
            assert report.organ in ("liver", "gallbladder")
            assert report.lesion_type == (lesion or report.lesion_type)
            assert not [w for w in checks(report) if "contradict" in w]
    with pytest.raises(ReportError, match="none is in the organ map"):
        form.surprise("lung cancer", ["liver"], generator)
    with pytest.raises(ReportError, match="expected a lesion type or an organ"):
        form.surprise("", ["spleen"], np.random.default_rng(0))


def test_usual_sizes():
    assert form.usual_size_mm("liver cyst") == (20.0, 20.0, 20.0)
    assert 5 < form.usual_size_mm("")[0] < 40
