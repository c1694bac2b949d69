"""The command line: results, exit codes, one-line errors, nothing written on failure."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from patients import make_patient, tiny_bundle

from LesionDiffusionLib.geometry import Geometry
from LesionDiffusionLib.io import read_ct, write_labels
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.scripts.cli import main
from LesionDiffusionLib.volume import Volume


def command(files, *more, lesion="liver cyst", drop=()):
    """Arguments of a synthesis with a given mask; ``drop`` leaves options out."""
    options = {
        "--ct": files / "ct.nii.gz",
        "--organs": files / "organs.nii.gz",
        "--labels": "totalseg_v1",
        "--lesion": lesion,
        "--mask": files / "mask.nii.gz",
        "--bundle": files / "tiny",
        "--out": files / "out",
        "--device": "cpu",
    }
    kept = [str(part) for option, value in options.items() if option not in drop for part in (option, value)]
    return ["synthesize", *kept, *map(str, more)]


def test_synthesize_saves_a_case_and_says_what_it_measured(files, capsys):
    assert main(command(files)) == 0
    out = capsys.readouterr().out
    assert "liver cyst in the liver" in out
    assert "largest change beyond: 0 HU" in out
    assert (files / "out" / "provenance.json").is_file()
    before, after = read_ct(files / "ct.nii.gz"), read_ct(files / "out" / "ct.nii.gz")
    assert not np.array_equal(before.volume.array, after.volume.array)


def test_a_mask_drawn_by_hand_needs_no_organ_map(files, capsys):
    assert main(command(files, drop=["--organs", "--labels"], lesion="kidney cyst")) == 0
    printed = capsys.readouterr()
    assert "place was not checked" in printed.err
    report = LesionReport.from_json((files / "out" / "report.json").read_text())
    assert report.organ in ("left kidney", "right kidney")
    measured = json.loads((files / "out" / "provenance.json").read_text())["measurements"]
    (location,) = [m for m in measured if m["attribute"] == "lesion location"]
    assert location["measured"] == "no organ map"
    assert location["fits"] is None


def test_json_prints_one_object_per_line(files, capsys):
    assert main(command(files, "--json")) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["event"] for line in lines} >= {"progress", "result"}
    assert lines[-1]["event"] == "result"
    assert lines[-1]["provenance"]["voxels_changed_outside"] == 0


def test_same_seed_writes_the_same_bytes(files, tmp_path):
    for name in ("a", "b"):
        assert main(command(files, "--out", tmp_path / name, "--seed", 4, drop=["--out"])) == 0
    for file in ("ct.nii.gz", "lesion.nii.gz", "report.json", "preview.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_center_may_begin_with_a_minus(files, capsys):
    """The center is used: a point inside the liver, given as it is read off a viewer."""
    ct, _ = make_patient()
    center = ",".join(f"{v:.1f}" for v in ct.geometry.to_ras((24, 22, 27)))
    assert center.startswith("-")
    code = main([*command(files, drop=["--mask"]), "--center-mm", center, "--seed", "1"])
    assert code in (0, 2), "random networks may draw nothing"
    assert "R,A,S" not in capsys.readouterr().err


def error_of(capsys, argv) -> str:
    """Run a failing command; returns its one line."""
    try:
        code = main(argv)
    except SystemExit as stop:  # argparse
        code = stop.code
    err = capsys.readouterr().err
    assert code == 2
    lines = [line for line in err.splitlines() if not line.startswith("warning:")]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in err
    return lines[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--ct", "absent.nii.gz"], "absent.nii.gz"),
        (["--labels", "totalseg_v3"], "totalseg_v1, totalseg_v2"),
        (["--set", "density=purple"], "allowed:"),
        (["--set", "colour=red"], "unknown attribute"),
        (["--set", "density"], "expected ATTRIBUTE=VALUE"),
        (["--report", "absent.json"], "cannot read the report"),
        (["--bbox", "0:9,0:9,0:9"], "keep one"),
        (["--bundle", "nobodys"], "expected a bundle folder"),
        (["--device", "cuda:9"], "expected one of the devices"),
        (["--steps", "0"], "steps must lie in 1..1000"),
        (["--sampler", "released", "--steps", "150"], "divide 1000"),
        (["--guidance", "99"], "guidance must lie in"),
        (["--candidates", "0"], "candidates must lie in"),
        (["--seed", "-1"], "seed must not be negative"),
        (["--seed", "lucky"], "invalid int value"),
        (["--bundle", "UNGUIDABLE", "--guidance", "2"], "trained without an empty text"),
        (["--size-mm", "1,2"], "expected a size"),
        (["--unknown-option"], "unrecognized arguments"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(files, capsys, change, message):
    unguidable = files / "tiny-without-guidance"
    tiny_bundle(unguidable, guidable=False)
    argv = [*command(files), *(str(unguidable) if part == "UNGUIDABLE" else part for part in change)]
    assert message in error_of(capsys, argv)
    assert not (files / "out").exists()


@pytest.mark.parametrize(
    ("drop", "more", "message"),
    [
        (["--labels"], [], "choose --labels"),
        (["--organs", "--mask"], [], "expected --organs MAP"),
        (["--lesion"], [], "expected a lesion"),
        (["--mask"], ["--bbox", "0:9,0:9"], "expected a box"),
        (["--mask"], ["--bbox", "9:0,0:9,0:9"], "empty along i"),
        (["--mask"], ["--bbox", "0:90,0:9,0:9"], "box inside the CT"),
        (["--mask"], ["--center-mm", "1,2"], "R,A,S"),
        (["--mask"], ["--center-mm", "1000,0,0"], "center inside the CT"),
        (["--out"], [], "required"),
    ],
)
def test_missing_and_misplaced_options(files, capsys, drop, more, message):
    assert message in error_of(capsys, [*command(files, drop=drop), *more])


def test_a_wrong_lesion_suggests_the_right_one(files, capsys):
    assert 'did you mean "liver cyst"' in error_of(capsys, command(files, lesion="lever cyst"))
    assert "organ" in error_of(capsys, command(files, lesion="kidney stone"))


def test_words_not_understood_are_reported(files, capsys):
    argv = [*command(files, drop=["--lesion"]), "--text", "hypodense cyst in the liver with sparkling glitter"]
    assert main(argv) == 0
    assert "sparkling" in capsys.readouterr().err


def test_an_existing_output_needs_force(files, capsys):
    assert main(command(files)) == 0
    capsys.readouterr()
    assert "add --force" in error_of(capsys, command(files))
    assert main(command(files, "--force")) == 0


def test_an_input_is_not_replaced_by_its_own_result(files, capsys):
    assert main(command(files)) == 0
    capsys.readouterr()  # progress of the first run
    before = (files / "out" / "ct.nii.gz").read_bytes()
    again = [*command(files, "--force", drop=["--ct"]), "--ct", str(files / "out" / ".." / "out" / "ct.nii.gz")]
    assert "lies in the output folder" in error_of(capsys, again)
    assert (files / "out" / "ct.nii.gz").read_bytes() == before


def test_a_text_of_which_nothing_is_understood_makes_no_lesion(files, capsys):
    argv = [*command(files, drop=["--lesion"]), "--text", "lorem ipsum"]
    assert "nothing that was given tells of a lesion" in error_of(capsys, argv)
    assert not (files / "out").exists()


def test_an_organ_map_is_called_resampled_where_its_voxels_lie_elsewhere(files, capsys):
    ct, organs = make_patient()
    flipped = Volume(organs.volume.array[:, ::-1], Geometry(ct.geometry.shape, ct.geometry.affine_ras @ flip(ct, 1)))
    write_labels(flipped.array, flipped.geometry, files / "organs.nii.gz")
    assert main(command(files)) == 0
    assert "resampled" not in capsys.readouterr().err
    coarse = np.ascontiguousarray(organs.volume.array[::2, ::2, ::2])
    affine = ct.geometry.affine_ras @ np.diag([2.0, 2.0, 2.0, 1.0])
    write_labels(coarse, Geometry(coarse.shape, affine), files / "organs.nii.gz")
    assert main(command(files, "--force")) == 0
    assert "the organ map was resampled to the CT's grid: shapes" in capsys.readouterr().err


def flip(volume, axis):
    """From voxels of the array reversed along ``axis`` to those of the array."""
    matrix = np.eye(4)
    matrix[axis, axis], matrix[axis, 3] = -1, volume.array.shape[axis] - 1
    return matrix


def test_mask_on_another_grid(files, capsys):
    ct, _ = make_patient()
    shifted = ct.geometry.affine_ras.copy()
    shifted[:3, 3] += 5
    elsewhere = Geometry(ct.geometry.shape, shifted)
    write_labels(np.ones(ct.array.shape, np.uint8), elsewhere, files / "mask.nii.gz")
    assert "different grids" in error_of(capsys, command(files))


def test_report_draws_checks_and_lists(capsys, tmp_path):
    assert main(["report", "--lesion", "kidney stone", "--draw", "--seed", "3", "--out", str(tmp_path / "r.json")]) == 0
    report = LesionReport.from_json((tmp_path / "r.json").read_text())
    assert report.lesion_type == "kidney stone"
    assert report == LesionReport.from_json(capsys.readouterr().out)
    assert main(["report", "--lesion", "liver cyst", "--set", "organ=brain"]) == 0
    assert "does not occur in the brain" in capsys.readouterr().err
    assert main(["report", "--vocabulary"]) == 0
    assert "intracranial" in capsys.readouterr().out


@pytest.mark.shared
def test_report_reads_its_own_file_and_the_released_one(capsys, tmp_path, shared):
    released = shared / "data" / "released_demo" / "Liver_cancer" / "type.json"
    assert main(["report", "--report", str(released)]) == 0
    assert json.loads(capsys.readouterr().out)["attributes"]["density"] == "hypodense lesion"


def test_bundles_lists_shows_and_checks(files, capsys):
    assert main(["bundles"]) == 0
    assert main(["bundles", "show", str(files / "tiny")]) == 0
    assert "lesions up to" in capsys.readouterr().out
    assert main(["bundles", "check", str(files / "tiny")]) == 0
    assert "4 files match" in capsys.readouterr().out
    assert "expected one of your own bundles" in error_of(capsys, ["bundles", "delete", "starter"])


def test_ctrl_c_leaves_nothing_half_written(files):
    """A real process, interrupted at its first progress line."""
    argv = [sys.executable, "-m", "LesionDiffusionLib", *command(files, "--json", "--steps", 500)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "cancelled; nothing half-written" in err
    assert "Traceback" not in err
    assert not [path for path in files.iterdir() if path.name.startswith((".out", "out"))]


def test_python_dash_m_and_version(files):
    argv = [sys.executable, "-m", "LesionDiffusionLib", "--version"]
    assert "lesiondiffusion 0." in subprocess.run(argv, capture_output=True, text=True, check=True).stdout
