"""Reports: in and out of text and JSON, checked values, strings for the networks, region rules."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from LesionDiffusionLib.errors import ReportError
from LesionDiffusionLib.lesion_types import all_lesion_types, draw_report
from LesionDiffusionLib.report import (
    FIELDS,
    LesionReport,
    format_size,
    image_strings,
    mask_strings,
    parse_size,
    region_rule,
)
from LesionDiffusionLib.vocabulary import vocabulary

CYST = LesionReport.from_attributes(
    {
        "shape": "Round,",
        "organ": "hepatic",
        "organ type": "parenchymal",
        "lesion location": "inside organ",
        "size": "12x10x14 mm",
        "relationship": "no close relationship",
        "surface": "well circumscribed",
        "specific features": "calcification, necrosis",
        "enhancement status": "enhanced CT,",
        "density": "low attenuation lesion",
        "density variations": "inhomogeneous",
    },
    "hepatic cyst",
)


def test_synonyms_become_canonical():
    expected = LesionReport(
        lesion_type="liver cyst",
        organ="liver",
        size_mm=(12, 10, 14),
        shape="round-like",
        organ_type="parenchymal organ",
        lesion_location="inside organ",
        relationship="no close relationship with surrounding organs",
        surface="well-defined margin",
        specific_features=("presence of increased density areas", "presence of decreased density areas"),
        enhancement="enhanced CT",
        density="hypodense lesion",
        density_variations="heterogeneous",
    )
    assert expected == CYST


def test_every_attribute_has_a_field():
    assert tuple(FIELDS) == vocabulary().attributes
    assert set(FIELDS.values()) | {"lesion_type"} == {field.name for field in dataclasses.fields(LesionReport)}


@pytest.mark.parametrize("kind", all_lesion_types(), ids=lambda kind: kind.name)
def test_round_trips(kind, generator):
    for _ in range(20):
        report = draw_report(kind, generator)
        assert LesionReport.from_json(report.to_json()) == report
        assert LesionReport.from_json(report.to_json().encode()) == report
        assert LesionReport.from_attributes(report.attributes(), report.lesion_type) == report
    assert LesionReport.from_json(LesionReport().to_json()) == LesionReport()


def test_fractional_size_survives_the_file():
    report = LesionReport(size_mm=(2.5, 3.25, 4.0))
    assert LesionReport.from_json(report.to_json()) == report


def test_strings_in_the_order_of_the_table():
    features = ["presence of increased density areas", "presence of decreased density areas"]
    both = ["liver", "12x10x14 mm", "no close relationship with surrounding organs", "well-defined margin", *features]
    assert mask_strings(CYST) == ["round-like", "parenchymal organ", "inside organ", *both]
    assert image_strings(CYST) == [*both, "enhanced CT", "hypodense lesion", "heterogeneous"]
    assert mask_strings(LesionReport()) == image_strings(LesionReport()) == []


def test_with_values_changes_only_what_is_set():
    changed = CYST.with_values(["density=hyperdense", "size=20", "specific features=none"])
    assert changed == dataclasses.replace(
        CYST, density="hyperdense lesion", size_mm=(20.0, 20.0, 20.0), specific_features=()
    )


def test_new_organ_brings_its_type():
    assert CYST.with_values(["organ=stomach"]).organ_type == "hollow organ"
    assert CYST.with_values(["organ=stomach", "organ type=parenchymal organ"]).organ_type == "parenchymal organ"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["density"], 'expected ATTRIBUTE=VALUE, got "density"'),
        (["colour=red"], 'unknown attribute "colour".*allowed: shape'),
        (["density=hypodens"], 'unknown density "hypodens"; did you mean "hypodense lesion"'),
        (["specific features=stone, moss"], 'unknown specific features "moss"|unknown specific features " moss"'),
        (["size=big"], 'expected a size such as "12x10x14 mm".*got "big"'),
        (["size=3x4"], 'expected a size such as.*got "3x4"'),
        (["size=0"], "three numbers above 0"),
        (["size=200 cm"], "at most 1000 mm"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ReportError, match=message):
        CYST.with_values(settings)


@pytest.mark.parametrize(
    ("text", "size_mm"),
    [("12x10x14 mm", (12, 10, 14)), ("1.2 cm", (12, 12, 12)), ("12", (12, 12, 12)), ("1 × 2 X 3cm,", (10, 20, 30))],
)
def test_parse_size(text, size_mm):
    assert parse_size(text) == pytest.approx(size_mm)


def test_format_size_never_says_zero():
    assert format_size((0.2, 1.4, 12.6)) == "1x1x13 mm"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the report is not JSON"),
        (b"\xff\xfe\x00", "the report is not JSON"),
        ("[" * 100_000, "the report is not JSON"),
        ("[]", "is a JSON object, got list"),
        ("x" * 1_000_001, "at most 1000000 bytes, got 1000001"),
        ('{"shapes": 1}', 'has the keys lesion type, attributes, size_mm; got "shapes"'),
        ('{"attributes": ["shape"]}', '"attributes" is an object of names and texts; got list'),
        ('{"attributes": {"shape": 3}}', 'the value of "shape" is a text; got int'),
        ('{"attributes": {"shape": "square"}}', 'unknown shape "square".*allowed: round-like'),
        ('{"attributes": {"colour": "red"}}', 'unknown attribute "colour"'),
        (
            '{"attributes": {"surface": "ill-defined", "margin": "ill-defined"}}',
            '"surface characteristics" is stated twice',
        ),
        ('{"lesion type": "wart"}', 'unknown lesion type "wart".*allowed: gallstone'),
        ('{"lesion type": 5}', 'the value of "lesion type" is a text; got int'),
        ('{"size_mm": [1, 2]}', "three numbers above 0"),
        ('{"size_mm": [1, 2, NaN]}', "three numbers above 0"),
        ('{"size_mm": [1, 2, true]}', "three numbers above 0"),
        ('{"size_mm": [1, 2, -3]}', "three numbers above 0"),
        ('{"size_mm": [1, 2, 1e999]}', "three numbers above 0"),
        ('{"size_mm": "12"}', "three numbers above 0"),
        ('{"size_mm": [1, 2, 3], "attributes": {"size": "4"}}', "the size is stated twice"),
    ],
)
def test_bad_report_files(text, message):
    with pytest.raises(ReportError, match=message) as caught:
        LesionReport.from_json(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("organ", "location", "rule"),
    [
        ("liver", "inside organ", "inside parenchymal organ"),
        ("right kidney", "organ margin", "parenchymal organ margin"),
        ("colon", "organ margin", "hollow organ margin"),
        ("gallbladder", "inside organ", "inside hollow organ"),
    ],
)
def test_region_rules(organ, location, rule):
    report = LesionReport(organ=organ, lesion_location=location)
    assert region_rule(report) == rule
    assert region_rule(LesionReport(organ_type=vocabulary().organ(organ).organ_type, lesion_location=location)) == rule


def test_region_rule_needs_location_and_organ():
    with pytest.raises(
        ReportError, match='does not state "lesion location"; set it to one of: inside organ, organ marg'
    ):
        region_rule(LesionReport(organ="liver"))
    with pytest.raises(ReportError, match='neither "organ" nor "organ type"'):
        region_rule(LesionReport(lesion_location="inside organ"))


def test_describe_is_one_sentence_that_names_everything(generator):
    for kind in all_lesion_types():
        report = draw_report(kind, generator)
        sentence = report.describe()
        assert sentence.count(".") == 1
        assert sentence.endswith(".")
        unsaid = {"organ type", "lesion location"}
        assert all(text in sentence for name in FIELDS if name not in unsaid for text in report.stated(name))
    assert LesionReport(size_mm=(8, 9, 9)).describe() == "An 8x9x9 mm lesion."
    assert LesionReport(size_mm=(18, 9, 9)).describe() == "An 18x9x9 mm lesion."
    assert (
        LesionReport(organ="colon", lesion_location="organ margin").describe() == "A lesion at the margin of the colon."
    )


def test_report_file_is_plain_json(generator):
    data = json.loads(draw_report(all_lesion_types()[0], np.random.default_rng(1)).to_json())
    assert set(data) == {"lesion type", "attributes", "size_mm"}
    assert "size" not in data["attributes"]
