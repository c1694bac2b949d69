"""Worklists: rows as arguments, every case as `synthesize` makes it, failures, continuing, several processes."""

from __future__ import annotations

import csv
import json

import pytest

from LesionDiffusionLib import saved_case
from LesionDiffusionLib.errors import OutputError, WorklistError
from LesionDiffusionLib.scripts.cli import main
from LesionDiffusionLib.worklist import read_worklist

HEADER = "name,ct,organs,labels,mask,lesion,density,seed,count"
FILES = "ct.nii.gz,organs.nii.gz,totalseg_v1,mask.nii.gz"


def batch(files, *rows, out="out", more=()):
    """Run a worklist of these rows; returns the exit code."""
    (files / "list.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    where = ["--worklist", str(files / "list.csv"), "--out", str(files / out)]
    return main(["batch", *where, "--bundle", str(files / "tiny"), "--device", "cpu", *more])


def manifest(files, out="out"):
    with (files / out / "manifest.csv").open(newline="") as stream:
        return {row["name"]: row for row in csv.DictReader(stream)}


def test_every_case_is_what_synthesize_makes(files):
    assert batch(files, f"a,{FILES},liver cyst,,3,", f"b,{FILES},liver cancer,hyperdense lesion,4,2") == 0
    rows = manifest(files)
    assert list(rows) == ["a", "b_0", "b_1"]
    assert {row["status"] for row in rows.values()} == {"done"}
    assert [row["line"] for row in rows.values()] == ["2", "3", "3"]
    paths = {name: str(files / f"{name}.nii.gz") for name in ("ct", "organs", "mask")}
    given = [part for name, path in paths.items() for part in (f"--{name}", path)]
    more = ["--labels", "totalseg_v1", "--lesion", "liver cancer", "--set", "density=hyperdense lesion", "--seed", "5"]
    single = ["--bundle", str(files / "tiny"), "--device", "cpu", "--out", str(files / "single")]
    assert main(["synthesize", *given, *more, *single]) == 0
    for name in ("ct.nii.gz", "lesion.nii.gz", "report.json", "preview.png"):
        assert (files / "single" / name).read_bytes() == (files / "out" / "b_1" / name).read_bytes()
    assert (files / "out/b_0/ct.nii.gz").read_bytes() != (files / "out/b_1/ct.nii.gz").read_bytes()


def test_it_goes_on_where_it_stood(files, capsys, monkeypatch):
    rows = [f"a,{FILES},liver cyst,,3,", f"b,{FILES},liver cyst,,4,"]
    saved = []
    save = saved_case.save_case

    def save_one(case, ct_file, folder, force=False):
        if saved:
            raise OutputError("could not write: no space left on device; nothing was kept")
        saved.append(folder.name)
        return save(case, ct_file, folder, force)

    monkeypatch.setattr(saved_case, "save_case", save_one)
    assert batch(files, *rows) == 2
    assert "no space left" in capsys.readouterr().err.splitlines()[-1]
    assert {name: row["status"] for name, row in manifest(files).items()} == {"a": "done", "b": "open"}
    monkeypatch.setattr(saved_case, "save_case", save)
    stamp = (files / "out/a/ct.nii.gz").stat().st_mtime_ns
    assert batch(files, *rows) == 0
    assert "2 cases, 1 of them made now" in capsys.readouterr().err
    assert (files / "out/a/ct.nii.gz").stat().st_mtime_ns == stamp
    assert batch(files, *rows) == 0
    assert "2 cases, 0 of them made now" in capsys.readouterr().err


def test_a_failed_case_is_told_and_tried_again_and_the_others_are_made(files, capsys):
    rows = [f"absent,{FILES.replace('ct.nii.gz', 'late.nii.gz', 1)},liver cyst,,1,", f"b,{FILES},liver cyst,,4,"]
    assert batch(files, *rows) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: 1 of 2 cases failed")
    assert error.endswith("run it again to retry them")
    told = manifest(files)
    assert told["b"]["status"] == "done"
    assert told["absent"]["status"] == "failed"
    assert "late.nii.gz" in told["absent"]["reason"]
    (files / "late.nii.gz").write_bytes((files / "ct.nii.gz").read_bytes())
    assert batch(files, *rows) == 0
    assert manifest(files)["absent"]["status"] == "done"
    assert sorted(path.name for path in (files / "out").iterdir()) == ["absent", "b", "manifest.csv"]


def test_under_torchrun_a_failed_case_does_not_stop_the_other_processes(files, capsys, monkeypatch):
    """A process that ends with an error ends them all."""
    rows = [f"absent,{FILES.replace('ct.nii.gz', 'late.nii.gz', 1)},liver cyst,,1,", f"b,{FILES},liver cyst,,4,"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert batch(files, *rows) == 0
    assert "1 of 1 cases failed" in capsys.readouterr().err
    assert {name: row["status"] for name, row in manifest(files).items()} == {"absent": "failed", "b": "open"}


def test_something_in_a_cases_place_costs_that_case_alone(files):
    (files / "out" / "a").mkdir(parents=True)
    (files / "out" / "a" / "notes.txt").write_text("mine")
    rows = [f"a,{FILES},liver cyst,,3,", f"b,{FILES},liver cyst,,4,"]
    assert batch(files, *rows) == 2
    told = manifest(files)
    assert (told["a"]["status"], told["b"]["status"]) == ("failed", "done")
    assert "is in the way: it is no case that was made whole" in told["a"]["reason"]
    assert (files / "out" / "a" / "notes.txt").read_text() == "mine"


def test_a_batch_goes_on_however_its_worklist_is_named(files, monkeypatch):
    assert batch(files, f"a,{FILES},liver cyst,,3,") == 0
    monkeypatch.chdir(files)
    where = ["--worklist", "list.csv", "--out", "out", "--bundle", str(files / "tiny"), "--device", "cpu"]
    assert main(["batch", *where]) == 0


def test_a_bug_in_one_case_keeps_its_traceback(files, monkeypatch):
    from LesionDiffusionLib import synthesis

    def broken(*_, **__):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(synthesis, "synthesize", broken)
    assert batch(files, f"a,{FILES},liver cyst,,3,") == 2
    assert manifest(files)["a"]["reason"] == "unexpected ZeroDivisionError: oops"
    assert "Traceback" in (files / "out/a.failed.txt").read_text()


def test_a_finished_case_is_never_taken_for_another(files, capsys):
    assert batch(files, f"a,{FILES},liver cyst,,3,") == 0
    before = (files / "out/a/ct.nii.gz").read_bytes()
    assert batch(files, f"a,{FILES},liver cyst,,4,") == 2
    assert "was made with other arguments than line 2" in capsys.readouterr().err
    assert (files / "out/a/ct.nii.gz").read_bytes() == before


def test_two_processes_make_what_one_makes(files, monkeypatch):
    rows = [f"a,{FILES},liver cyst,,,3", f"b,{FILES},liver cancer,,,"]
    assert batch(files, *rows) == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        assert batch(files, *rows, out="shared") == 0
        done = {name for name, row in manifest(files, "shared").items() if row["status"] == "done"}
        assert done == ({"a_0", "a_2"} if rank == "0" else {"a_0", "a_1", "a_2", "b"})
    for case in ("a_0", "a_1", "a_2", "b"):
        assert (files / "out" / case / "ct.nii.gz").read_bytes() == (files / "shared" / case / "ct.nii.gz").read_bytes()


def test_json_tells_every_case(files, capsys):
    assert batch(files, f"a,{FILES},liver cyst,,3,2", more=["--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["name"], line["number"], line["total"], line["failed"]) for line in lines] == [
        ("a_0", 1, 2, None),
        ("a_1", 2, 2, None),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"a,{FILES},liver cyst,purple,3,", "line 2: unknown density"),
        (f"a,{FILES},moon cyst,,3,", "line 2: "),
        (f"../a,{FILES},liver cyst,,3,", "expected a plain name"),
        (f"a,{FILES},liver cyst,,many,", "seed must be a whole number"),
        (f"a,{FILES},liver cyst,,3,0", "count must lie in"),
        (f"a,{FILES},,,3,", "expected a lesion"),
        ("a,,,,,liver cyst,,,", "line 2: the following arguments are required: --ct"),
        (f"a,{FILES},liver cyst,,3,,surplus", "line 2 has more cells than the header"),
        ("", "names no case"),
    ],
)
def test_a_mistake_is_told_with_its_line_before_anything_is_made(files, capsys, row, message):
    assert batch(files, row) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (files / "out").exists()


def test_names_are_unlike_and_columns_known(files, capsys):
    assert batch(files, *2 * [f"a,{FILES},liver cyst,,3,"]) == 2
    assert 'got "a" 2 times' in capsys.readouterr().err
    (files / "list.csv").write_text("ct,colour\nct.nii.gz,red\n")
    assert main(["batch", "--worklist", str(files / "list.csv"), "--out", str(files / "out")]) == 2
    assert 'no column is called "colour"; there are: ct, organs' in capsys.readouterr().err


def test_json_lines(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_text('{"ct": "a.nii", "seed": 4, "mask": null}\n\n{"ct": "b.nii"}\n')
    assert [(row.line, dict(row.cells)) for row in read_worklist(path)] == [
        (1, {"ct": "a.nii", "seed": "4"}),
        (3, {"ct": "b.nii"}),
    ]


@pytest.mark.parametrize("text", ["[1]\n", '{"ct": [1]}\n', "{\n", ""])
def test_damaged_json_lines(tmp_path, text):
    path = tmp_path / "list.jsonl"
    path.write_text(text)
    with pytest.raises(WorklistError, match=r"list\.jsonl"):
        read_worklist(path)


def test_an_absent_worklist(tmp_path):
    with pytest.raises(WorklistError, match="cannot read the worklist"):
        read_worklist(tmp_path / "absent.csv")
