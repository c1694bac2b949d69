"""A file is there whole, or as it was before."""

from __future__ import annotations

import os

import pytest

from LesionDiffusionLib.whole_file import whole_file


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "map.nii.gz"
    path.write_text("old")
    with whole_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.name.endswith(".nii.gz")
    assert [p.name for p in tmp_path.iterdir()] == ["map.nii.gz"]
    assert path.read_text() == "new"


def write_half(path, error):
    with whole_file(path) as partial:
        partial.write_text("ne")
        raise error


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("a bug"), KeyboardInterrupt()])
def test_what_fails_leaves_the_earlier_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "run.json"
    path.write_text("old")
    with pytest.raises(type(error)):
        write_half(path, error)
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
    assert path.read_text() == "old"


def test_nothing_written_is_an_error_not_an_empty_file(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_to_keep_it_counts_as_not_written(tmp_path, monkeypatch):
    def fails(descriptor):
        raise OSError(5, "input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="input/output"), whole_file(tmp_path / "a") as partial:
        partial.write_text("whole")
    assert list(tmp_path.iterdir()) == []


def test_the_part_a_kill_left_is_written_over(tmp_path):
    (tmp_path / "part-a").write_text("much longer than what comes now")
    with whole_file(tmp_path / "a") as partial:
        partial.write_text("short")
    assert (tmp_path / "a").read_text() == "short"
    assert len(list(tmp_path.iterdir())) == 1
