"""Free text: what is understood, and that everything else is handed back."""

from __future__ import annotations

import pytest

from LesionDiffusionLib.errors import ReportError
from LesionDiffusionLib.free_text import parse_free_text
from LesionDiffusionLib.lesion_types import all_lesion_types, draw_report
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.vocabulary import LESION_TYPE, vocabulary


def test_the_example_of_the_design():
    result = parse_free_text("3 cm ill-defined hypodense tumour in the right kidney")
    assert result.report == LesionReport(
        lesion_type="kidney cancer",
        organ="right kidney",
        size_mm=(30, 30, 30),
        surface="ill-defined margin",
        density="hypodense lesion",
    )
    assert result.not_understood == []
    assert result.understood == [
        ("3 cm", "size", "30x30x30 mm"),
        ("ill-defined", "surface characteristics", "ill-defined margin"),
        ("hypodense", "density", "hypodense lesion"),
        ("tumour", LESION_TYPE, "kidney cancer"),
        ("right kidney", "organ", "right kidney"),
    ]


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("Renal cysts", {"lesion_type": "kidney cyst", "organ": "kidney"}),
        ("a left renal cyst", {"lesion_type": "kidney cyst", "organ": "left kidney"}),
        ("renal cyst of the left kidney", {"lesion_type": "kidney cyst", "organ": "left kidney"}),
        ("left kidney: renal cyst", {"lesion_type": "kidney cyst", "organ": "left kidney"}),
        ("calculus in the gall bladder", {"lesion_type": "gallstone", "organ": "gallbladder"}),
        ("gallbladder cancer with stones", {"lesion_type": "gallbladder cancer", "organ": "gallbladder",
                                            "specific_features": ("stone",)}),
        ("stone in the bladder", {"organ": "urinary bladder", "specific_features": ("stone",)}),
        ("oesophageal carcinoma", {"lesion_type": "esophageal cancer", "organ": "esophagus"}),
        ("cerebral haematoma", {"lesion_type": "intracranial haemorrhage", "organ": "brain"}),
        ("HCC", {"lesion_type": "liver cancer", "organ": "liver"}),
        ("mass in the upper lobe of the right lung", {"lesion_type": "lung cancer", "organ": "right upper lung lobe"}),
        (
            "soft tissue mass protruding into the lumen of the large bowel",
            {"lesion_type": "colon cancer", "organ": "colon", "density": "isodense soft tissue mass",
             "shape": "protrusion into the lumen"},
        ),
        ("irregular wall thickening of the stomach", {"shape": "irregular wall thickening", "organ": "stomach"}),
        ("isodense soft tissue mass with peripheral low-density ground-glass opacity",
         {"density": "isodense soft tissue mass with peripheral low-density ground-glass opacity"}),
        ("no close relationship with adjacent organs",
         {"relationship": "no close relationship with surrounding organs"}),
        ("non-contrast scan", {"enhancement": "non-contrast CT"}),
        ("contrast-enhanced CT", {"enhancement": "enhanced CT"}),
        ("spiculated and calcified",
         {"specific_features": ("spiculated margins", "presence of increased density areas")}),
        ("heterogeneously hyperdense", {"density": "hyperdense lesion", "density_variations": "heterogeneous"}),
        ("round, fluid-filled, well-circumscribed", {"shape": "round-like", "surface": "well-defined margin",
                                                     "density": "hypoattenuating fluid-like lesion"}),
        ("", {}),
        ("there is a lesion", {}),
    ],
)  # fmt: skip
def test_understood_completely(text, stated):
    result = parse_free_text(text)
    assert result.report == LesionReport(**stated)
    assert result.not_understood == []


@pytest.mark.parametrize(
    ("text", "size_mm"),
    [
        ("12 mm", (12, 12, 12)),
        ("12mm", (12, 12, 12)),
        ("1.2-cm", (12, 12, 12)),
        ("1,2 cm", (12, 12, 12)),
        ("3 x 4 x 5 cm", (30, 40, 50)),
        ("3x4x5cm", (30, 40, 50)),
        ("3 cm × 4 cm × 5 cm", (30, 40, 50)),
        ("3 cm by 20 mm by 1 cm", (30, 20, 10)),
        ("2 by 3 cm", (20, 30, 25)),
        ("4 centimetres", (40, 40, 40)),
        ("7 millimeters in diameter", (7, 7, 7)),
    ],
)
def test_sizes(text, size_mm):
    result = parse_free_text(f"{text} liver cyst")
    assert result.report.size_mm == pytest.approx(size_mm)
    assert result.not_understood == []


@pytest.mark.parametrize(
    ("text", "left_over", "organ"),
    [
        ("5 x 6 liver cyst", ["5 x 6"], "liver"),
        ("liver cyst of 3", ["3"], "liver"),
        ("3-4 cm liver cyst", ["3-4 cm"], "liver"),
        ("3 cm to 4 cm liver cyst", ["3 cm to 4 cm"], "liver"),
        ("liver cyst < 4 cm", ["< 4 cm"], "liver"),
        ("liver cyst 3 ± 1 cm", ["3 ± 1 cm"], "liver"),
        ("1,200 mm liver cyst", ["1,200 mm"], "liver"),
        ("0 mm liver cyst", ["0 mm"], "liver"),
        ("900 cm liver cyst", ["900 cm"], "liver"),
        ("liver cyst of 40 HU", ["40 HU"], "liver"),
    ],
)
def test_unclear_numbers_are_handed_back(text, left_over, organ):
    result = parse_free_text(text)
    assert result.report == LesionReport(lesion_type="liver cyst", organ=organ)
    assert result.not_understood == left_over


@pytest.mark.parametrize(
    ("text", "left_over"),
    [
        ("liver cyst 3 cm from the capsule", ["3 cm from the capsule"]),
        ("liver cyst, 2 cm below the dome", ["2 cm below the dome"]),
        ("liver cyst 2 cm above", ["2 cm above"]),
        ("liver cyst 3 cm to the left", ["3 cm to the left"]),
        ("liver cyst 1.5 cm behind the portal vein", ["1.5 cm behind the portal vein"]),
        ("liver cyst 12mm beside the fissure", ["12mm beside the fissure"]),
        ("liver cyst 2-cm proximal to the hilum", ["2-cm proximal to the hilum"]),
        ("liver cyst 2 x 3 cm distal of the hilum", ["2 x 3 cm distal of the hilum"]),
        ("liver cyst 3 cm lateral.", ["3 cm lateral"]),
        ("liver cyst 3 cm medially", ["3 cm medially"]),
        ("liver cyst 2 cm deep in it", ["2 cm deep"]),
        ("liver cyst within 1 cm of the surface", ["1 cm of the surface"]),
        ("liver cyst 4 cm in front of the spine", ["4 cm in front of the spine"]),
        ("liver cyst 4 cm away", ["4 cm away"]),
    ],
)
def test_a_distance_is_no_size(text, left_over):
    result = parse_free_text(text)
    assert result.report == LesionReport(lesion_type="liver cyst", organ="liver")
    assert result.not_understood == left_over


@pytest.mark.parametrize(
    ("text", "left_over"),
    [
        ("3 cm lesion 2 cm below the dome", ["2 cm below the dome"]),
        ("lesion, 2 cm from the dome, 3 cm", ["2 cm from the dome"]),
        ("3 cm in diameter, below the dome", ["below the dome"]),
        ("3 cm, left of the dome", ["left of the dome"]),
        ("3 cm left renal cyst", []),
        ("3 cm distal esophageal cancer", ["distal"]),
        ("cyst of 3 cm within the liver", []),
        ("3 cm of fluid", []),
    ],
)
def test_a_size_beside_a_place_is_still_a_size(text, left_over):
    result = parse_free_text(text)
    assert result.report.size_mm == (30, 30, 30)
    assert result.not_understood == left_over


@pytest.mark.parametrize(
    ("text", "left_over"),
    [
        ("liver cyst, no calcification", ["no calcification"]),
        ("liver cyst without spiculation or necrosis", ["without spiculation or necrosis"]),
        ("calcification is not seen in the liver cyst", ["calcification is not"]),
        ("calcification absent, liver cyst", ["calcification absent"]),
        ("calcification: none; liver cyst", ["calcification: none"]),
        ("calcification: no, liver cyst", ["calcification: no"]),
        ("calcification isn't seen, liver cyst", ["calcification isn't"]),
        ("negative for calcification, liver cyst", ["negative for calcification"]),
        ("calcification unlikely, liver cyst", ["calcification unlikely"]),
        ("absence of calcification in the liver cyst", ["absence of calcification"]),
        ("non-calcified liver cyst", ["non-calcified"]),
        ("liver cyst; not hypodense; never round", ["not hypodense", "never round"]),
        ("not in the kidney but in the liver: cyst", ["not in the kidney"]),
        ("liver cyst lacking ill-defined margins", ["lacking ill-defined margins"]),
    ],
)
def test_negations_state_nothing(text, left_over):
    result = parse_free_text(text)
    assert result.report == LesionReport(lesion_type="liver cyst", organ="liver")
    assert result.not_understood == left_over


@pytest.mark.parametrize(
    ("text", "report", "left_over"),
    [
        ("hypodense hyperdense liver cyst", {"density": "hypodense lesion"}, ["hyperdense"]),
        ("2 cm liver cyst, 3 cm", {"size_mm": (20, 20, 20)}, ["3 cm"]),
        ("liver cyst near the spleen", {}, ["near the spleen"]),
        ("near the spleen: liver cyst", {}, ["near the spleen"]),
        ("cyst of the liver near the spleen", {}, ["near the spleen"]),
        ("liver cyst in a febrile, 65-year-old man", {}, ["febrile", "65-year-old man"]),
    ],
)
def test_second_opinions_and_strange_words_are_handed_back(text, report, left_over):
    result = parse_free_text(text)
    assert result.report == LesionReport(lesion_type="liver cyst", organ="liver", **report)
    assert result.not_understood == left_over


@pytest.mark.parametrize(("text", "left_over"), [("3 cm cyst", "cyst"), ("spleen mass", "mass"), ("tumor", "tumor")])
def test_a_noun_without_a_lesion_type_is_handed_back(text, left_over):
    result = parse_free_text(text)
    assert result.report.lesion_type is None
    assert result.not_understood == [left_over]


def test_no_word_is_lost():
    """Every word is filler, or in a phrase that was understood, or handed back."""
    text = "Incidental 2 cm hypodense, gently enhancing cyst of the liver with septa and no calcification (stable)."
    result = parse_free_text(text)
    told = " ".join([phrase for phrase, _, _ in result.understood] + result.not_understood)
    for word in text.replace("(", " ").replace(")", " ").replace(",", " ").replace(".", " ").split():
        assert word in told or word.lower() in vocabulary().filler, word
    assert result.not_understood == ["Incidental", "gently enhancing", "septa and no calcification", "stable"]


@pytest.mark.parametrize("attribute", [a for a in vocabulary().attributes if vocabulary().values(a)])
def test_every_spelling_is_understood(attribute):
    nouns = {"stone", "calculus", "calculi"}
    for term in vocabulary().terms[attribute].values():
        for text in {term.name, *term.synonyms} - nouns:
            if "," in text:
                continue
            result = parse_free_text(text)
            assert (attribute, term.name) in [(a, v) for _, a, v in result.understood], text
            assert result.not_understood == [], text


@pytest.mark.parametrize("kind", all_lesion_types(), ids=lambda kind: kind.name)
def test_own_descriptions_are_understood(kind, generator):
    """A report's own sentence, read back, says the same (but for the region, which the sentence implies)."""
    for _ in range(5):
        report = draw_report(kind, generator)
        result = parse_free_text(report.describe())
        told, read = report.attributes(), result.report.attributes()
        assert result.report.lesion_type == report.lesion_type
        unsaid = ("organ type", "lesion location")
        assert {k: v for k, v in told.items() if k not in unsaid and v != "none"} == read


def test_long_texts_are_refused_and_hostile_ones_are_quick():
    with pytest.raises(ReportError, match="at most 2000 characters, got 2001; shorten it"):
        parse_free_text("x" * 2001)
    for text in ("1" * 2000, "1 x " * 500, "no " * 666, "1-" * 1000, "not seen " * 220, "1 cm to " * 250):
        assert parse_free_text(text).report == LesionReport()
