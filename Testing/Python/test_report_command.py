"""`lesiondiffusion report`: what is drawn, what goes to stdout, and what is never overwritten."""

from __future__ import annotations

import re

import pytest

from LesionDiffusionLib.lesion_types import all_lesion_types
from LesionDiffusionLib.released_report import read_type_json
from LesionDiffusionLib.report import FIELDS, LesionReport
from LesionDiffusionLib.scripts.cli import main


@pytest.fixture
def report(capsys):
    """Runs a command that succeeds; returns the report on stdout and the text on stderr."""

    def run(*argv):
        assert main(["report", *map(str, argv)]) == 0
        printed = capsys.readouterr()
        return LesionReport.from_json(printed.out), printed.err

    return run


@pytest.fixture
def error(capsys):
    """Runs a command that fails; returns its one line."""

    def run(*argv):
        try:
            code = main(["report", *map(str, argv)])
        except SystemExit as stop:  # argparse
            code = stop.code
        printed = capsys.readouterr()
        assert (code, printed.out) == (2, "")
        (line,) = printed.err.splitlines()
        assert line.startswith("error: ")
        return line

    return run


def test_draw_alone_draws_everything(report):
    reports = [report("--draw", "--seed", seed)[0] for seed in range(12)]
    for drawn in reports:
        assert all(getattr(drawn, field) is not None for field in FIELDS.values())
    kinds = {drawn.lesion_type for drawn in reports}
    assert len(kinds) > 4
    assert kinds <= {kind.name for kind in all_lesion_types()}
    assert report("--draw", "--seed", 3)[0] == reports[3]


def test_a_size_alone_is_kept(report):
    drawn, _ = report("--draw", "--size-mm", "9,8,7")
    assert drawn.size_mm == (9, 8, 7)
    assert drawn.lesion_type is not None


def test_the_lesion_type_fits_what_is_stated(report):
    for seed in range(8):
        drawn, warnings = report(
            "--draw", "--seed", seed, "--set", "organ=liver", "--set", "density=hyperdense", "--set", "shape=irregular"
        )
        assert (drawn.lesion_type, warnings) == ("liver cancer", "")


def test_a_stated_lesion_type_wins(report):
    drawn, warnings = report("--draw", "--lesion", "liver cyst", "--set", "density=hyperdense")
    assert (drawn.lesion_type, drawn.density) == ("liver cyst", "hyperdense lesion")
    assert 'density "hyperdense lesion" is unusual for liver cyst' in warnings


def test_an_organ_without_a_known_lesion_gets_a_generic_one(report):
    drawn, warnings = report("--draw", "--set", "organ=spleen")
    assert (drawn.lesion_type, drawn.organ, warnings) == (None, "spleen", "")
    assert drawn.size_mm is not None


def test_free_text_over_a_file_brings_the_organs_own_type(report, tmp_path):
    """As --set does: what a liver is says nothing of a stomach."""
    out = tmp_path / "liver.json"
    report("--set", "organ=liver", "--out", str(out))
    for change in (("--text", "mass in the stomach"), ("--set", "organ=stomach")):
        changed, warnings = report("--report", str(out), *change)
        assert (changed.organ, changed.organ_type) == ("stomach", "hollow organ")
        assert "is not a" not in warnings


def test_stdout_is_the_report_and_stderr_has_the_warnings(report, error):
    drawn, warnings = report("--text", "liver cyst with sparkling glitter", "--set", "organ=brain")
    assert drawn.organ == "brain"
    assert [line.split(":")[0] for line in warnings.splitlines()] == ["warning", "warning"]
    assert "unrecognized arguments: --json" in error("--draw", "--json")


def test_an_existing_file_needs_force(report, error, tmp_path, monkeypatch):
    out = tmp_path / "report.json"
    first, _ = report("--draw", "--out", out)
    assert LesionReport.from_json(out.read_text()) == first
    assert error("--draw", "--seed", 1, "--out", out) == f"error: {out} exists; choose another --out or add --force"
    assert LesionReport.from_json(out.read_text()) == first
    second, _ = report("--draw", "--seed", 1, "--out", out, "--force")
    assert LesionReport.from_json(out.read_text()) == second != first
    monkeypatch.delenv("LESIONDIFFUSION_LLM_URL", raising=False)
    assert "exists; choose" in error("--ask-model", "--lesion", "liver cyst", "--out", out), "before a model is asked"


def test_an_output_that_cannot_be_written(error, tmp_path):
    assert "cannot write" in error("--draw", "--out", tmp_path, "--force")
    assert "cannot write" in error("--draw", "--out", tmp_path / "absent" / "report.json")


def test_type_json_is_the_released_form_of_the_same_report(report, capsys, tmp_path):
    out = tmp_path / "type.json"
    drawn, _ = report("--draw", "--lesion", "liver cyst")
    argv = ["report", "--draw", "--lesion", "liver cyst", "--type-json", "--organ-size-mm", "160,120,150"]
    assert main([*argv, "--out", str(out)]) == 0
    assert capsys.readouterr().out == out.read_text()
    (entry,) = read_type_json(out.read_text())
    assert entry.warnings == ()
    assert entry.report.attributes() == drawn.attributes()
    assert entry.raw[3] == [[[160, 120, 150]], [list(drawn.size_mm)]]
    again, _ = report("--report", out)
    assert again == entry.report


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--draw", "--type-json"], "--type-json needs the extents of the organ's bounding box: give --organ-size-mm"),
        (["--draw", "--type-json", "--organ-size-mm", "wide"], 'expected a size such as .* got "wide"'),
        (["--draw", "--organ-size-mm", "9,9,9"], "--organ-size-mm serves --type-json and --ask-model"),
        (["--lesion", "liver cyst", "--type-json", "--organ-size-mm", "9,9,9"], 'needs the "size" of the lesion'),
        (["--draw", "--size-mm", "1,2"], "expected a size"),
        (["--draw", "--seed", "-1"], "seed must not be negative, got -1"),
        ([], "expected a lesion"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(error, tmp_path, argv, message):
    out = tmp_path / "report.json"
    assert re.search(message, error(*argv, "--out", out))
    assert not out.exists()
