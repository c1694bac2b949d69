"""The authors' report format: read, written, and turned into the strings of their networks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from LesionDiffusionLib.errors import ReportError
from LesionDiffusionLib.lesion_types import all_lesion_types, draw_report
from LesionDiffusionLib.released_report import (
    CAVITIES,
    read_type_json,
    released_attributes,
    released_image_strings,
    released_mask_strings,
    write_type_json,
)
from LesionDiffusionLib.report import LesionReport, region_rule

# In the form of an annotated training report (released-model 5.7).
ANNOTATED = {
    "enhancement status": "enhanced CT,",
    "lesion location": "2",
    "shape": "round-like,protrusion into the lumen,",
    "size": "[[28 29 26]] pixel,",
    "density": "low density lesion,",
    "density variations": "heterogeneous,",
    "CT value": "Mean density of the lesion region is approximately 57 HU,",
    "surface characteristics": "ill-defined margin,",
    "relationship with adjacent organs": "no close relationship with surrounding organs,",
    "specific features": "presence of increased density areas,presence of decreased density areas,",
}


def type_json(attributes, key="2"):
    return json.dumps({key: ["a", "", attributes, [[[60, 90, 50]], [[28, 29, 26]]]]})


def test_annotated_report_is_read():
    (entry,) = read_type_json(type_json(ANNOTATED))
    assert entry.report == LesionReport(
        organ="right kidney",
        size_mm=(52, 58, 56),  # half extents (z, y, x)
        shape="round-like",
        relationship="no close relationship with surrounding organs",
        surface="ill-defined margin",
        specific_features=("presence of increased density areas", "presence of decreased density areas"),
        enhancement="enhanced CT",
        density="hypodense lesion",
        density_variations="heterogeneous",
    )
    assert entry.warnings == ('shape: of "round-like,protrusion into the lumen" only "round-like" was read',)
    assert json.dumps({str(entry.class_id): entry.raw}) == type_json(ANNOTATED)  # CT value and coordinates are kept


def test_entry_strings_keep_the_files_spelling():
    (entry,) = read_type_json(type_json(ANNOTATED))
    features = "presence of increased density areas,presence of decreased density areas,"
    relationship = "no close relationship with surrounding organs,"
    shape = "round-like,protrusion into the lumen,"
    assert released_mask_strings(entry, "within the parenchymal organ") == [
        "enhanced CT,", "kidney right", shape, "ill-defined margin,", relationship, features,
        "within the parenchymal organ,",
    ]  # fmt: skip
    expected = [
        "enhanced CT,", "kidney right", shape, "low density lesion,", "heterogeneous,", "57.0 HU,",
        "ill-defined margin,", relationship, features,
    ]  # fmt: skip
    assert released_image_strings(entry) == expected
    assert released_image_strings(entry, -12) == [s if s != "57.0 HU," else "-12.0 HU," for s in expected]


def test_empty_features_are_unheard_by_lmnet_and_an_empty_string_for_linet():
    (entry,) = read_type_json(type_json(ANNOTATED | {"specific features": ""}))
    assert len(released_mask_strings(entry, "wall thickening")) == 6
    assert released_image_strings(entry)[-1] == ""


def test_ct_value_takes_its_place():
    without = {name: text for name, text in ANNOTATED.items() if name != "CT value"}
    (entry,) = read_type_json(type_json(without))
    assert released_image_strings(entry, 57) == released_image_strings(read_type_json(type_json(ANNOTATED))[0])
    (odd,) = read_type_json(type_json(ANNOTATED | {"CT value": "57.0 HU,"}))
    assert "57.0 HU," in released_image_strings(odd)


@pytest.mark.parametrize("kind", all_lesion_types(), ids=lambda kind: kind.name)
def test_written_reports_read_back(kind, generator):
    for _ in range(10):
        report = draw_report(kind, generator)
        text = write_type_json(report, (100.4, 90, 80))
        (entry,) = read_type_json(text)
        assert entry.warnings == ()
        assert entry.report == LesionReport(**{**vars(report), "lesion_type": None})
        shape, empty, attributes, coordinates = next(iter(json.loads(text).values()))
        assert (shape, empty) == (attributes["shape"], "")
        assert coordinates == [[[100, 90, 80]], [list(report.size_mm)]]
        assert attributes["cavity"] in CAVITIES.values()  # without comma: the box script compares the whole string
        assert released_mask_strings(entry) == released_mask_strings(report)
        assert released_image_strings(entry, 40) == released_image_strings(report, 40)


def test_strings_of_a_report():
    report = LesionReport(
        organ="left upper lung lobe",
        lesion_location="inside organ",
        shape="irregular",
        surface="ill-defined margin",
        specific_features=("spiculated margins",),
        density="isodense soft tissue mass",
        enhancement="non-contrast CT",
    )
    assert released_mask_strings(report) == [
        "non-contrast CT,", "lung upper lobe left", "irregular,", "ill-defined margin,", "spiculated margins,",
        "within the parenchymal organ,",
    ]  # fmt: skip
    assert released_image_strings(report, 30) == [
        "non-contrast CT,", "lung upper lobe left", "irregular,", "isodense soft tissue mass,", "30.0 HU,",
        "ill-defined margin,", "spiculated margins,",
    ]  # fmt: skip
    assert list(released_attributes(report))[:2] == ["enhancement status", "lesion location"]


@pytest.mark.parametrize(
    ("organ", "location", "cavity"),
    [
        ("gallbladder", "inside organ", "within the lumen of a hollow organ,"),
        ("colon", "organ margin", "wall thickening,"),
        ("liver", "inside organ", "within the parenchymal organ,"),
        ("pancreas", "organ margin", "protruding from the parenchymal organ,"),
    ],
)
def test_cavity_follows_the_report(organ, location, cavity):
    report = LesionReport(organ=organ, lesion_location=location)
    assert released_mask_strings(report)[-1] == cavity
    assert released_mask_strings(report, "wall thickening,")[-1] == "wall thickening,"
    (entry,) = read_type_json(write_type_json(LesionReport(**{**vars(report), "size_mm": (5.0, 6.0, 7.0)}), (9, 9, 9)))
    assert region_rule(entry.report) == region_rule(report)


def test_what_cannot_be_read_is_told():
    odd = {
        "shape": "blob,",
        "size": "[[1 2]] pixel",
        "cavity": "somewhere",
        "specific features": "stone,moss,",
        "density": 5,
    }
    (entry,) = read_type_json(type_json(odd, "55"))
    assert entry.report == LesionReport(specific_features=("stone",))
    assert [warning.split(":")[0] for warning in entry.warnings] == [
        "organ", "shape", "density", "specific features", "cavity", "size",
    ]  # fmt: skip
    (two,) = read_type_json(type_json({"size": "[[10, 12, 14], [3, 3, 3]] pixel", "cavity": "wall thickening"}))
    assert two.report.size_mm == (10, 12, 14)
    assert two.warnings == ('size: of "[[10, 12, 14], [3, 3, 3]] pixel" only the first triple was read',)


def test_several_organs_keep_the_files_order():
    text = json.dumps({key: ["", "", {"shape": "irregular"}] for key in ("13", "14", "5")})
    assert [entry.report.organ for entry in read_type_json(text)] == [
        "left upper lung lobe", "left lower lung lobe", "liver",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the type file is not JSON"),
        ("[]", "the type file is a JSON object, got list"),
        (" " * 1_000_001, "the type file has at most 1000000 bytes"),
        ('{"105": []}', '"105" is no class number of TotalSegmentator 1'),
        ('{"00000000599": []}', '"00000000599" is no class number'),
        ('{"liver": []}', '"liver" is no class number'),
        ('{"' + "9" * 5000 + '": []}', "is no class number"),
        ('{"5": {}}', 'entry "5" is not a list'),
        ('{"5": ["", ""]}', 'entry "5" is not a list'),
        ('{"5": ["", "", []]}', 'entry "5" is not a list'),
    ],
)
def test_bad_type_files(text, message):
    with pytest.raises(ReportError, match=message):
        read_type_json(text)


def test_what_the_released_networks_cannot_hear():
    lung = LesionReport(organ="left lung", lesion_location="inside organ")
    with pytest.raises(ReportError, match='not "left lung"; choose one of: left upper lung lobe, left lower lung lobe'):
        released_mask_strings(lung)
    with pytest.raises(ReportError, match='does not state "organ"'):
        released_image_strings(LesionReport())
    with pytest.raises(ReportError, match='unknown cavity "hole"; allowed: within the lumen'):
        released_mask_strings(lung, "hole")
    with pytest.raises(ReportError, match='needs the "size"'):
        write_type_json(LesionReport(organ="liver", lesion_location="inside organ"), (1, 2, 3))
    with pytest.raises(ReportError, match='does not state "lesion location"'):
        write_type_json(LesionReport(organ="liver", size_mm=(1.0, 2.0, 3.0)), (1, 2, 3))


@pytest.mark.shared
def test_pipeline_fixture(shared):
    """All strings of the recorded run, except the cavity: the release takes it from the path, we from the report."""
    folder = shared / "reference" / "parity" / "pipeline" / "liver"
    (entry,) = read_type_json((folder / "type.json").read_text())
    for attempt in json.loads((folder / "expected.json").read_text())["lmnet_texts"]:
        names, texts = zip(*attempt, strict=True)
        assert names[-1] == "cavity"
        assert released_mask_strings(entry, texts[-1]) == list(texts)
        assert released_mask_strings(entry, "within the parenchymal organ") == [
            *texts[:-1],
            "within the parenchymal organ,",
        ]


@pytest.mark.shared
def test_released_demo(shared):
    (entry,) = read_type_json((shared / "data/released_demo/Liver_cancer/type.json").read_bytes())
    assert entry.warnings == ()
    assert (entry.report.organ, entry.report.density) == ("liver", "hypodense lesion")
    sitk = pytest.importorskip("SimpleITK")
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(shared / "data/released_demo/Liver_cancer/label.nii.gz"))) == 2
    extents_zyx = [np.ptp(np.flatnonzero(label.any(axis))) + 1 for axis in ((1, 2), (0, 2), (0, 1))]
    # 1 mm grid; the lesion is cut by the top of the volume, so its height is not compared
    assert entry.report.size_mm[:2] == pytest.approx(extents_zyx[:0:-1], rel=0.2)
