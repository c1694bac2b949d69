"""A wheel carries everything: built without a network, unpacked, and run from there."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import pytest

pytest.importorskip("hatchling", reason="SKIPPED, not passed: hatchling is not installed")


@pytest.fixture(scope="module")
def installed(repository, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=repository, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed, code):
    """Python that sees the unpacked wheel first, from a folder without the source tree."""
    path = f"import sys; sys.path.insert(0, {str(installed)!r}); "
    return subprocess.run(
        [sys.executable, "-c", path + code], cwd=installed.parent, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_resources_come_from_inside_the_package(installed):
    code = "from LesionDiffusionLib.resources import resource_path as r; print(r('vocabulary.json'))"
    assert run(installed, code) == str(installed / "LesionDiffusionLib" / "Resources" / "vocabulary.json")


def test_every_resource_of_the_source_tree_is_there(installed, repository):
    tracked = subprocess.run(
        ["git", "ls-files", "Resources"], cwd=repository, capture_output=True, text=True, check=False
    ).stdout.split()
    if not tracked:
        pytest.skip("SKIPPED, not passed: not a git checkout")
    absent = [name for name in tracked if not (installed / "LesionDiffusionLib" / name).is_file()]
    assert not absent


def test_the_command_runs(installed):
    code = "from LesionDiffusionLib.scripts.cli import main; main(['report', '--lesion', 'liver cyst', '--draw'])"
    assert '"lesion type": "liver cyst"' in run(installed, code)
