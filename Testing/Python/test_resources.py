"""Resources are found in all three layouts, and user folders follow the platform."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from LesionDiffusionLib.errors import LesionDiffusionError
from LesionDiffusionLib.resources import resource_path, user_data_dir


def test_source_tree(repository):
    assert resource_path("vocabulary.json").samefile(repository / "Resources" / "vocabulary.json")
    assert resource_path("Labels").is_dir()


@pytest.mark.parametrize(
    "place", ["Resources", "LesionDiffusionLib/Resources"], ids=["beside (Slicer)", "inside (wheel)"]
)
def test_installed_layouts(tmp_path, place):
    package = tmp_path / "LesionDiffusionLib"
    package.mkdir()
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "words.json").write_text("{}")
    assert resource_path("words.json", package) == tmp_path / place / "words.json"


def test_missing_resource_names_both_places(tmp_path):
    with pytest.raises(LesionDiffusionError, match=r'"absent.json" not found: looked at .*pkg.* and .*reinstall'):
        resource_path("absent.json", tmp_path / "pkg")


def test_user_data_dir_follows_the_platform(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert user_data_dir() == tmp_path / ".local/share/LesionDiffusion"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert user_data_dir() == tmp_path / "xdg/LesionDiffusion"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert user_data_dir() == tmp_path / "Library/Application Support/LesionDiffusion"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert user_data_dir() == tmp_path / "local/LesionDiffusion"


def test_importing_reads_no_data_and_loads_no_heavy_library():
    code = (
        "import sys; from LesionDiffusionLib import resources; resources.resource_path = None;"
        "import LesionDiffusionLib.released_report, LesionDiffusionLib.free_text;"
        "assert not {'torch', 'SimpleITK'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
