"""Organ maps: tables, numbering rules, masks by name, groups, and what is wrong with a map."""

from __future__ import annotations

import json

import numpy as np
import pytest

from LesionDiffusionLib.errors import LabelError, ReportError
from LesionDiffusionLib.geometry import Geometry
from LesionDiffusionLib.labels import OrganMap, load_table, organ_map
from LesionDiffusionLib.volume import Volume

V1, V2 = load_table("totalseg_v1"), load_table("totalseg_v2")


def label_volume(numbers, dtype=np.uint8):
    """A volume whose voxels are the given numbers, in order, on odd-sized slices and then 0."""
    array = np.zeros((3, 5, 7), dtype)
    array.ravel(order="F")[:] = 0
    flat = np.zeros(array.size, dtype)
    flat[: len(numbers)] = numbers
    return Volume(flat.reshape(array.shape, order="F"), Geometry(array.shape, np.eye(4)))


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_tables_are_complete_and_differ():
    assert list(V1) == list(range(1, 105))
    assert list(V2) == list(range(1, 118))
    assert len(set(V1.values())) == 104
    assert len(set(V2.values())) == 117
    # released-model 8.3, corners of every run of numbers
    facts = {2: "kidney_right", 17: "lung_lower_lobe_right", 18: "vertebrae_L5", 22: "vertebrae_L1", 34: "vertebrae_T1"}
    facts |= {35: "vertebrae_C7", 41: "vertebrae_C1", 42: "esophagus", 50: "brain", 57: "colon", 58: "rib_left_1"}
    facts |= {69: "rib_left_12", 70: "rib_right_1", 81: "rib_right_12", 100: "autochthon_left", 104: "urinary_bladder"}
    assert {number: V1[number] for number in facts} == facts
    assert (V2[7], V2[20], V2[21], V2[90], V2[117]) == (
        "pancreas",
        "colon",
        "urinary_bladder",
        "brain",
        "costal_cartilages",
    )
    assert sum(V1[n] != V2[n] for n in V1) > 90  # why a numbering is never guessed


def test_custom_table_may_use_plain_organ_names(tmp_path):
    path = write(
        tmp_path / "mine.json",
        {"source": "me", "0": "background", "5": "Liver", "7": "Right kidney", "9": "my-thing x"},
    )
    assert load_table(path) == load_table(str(path)) == {5: "liver", 7: "kidney_right", 9: "my_thing_x"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as a JSON object"),
        ("[1]", "cannot be read as a JSON object"),
        ({"five": "liver"}, "cannot be read as a JSON object"),
        ({"5": 7}, "expected whole numbers 0..65535 with names, got 5: 7"),
        ({"5": " "}, "expected whole numbers 0..65535 with names"),
        ({"-5": "liver"}, "expected whole numbers 0..65535 with names, got -5"),
        ({"source": "me", "0": "air"}, "names no structure"),
    ],
)
def test_bad_tables(tmp_path, content, message):
    with pytest.raises(LabelError, match=message):
        load_table(write(tmp_path / "mine.json", content))


@pytest.mark.parametrize("name", ["totalseg", "absent.json", "organs.nii.gz"])
def test_unknown_numbering_lists_the_choices(name):
    with pytest.raises(LabelError, match=f'unknown numbering "{name}"; give totalseg_v1, totalseg_v2 or an existing'):
        load_table(name)


def test_masks_by_organ_synonym_and_structure():
    organs = OrganMap(label_volume([5, 5, 2, 3, 3, 7]), V1)
    array = organs.volume.array
    for names, numbers in [
        ("liver", [5]),
        ("renal", [2, 3]),
        ("aorta", [7]),
        (["liver", "kidney_left"], [5, 3]),
        ([], []),
    ]:
        mask = organs.mask(names)
        assert mask.dtype == bool
        assert mask.shape == array.shape
        np.testing.assert_array_equal(mask, np.isin(array, numbers))
    assert not organs.mask("brain").any()
    assert organs.voxel_count("kidney") == 3


def test_what_is_present():
    organs = OrganMap(label_volume([57, 2, 13, 7]), V1)
    assert organs.names_present() == ["kidney_right", "aorta", "lung_upper_lobe_left", "colon"]
    assert set(organs.organs_present()) == {
        "right kidney",
        "kidney",
        "colon",
        "left upper lung lobe",
        "left lung",
        "lung",
    }


def test_required_organ():
    organs = OrganMap(label_volume([5, 6]), V1)
    assert organs.require("liver").sum() == 1
    with pytest.raises(LabelError, match='no voxel of "spleen"; organs present: liver, stomach'):
        organs.require("spleen")
    with pytest.raises(LabelError, match="organs present: none that the vocabulary knows"):
        OrganMap(label_volume([7]), V1).require("spleen")
    with pytest.raises(LabelError, match='unknown organ or structure "livver"; closest: liver'):
        organs.mask(["livver"])


def test_a_map_that_labels_groups_as_a_whole():
    organs = OrganMap(label_volume([1, 1, 2]), {1: "kidney", 2: "left_lung"})
    assert set(organs.organs_present()) == {"kidney", "left lung", "lung"}
    assert organs.mask("kidney").sum() == 2
    assert organs.resolve_organ("kidney", np.random.default_rng(0)) == "kidney"


def test_group_resolves_by_volume(generator):
    organs = OrganMap(label_volume([2] * 30 + [3] * 10), V1)
    drawn = [organs.resolve_organ("kidney", generator) for _ in range(1000)]
    assert drawn.count("right kidney") / 1000 == pytest.approx(0.75, abs=0.06)
    only_left = OrganMap(label_volume([3]), V1)
    assert {only_left.resolve_organ("kidney", generator) for _ in range(20)} == {"left kidney"}
    assert only_left.resolve_organ("left renal", generator) == "left kidney"


def test_resolving_draws_one_number_whatever_the_term():
    states = []
    for term in ("liver", "kidney", "left kidney"):
        generator = np.random.default_rng(0)
        OrganMap(label_volume([5, 2, 3]), V1).resolve_organ(term, generator)
        states.append(generator.random())
    assert len(set(states)) == 1


def test_unresolvable_organs(generator):
    organs = OrganMap(label_volume([5]), V1)
    with pytest.raises(LabelError, match='no voxel of "kidney"; organs present: liver'):
        organs.resolve_organ("kidney", generator)
    with pytest.raises(ReportError, match='unknown organ "aorta"'):
        organs.resolve_organ("aorta", generator)


def test_numbering_comes_from_header_or_user(tmp_path):
    volume = label_volume([7])
    assert organ_map(volume, {7: "pancreas"}).organs_present() == ["pancreas"]
    assert organ_map(volume, None, "totalseg_v2").organs_present() == ["pancreas"]
    assert organ_map(volume, {}, write(tmp_path / "a.json", {"7": "liver"})).organs_present() == ["liver"]
    assert organ_map(volume, V2, "totalseg_v2").organs_present() == ["pancreas"]
    with pytest.raises(
        LabelError, match=r"header does not say .* choose --labels totalseg_v1, totalseg_v2 or FILE.json"
    ):
        organ_map(volume)
    with pytest.raises(
        LabelError, match='header of the organ map says 7 = "pancreas", --labels totalseg_v1 says "aorta"'
    ):
        organ_map(volume, V2, "totalseg_v1")


def test_agreement_is_asked_only_of_numbers_in_the_map():
    assert organ_map(label_volume([5]), V2, "totalseg_v1").organs_present() == ["liver"]


def test_header_names_may_be_plain_english():
    organs = organ_map(label_volume([1, 2]), {1: "Right Kidney", 2: "upper lobe of left lung"})
    assert {"right kidney", "left upper lung lobe"} <= set(organs.organs_present())


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (label_volume([], np.uint8), "the organ map is empty: every voxel is 0"),
        (label_volume([1.5], np.float32), "holds whole numbers, got values of type float32"),
        (label_volume([-1], np.int16), r"lie in 0..65535, got -1..0"),
        (label_volume([70000], np.int32), r"lie in 0..65535, got 0..70000"),
    ],
)
def test_bad_maps(volume, message):
    with pytest.raises(LabelError, match=message):
        organ_map(volume, None, "totalseg_v1")


def test_unknown_numbers_are_told():
    assert OrganMap(label_volume([5]), V1).warnings() == []
    assert OrganMap(label_volume([5, 105, 117]), V1).warnings() == [
        "the organ map holds 2 numbers that its label table lacks: 105, 117"
    ]
    many = OrganMap(label_volume(list(range(1, 20))), {1: "liver"}).warnings()[0]
    assert "18 numbers" in many
    assert many.endswith("11, ...")


def test_counts_do_not_depend_on_memory_order(generator):
    array = generator.integers(0, 105, (11, 7, 5)).astype(np.uint8)
    geometry = Geometry(array.shape, np.eye(4))
    views = [array, np.asfortranarray(array), np.repeat(array, 2, axis=0)[::2], array.astype(np.uint64)]
    counts = [[OrganMap(Volume(view, geometry), V1).voxel_count(name) for name in V1.values()] for view in views]
    assert all(found == [int((array == n).sum()) for n in V1] for found in counts)
    np.testing.assert_array_equal(OrganMap(Volume(views[-1], geometry), V1).mask("liver"), array == 5)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "numbering", "present"),
    [
        ("torso/organs.nii.gz", "totalseg_v1", {"liver", "kidney", "urinary bladder", "colon", "left lung"}),
        ("torso_dicom/organs_v2.nii.gz", "totalseg_v2", {"liver", "pancreas", "stomach", "colon", "spleen"}),
    ],
)
def test_real_maps(shared, file, numbering, present):
    sitk = pytest.importorskip("SimpleITK")
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(shared / "data" / file))).T
    organs = organ_map(Volume(array, Geometry(array.shape, np.eye(4))), None, numbering)
    assert present <= set(organs.organs_present())
    assert organs.warnings() == []
