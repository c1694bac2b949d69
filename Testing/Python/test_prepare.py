"""`lesiondiffusion prepare`: public layouts, reports read or measured, splits, and what is left out and why."""

from __future__ import annotations

import json
import os
import re
import stat
import sys

import numpy as np
import pytest
from training_cases import LESION_HU, prepared_dataset, with_lesion, write_dataset

from LesionDiffusionLib.adapters import totalsegmentator
from LesionDiffusionLib.adapters.totalsegmentator import segment_organs
from LesionDiffusionLib.datasets import preparation
from LesionDiffusionLib.datasets.layouts import kits23, released, table
from LesionDiffusionLib.datasets.preparation import Preparation, held_out, prepare
from LesionDiffusionLib.errors import DatasetError, OutputError
from LesionDiffusionLib.io import write_labels
from LesionDiffusionLib.scripts.cli import main
from LesionDiffusionLib.training.mirroring import can_mirror, mirrored_labels, mirrored_words
from LesionDiffusionLib.training.prepared import PreparedCases, read_manifest
from LesionDiffusionLib.training.sources import PreparedMasks, image_window
from LesionDiffusionLib.windowing import WindowRule


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepared_dataset(tmp_path_factory.mktemp("dataset"), 5)


def test_measured_reports_tell_what_was_put_in(prepared):
    manifest = read_manifest(prepared)
    assert len(manifest["cases"]) == 5
    for n, entry in enumerate(manifest["cases"]):
        _, _, mask, geometry = with_lesion(
            (20 + 3 * n, 20 + n, 27 - n), (6 - n % 2, 5 + n % 2, 4), LESION_HU[("hypodense", "hyperdense")[n % 2]], n
        )
        used = np.argwhere(mask)
        extent_mm = (np.ptp(used, axis=0) + 1) * geometry.spacing_mm
        assert entry["size_mm"] == pytest.approx(extent_mm, abs=0.06)
        words = entry["attributes"]
        assert words["organ"] == "liver"
        assert words["density"] == ("hypoattenuating fluid-like lesion", "hyperdense lesion")[n % 2]
        assert words["density variations"] == "homogeneous"
        assert words["shape"] == "round-like"
        assert entry["report"] == "measured"
        assert {"size_mm", "density", "shape", "lesion_location"} <= set(entry["measured"])
        assert "enhancement status" not in words, "nobody knows, so nothing is stated"


def test_what_a_dataset_states_is_not_called_measured(tmp_path):
    path = write_dataset(tmp_path / "raw", 1)
    path.write_text(path.read_text().rstrip("\n") + "enhanced CT\n")
    (entry,) = prepare("csv", table(path), Preparation(tmp_path / "out"))["cases"]
    assert entry["attributes"]["enhancement status"] == "enhanced CT"
    assert "enhancement" not in entry["measured"]
    assert "density" in entry["measured"]


def test_the_split_is_by_patient_and_four_to_one():
    patients = {f"p{n}" for n in range(100)}
    test = held_out(patients, 0)
    assert len(test) == 20
    assert held_out(patients, 0) == test != held_out(patients, 1)
    assert held_out({"only"}, 0) == set(), "one patient is for training"


def test_prepared_windows_are_those_of_synthesis(prepared):
    cases = PreparedCases(prepared)
    assert len(cases) == 4
    rule = WindowRule((16, 16, 16), 0.5, 8.0, 8)
    labels, organ, box, mask = PreparedMasks(cases, rule, "report").windows(0)
    assert set(np.unique(labels)) <= {0, 5, 104}
    assert organ[box].mean() > 0.95, "the lesion lies in its organ"
    assert mask[~box].astype(float).sum() < 0.3 * mask.astype(float).sum()
    hu, lesion = image_window(cases[0], WindowRule((24, 24, 24), 0.5, 8.0, 12))
    assert hu.shape == lesion.shape == (24, 24, 24)
    assert abs(np.median(hu[lesion]) - np.median(hu[~lesion])) > 25


def test_a_mirrored_case_has_its_words_and_numbers_mirrored():
    assert mirrored_words("right upper lung lobe") == "left upper lung lobe"
    assert mirrored_words("kidney_left, left") == "kidney_right, right"
    assert mirrored_words("Right kidney, LEFT lung") == "Left kidney, RIGHT lung"
    assert mirrored_words("bright leftover") == "bright leftover"
    labels = np.zeros((1, 1, 4), np.uint8)
    labels[0, 0, 0], labels[0, 0, 1], labels[0, 0, 3] = 2, 5, 3  # right kidney, liver, left kidney
    assert mirrored_labels(labels)[0, 0].tolist() == [2, 0, 5, 3]
    assert can_mirror(labels)
    assert not can_mirror(np.array([5, 16])), "there is no left middle lobe"


def test_bad_scans_are_left_out_with_their_reasons(tmp_path):
    path = write_dataset(tmp_path / "raw", 5)
    folder = path.parent
    (folder / "ct0.nii.gz").write_bytes(b"damaged")
    _, _, mask, geometry = with_lesion((20, 20, 27), (6, 5, 4), 20)
    write_labels(np.zeros_like(mask, np.uint8), geometry, folder / "label1.nii.gz")
    moved = geometry.affine_ras.copy()
    moved[:3, 3] += 500
    write_labels(mask.astype(np.uint8), type(geometry)(geometry.shape, moved), folder / "label2.nii.gz")
    small = np.zeros_like(mask, np.uint8)
    small[20:22, 20:22, 27] = 1
    write_labels(small, geometry, folder / "label3.nii.gz")
    manifest = prepare("csv", table(path), Preparation(tmp_path / "out"))
    assert [case["scan"] for case in manifest["cases"]] == ["s4"]
    reasons = {entry["scan"]: entry["reason"] for entry in manifest["left_out"]}
    assert set(reasons) == {"s0", "s1", "s2", "s3"}
    assert "ct0.nii.gz" in reasons["s0"]
    assert "no lesion: no voxel has the label 1" in reasons["s1"]
    assert "does not lie where the CT lies" in reasons["s2"]
    assert "lesion of 4 voxels with label 1: fewer than 30" in reasons["s3"]
    assert sorted(p.name for p in (tmp_path / "out" / "cases").iterdir()) == ["s4_0.npz"]


def test_a_bug_costs_its_scan_alone(tmp_path, monkeypatch):
    seen = []

    def organs_of(scan, *args):
        seen.append(scan.name)
        if scan.name == "s1":
            raise RuntimeError("a bug")
        return real(scan, *args)

    real = preparation.organs_of
    monkeypatch.setattr(preparation, "organs_of", organs_of)
    manifest = prepare("csv", table(write_dataset(tmp_path / "raw", 3)), Preparation(tmp_path / "out"))
    assert seen == ["s0", "s1", "s2"]
    assert {case["scan"] for case in manifest["cases"]} == {"s0", "s2"}
    assert manifest["left_out"] == [{"scan": "s1", "reason": "unexpected RuntimeError: a bug"}]


def test_a_case_that_was_copied_by_half_is_told(tmp_path):
    prepare("csv", table(write_dataset(tmp_path / "raw", 2)), Preparation(tmp_path / "out"))
    cases = PreparedCases(tmp_path / "out")
    for path in (tmp_path / "out" / "cases").iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DatasetError, match=r"cannot read the prepared case .*; prepare the dataset again"):
        cases[0]


def test_a_dataset_without_organ_map_is_left_out(tmp_path):
    _, _, mask, geometry = with_lesion((20, 20, 27), (6, 5, 4), 20)
    write_labels(mask.astype(np.uint8), geometry, tmp_path / "x.nii.gz")
    (tmp_path / "t.csv").write_text("label,organ\nx.nii.gz,lung\n")
    with pytest.raises(DatasetError, match="none of 1 scans could be used: x: no organ map: give --organs FOLDER"):
        prepare("csv", table(tmp_path / "t.csv"), Preparation(tmp_path / "out"))
    (tmp_path / "t.csv").write_text("label,organ,organ_values\nx.nii.gz,lung,1\n")
    with pytest.raises(DatasetError, match="does not tell the 5 parts of the lung apart"):
        prepare("csv", table(tmp_path / "t.csv"), Preparation(tmp_path / "out2"))


def test_a_type_file_wins_and_is_completed_by_measuring(tmp_path):
    hu, organs, mask, geometry = with_lesion((24, 22, 27), (6, 5, 4), 20)
    folder = tmp_path / "Liver" / "cancer" / "7"
    folder.mkdir(parents=True)
    write_labels(hu.astype(np.int16), geometry, folder / "img.nii.gz")
    write_labels(np.where(mask, 2, organs.volume.array == 5).astype(np.uint8), geometry, folder / "label.nii.gz")
    write_labels(organs.volume.array, geometry, folder / "seg.nii.gz")
    attributes = {"shape": "irregular,", "density": "low density lesion,", "enhancement status": "enhanced CT,"}
    attributes |= {"lesion location": "5", "CT value": "Mean density is approximately 21 HU,"}
    (folder / "type.json").write_text(json.dumps({"5": ["irregular,", "", attributes, []]}))
    for kind in ("img", "label", "seg"):
        (tmp_path / f"{kind}_list.txt").write_text(f"Liver/cancer/7/{kind}.nii.gz\n")
    (tmp_path / "type_list.txt").write_text("Liver/cancer/7/type.json\n")
    (entry,) = prepare("released", released(tmp_path), Preparation(tmp_path / "out"))["cases"]
    assert entry["attributes"]["shape"] == "irregular", "as read, though the mask is round"
    assert entry["attributes"]["density"] == "hypodense lesion"
    assert entry["attributes"]["density variations"] == "homogeneous", "measured: the file says nothing"
    assert "shape" not in entry["measured"]
    assert "density_variations" in entry["measured"]
    strings = PreparedCases(tmp_path / "out")[0].strings
    assert strings["released"]["mask"][-1] == "within the parenchymal organ,"
    assert "low density lesion," in strings["released"]["image"]
    assert "hypodense lesion" in strings["report"]["image"]


@pytest.mark.parametrize(
    ("kind", "enhancement", "stone"),
    [("liver cancer", "enhanced CT", False), ("", "enhanced CT", False), ("", "non-contrast CT", True)],
)
def test_type_and_contrast_decide_what_is_a_stone(tmp_path, kind, enhancement, stone):
    hu, organs, mask, geometry = with_lesion((24, 22, 27), (5, 4, 4), 180)
    write_labels(hu.astype(np.int16), geometry, tmp_path / "ct.nii.gz")
    write_labels(mask.astype(np.uint8), geometry, tmp_path / "label.nii.gz")
    write_labels(organs.volume.array, geometry, tmp_path / "organs.nii.gz")
    (tmp_path / "t.csv").write_text(
        "label,image,lesion_type,organs,numbering,enhancement\n"
        f"label.nii.gz,ct.nii.gz,{kind},organs.nii.gz,totalseg_v1,{enhancement}\n"
    )
    (entry,) = prepare("csv", table(tmp_path / "t.csv"), Preparation(tmp_path / "out"))["cases"]
    assert entry["attributes"].get("specific features") == ("stone" if stone else None)
    assert entry["attributes"]["enhancement status"] == enhancement


@pytest.mark.parametrize(("number", "told"), [("5", 1), ("7", 0), ("10", 0)])
def test_an_entry_of_a_type_file_tells_of_one_lesion_of_its_organ(tmp_path, number, told):
    """Two lesions in one liver (5); the aorta (7) is no organ of ours, and the pancreas (10) has none."""
    hu, organs, large, geometry = with_lesion((24, 22, 27), (6, 5, 4), 20)
    small = np.zeros_like(large)
    small[20:24, 12:16, 25:29] = True
    small &= (organs.volume.array == 5) & ~large
    assert 30 <= small.sum() < large.sum()
    write_labels(hu.astype(np.int16), geometry, tmp_path / "img.nii.gz")
    found = np.where(large | small, 2, organs.volume.array == 5)
    write_labels(found.astype(np.uint8), geometry, tmp_path / "label.nii.gz")
    write_labels(organs.volume.array, geometry, tmp_path / "seg.nii.gz")
    attributes = {"shape": "irregular,", "size": "99x99x99 mm", "lesion location": number}
    entries = {number: ["irregular,", "", attributes, []]}
    (tmp_path / "type.json").write_text(json.dumps(entries))
    for kind, end in (("img", "nii.gz"), ("label", "nii.gz"), ("seg", "nii.gz"), ("type", "json")):
        (tmp_path / f"{kind}_list.txt").write_text(f"{kind}.{end}\n")
    cases = prepare("released", released(tmp_path), Preparation(tmp_path / "out"))["cases"]
    assert [case["report"] != "measured" for case in cases] == [n < told for n in range(2)]
    shapes = [case["attributes"].get("shape") for case in cases]
    assert shapes == ["irregular" if told else "round-like", None], "read, measured, and too small to be measured"
    sizes = [case["size_mm"] for case in cases]
    assert sizes[0] != sizes[1]
    for n, case in enumerate(cases):
        report = PreparedCases(tmp_path / "out")[n].report
        assert report.size_mm == pytest.approx(case["size_mm"], abs=0.01), "each lesion's own, whatever the file says"


def test_masks_alone_serve_lmnet_and_say_so(tmp_path):
    """Label maps of both kidneys without CT: sides by position, and no density is invented."""
    _, _, _, geometry = with_lesion((24, 22, 27), (6, 5, 4), 20)
    labels = np.zeros(geometry.shape, np.uint8)
    labels[4:14, 10:30, 5:30], labels[34:44, 10:30, 5:30] = 1, 1  # i grows to the left
    labels[6:11, 14:20, 10:16], labels[36:41, 14:20, 10:16] = 2, 3
    write_labels(labels, geometry, tmp_path / "case_00009.nii.gz")
    manifest = prepare("kits23", kits23(tmp_path), Preparation(tmp_path / "out"))
    told = {(case["lesion_type"], case["organ"]) for case in manifest["cases"]}
    assert told == {("kidney cancer", "right kidney"), ("kidney cyst", "left kidney")}
    words = manifest["cases"][0]["attributes"]
    assert not {"density", "enhancement status", "relationship with surrounding organs"} & set(words)
    case = PreparedCases(tmp_path / "out")[0]
    with pytest.raises(DatasetError, match=r"2 left out: no CT, only masks \(good for LMNet\)"):
        PreparedCases(tmp_path / "out", need_ct=True)
    with pytest.raises(DatasetError, match="has no CT, only masks: good for LMNet"):
        image_window(case, WindowRule((24, 24, 24), 0.5, 8.0, 12))


def fake_totalsegmentator(folder, body):
    """A program of that name on a search path of its own."""
    program = folder / "TotalSegmentator"
    program.write_text(f"#!{sys.executable}\nimport sys, shutil\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)


@pytest.mark.skipif(os.name == "nt", reason="SKIPPED, not passed: the fake is a POSIX script")
def test_totalsegmentator_is_found_in_an_environment_that_is_not_activated(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(totalsegmentator.sysconfig, "get_path", lambda name: str(tmp_path / name))
    (tmp_path / "scripts").mkdir()
    fake_totalsegmentator(tmp_path / "scripts", "pass")
    assert totalsegmentator.find_program() == str(tmp_path / "scripts" / "TotalSegmentator")


@pytest.mark.skipif(os.name == "nt", reason="SKIPPED, not passed: the fake is a POSIX script")
def test_totalsegmentator_makes_missing_organ_maps(tmp_path, monkeypatch, capsys):
    path = write_dataset(tmp_path / "raw", 2)
    lines = [line.split(",") for line in path.read_text().splitlines()]
    keep = [n for n, name in enumerate(lines[0]) if name not in ("organs", "numbering")]
    path.write_text("\n".join(",".join(line[n] for n in keep) for line in lines) + "\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    arguments = ["prepare", "--layout", "csv", "--data", str(path), "--totalsegmentator", "--labels", "totalseg_v1"]
    assert main([*arguments, "--out", str(tmp_path / "none")]) == 2
    assert "TotalSegmentator is not installed: pip install TotalSegmentator" in capsys.readouterr().err
    (tmp_path / "bin").mkdir()
    fake_totalsegmentator(tmp_path / "bin", "print('no license', file=sys.stderr); sys.exit(3)")
    with pytest.raises(DatasetError, match=r"made no organ map of .*ct0.* \(exit code 3\): no license"):
        segment_organs(tmp_path / "raw" / "ct0.nii.gz", tmp_path / "o.nii.gz")
    source = tmp_path / "raw" / "organs0.nii.gz"
    fake_totalsegmentator(tmp_path / "bin", f"shutil.copy({str(source)!r}, sys.argv[sys.argv.index('-o') + 1])")
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert sorted(p.name for p in (tmp_path / "out" / "organs").iterdir()) == ["s0.nii.gz", "s1.nii.gz"]
    told = capsys.readouterr().out
    assert "2 cases (2 train, 0 test)" in told
    assert read_manifest(tmp_path / "out")["made_by"].startswith("lesiondiffusion prepare --layout csv")


def test_a_taken_folder_and_damaged_cases_are_refused(prepared, tmp_path):
    with pytest.raises(OutputError, match="holds a prepared dataset already"):
        prepare("csv", [], Preparation(prepared))
    with pytest.raises(DatasetError, match="has no usable case of the split 'validation'"):
        PreparedCases(prepared, "validation")
    (tmp_path / "manifest.json").write_text('{"format": 99, "cases": []}')
    with pytest.raises(DatasetError, match="is no manifest of prepared cases"):
        read_manifest(tmp_path)
    entry = {"split": "train", "file": "cases/x.npz"}
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "cases": [entry]}))
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "x.npz").write_bytes(b"PK damaged")
    with pytest.raises(DatasetError, match="cannot read the prepared case"):
        PreparedCases(tmp_path)[0]
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write to"):
        prepare("csv", [], Preparation(tmp_path / "file" / "out"))


def dataset_without_maps(folder, count=2):
    """The CSV dataset without its organ columns, its organ maps in a folder ``maps`` as SCAN.nii.gz."""
    path = write_dataset(folder, count)
    lines = [line.split(",") for line in path.read_text().splitlines()]
    keep = [n for n, name in enumerate(lines[0]) if name != "organs"]
    path.write_text("\n".join(",".join(line[n] for n in keep) for line in lines) + "\n")
    (folder / "maps").mkdir()
    for n in range(count):
        (folder / f"organs{n}.nii.gz").rename(folder / "maps" / f"s{n}.nii.gz")
    return path


def test_a_folder_of_organ_maps_that_fits_no_scan_is_refused(tmp_path, capsys):
    path = dataset_without_maps(tmp_path / "raw")
    arguments = ["prepare", "--layout", "csv", "--data", str(path), "--out", str(tmp_path / "out"), "--organs"]
    assert main([*arguments, str(tmp_path / "absent")]) == 2
    assert "expected a folder of organ maps, got" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "patient7.nii.gz").touch()
    assert main([*arguments, str(tmp_path / "other")]) == 2
    assert "such as s0.nii.gz, got patient7.nii.gz; name the maps like the scans" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_where_an_organ_map_came_from_is_told(tmp_path, capsys):
    path = dataset_without_maps(tmp_path / "raw")
    maps = path.parent / "maps"
    rows = path.read_text().replace(",enhancement", ",enhancement,organ_values").splitlines()
    path.write_text("\n".join([rows[0], *(row + ",1" for row in rows[1:])]) + "\n")
    (maps / "s1.nii.gz").unlink()
    out = tmp_path / "out"
    assert main(["prepare", "--layout", "csv", "--data", str(path), "--out", str(out), "--organs", str(maps)]) == 0
    sources = {case["scan"]: case["organs_from"] for case in read_manifest(out)["cases"]}
    assert sources == {"s0": f"--organs: {maps / 's0.nii.gz'}", "s1": "label values 1"}
    told = f"s1: {maps} has no s1.nii.gz; its organ map is from label values 1"
    assert f"not used as given: {told}\n" in capsys.readouterr().out
    (entry, *_) = prepare("csv", table(write_dataset(tmp_path / "b", 1)), Preparation(tmp_path / "o"))["cases"]
    assert entry["organs_from"] == f"dataset: {tmp_path / 'b' / 'organs0.nii.gz'}"


def test_totalsegmentator_is_looked_for_before_anything_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ["prepare", "--layout", "csv", "--data", str(tmp_path / "absent.csv"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--totalsegmentator"]) == 2
    assert "TotalSegmentator is not installed: pip install" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_a_type_file_says_in_vain_is_told(tmp_path, capsys):
    hu, organs, mask, geometry = with_lesion((24, 22, 27), (6, 5, 4), 20)
    write_labels(hu.astype(np.int16), geometry, tmp_path / "img.nii.gz")
    write_labels(np.where(mask, 2, organs.volume.array == 5).astype(np.uint8), geometry, tmp_path / "label.nii.gz")
    write_labels(organs.volume.array, geometry, tmp_path / "seg.nii.gz")
    entries = {"5": ["", "", {"shape": "bizarre,"}, []], "10": ["", "", {"shape": "irregular,"}, []]}
    (tmp_path / "type.json").write_text(json.dumps(entries))
    for kind, end in (("img", "nii.gz"), ("label", "nii.gz"), ("seg", "nii.gz"), ("type", "json")):
        (tmp_path / f"{kind}_list.txt").write_text(f"{kind}.{end}\n")
    out = tmp_path / "out"
    assert main(["prepare", "--layout", "released", "--data", str(tmp_path), "--out", str(out)]) == 0
    texts = [remark["text"] for remark in read_manifest(out)["remarks"]]
    assert texts == [
        'entry "5" (liver) of the type file: shape: of "bizarre" only "" was read',
        'entry "10" (pancreas) of the type file tells of no lesion that is used',
    ]
    told = capsys.readouterr().out
    assert all(f"not used as given: label: {text}" in told for text in texts)
    assert "0 left out, 2 not used as given" in told


@pytest.mark.parametrize("cut", [(slice(22, None), slice(None), slice(None)), (slice(None), slice(None), slice(0, 28))])
def test_a_lesion_cut_by_the_scans_border_is_left_out(tmp_path, cut):
    hu, organs, mask, geometry = with_lesion((24, 22, 27), (6, 5, 4), 20)
    part = type(geometry)(mask[cut].shape, geometry.affine_ras)
    write_labels(hu.astype(np.int16)[cut], part, tmp_path / "ct.nii.gz")
    write_labels(mask.astype(np.uint8)[cut], part, tmp_path / "label.nii.gz")
    write_labels(organs.volume.array[cut], part, tmp_path / "organs.nii.gz")
    rows = "label,image,organs,numbering\nlabel.nii.gz,ct.nii.gz,organs.nii.gz,totalseg_v1\n"
    (tmp_path / "t.csv").write_text(rows)
    with pytest.raises(DatasetError, match=r"lesion of \d+ voxels with label 1: it touches the scan's border"):
        prepare("csv", table(tmp_path / "t.csv"), Preparation(tmp_path / "out"))


@pytest.mark.shared
def test_real_kits23_masks(shared, tmp_path):
    scans = kits23(shared / "data" / "kits23")[:2]
    manifest = prepare("kits23", scans, Preparation(tmp_path / "out"))
    assert {case["organ"] for case in manifest["cases"]} <= {"left kidney", "right kidney"}
    assert all(8 < max(case["size_mm"]) < 150 for case in manifest["cases"])


def test_the_users_numbering_is_that_of_the_users_maps(tmp_path, capsys):
    """Number 7 is the pancreas in version 2, and the aorta in version 1, where no lesion is looked for."""
    hu, organs, mask, geometry = with_lesion((24, 22, 27), (6, 5, 4), 20)
    labels = np.where(organs.volume.array == 5, np.uint8(7), np.uint8(0))
    (tmp_path / "maps").mkdir()
    write_labels(hu.astype(np.int16), geometry, tmp_path / "img.nii.gz")
    write_labels(2 * mask.astype(np.uint8), geometry, tmp_path / "x.nii.gz")
    write_labels(labels, geometry, tmp_path / "maps" / "x.nii.gz")
    (tmp_path / "img_list.txt").write_text("img.nii.gz\n")
    (tmp_path / "label_list.txt").write_text("x.nii.gz\n")
    (tmp_path / "t.csv").write_text("label,image,lesion_value,numbering\nx.nii.gz,img.nii.gz,2,totalseg_v1\n")
    (tmp_path / "own.csv").write_text(
        "label,image,lesion_value,organs,numbering\nx.nii.gz,img.nii.gz,2,maps/x.nii.gz,totalseg_v2\n"
    )

    def organ(layout: str, data: str, numbering: str, *more: str) -> str:
        out = tmp_path / f"out_{layout}_{data}"
        arguments = ["prepare", "--layout", layout, "--data", str(tmp_path / data), "--out", str(out)]
        assert main([*arguments, "--labels", numbering, *more]) == 0
        (entry,) = read_manifest(out)["cases"]
        return entry["organ"]

    maps = ("--organs", str(tmp_path / "maps"))
    assert organ("released", "", "totalseg_v2", *maps) == "pancreas"
    assert organ("csv", "t.csv", "totalseg_v2", *maps) == "pancreas"
    assert organ("csv", "own.csv", "totalseg_v1") == "pancreas", "the table knows its own map"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--limit", "-1"), "expected --limit 1 or more, got -1; leave it out for all scans"),
        (("--limit", "0"), "expected --limit 1 or more, got 0"),
        (("--lesions-per-scan", "-1"), "1 lesion per scan or more, got 80 mm and -1; change --margin-mm or"),
        (("--margin-mm", "-5"), "expected a margin of 0 mm or more .* got -5 mm and 3"),
        (("--margin-mm", "inf"), "expected a margin of 0 mm or more .* got inf mm and 3"),
        (("--labels", "totalseg_v3"), 'unknown numbering "totalseg_v3"; give totalseg_v1, totalseg_v2'),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_read(tmp_path, capsys, arguments, message):
    given = ["--layout", "csv", "--data", str(tmp_path / "absent.csv"), "--out", str(tmp_path / "out")]
    assert main(["prepare", *given, *arguments]) == 2
    told = capsys.readouterr().err
    assert re.match(f"error: .*{message}", told)
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()
