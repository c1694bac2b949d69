"""The scripts that measure shapes and draw examples refuse what they would do wrongly."""

from __future__ import annotations

import sys

import draw_examples
import measure_shapes
import pytest

from LesionDiffusionLib.bundles import TextSpec
from LesionDiffusionLib.training.bundling import Part


def refusal(script, monkeypatch, capsys, *arguments: str) -> str:
    """The last line of what a script says before it ends with exit code 2."""
    monkeypatch.setattr(sys, "argv", [script.__name__, *arguments])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    return capsys.readouterr().err.splitlines()[-1]


def test_a_page_of_one_example_would_lose_all_others(monkeypatch, capsys, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("all")
    arguments = ("--data", "d", "--out", str(tmp_path), "--lesion", "gallstone", "--page", str(page))
    assert "expected --page or --lesion, got both" in refusal(draw_examples, monkeypatch, capsys, *arguments)
    assert page.read_text() == "all"


def test_shapes_are_measured_of_vocabulary_networks_only(monkeypatch, capsys):
    part = Part(None, {}, TextSpec("biomedclip", "report"))
    monkeypatch.setattr(measure_shapes, "parts_of", lambda source: {"lmnet": part})
    told = refusal(measure_shapes, monkeypatch, capsys, "--data", "d", "--lmnet", "n")
    assert "expected an LMNet with a vocabulary text encoder, got biomedclip" in told


def test_shapes_need_an_lmnet(monkeypatch, capsys):
    monkeypatch.setattr(measure_shapes, "parts_of", lambda source: {})
    told = refusal(measure_shapes, monkeypatch, capsys, "--data", "d", "--lmnet", "runs/linet")
    assert "expected an LMNet in runs/linet; give a training of lmnet, or a bundle" in told
