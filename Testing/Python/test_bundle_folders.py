"""What is installed, without torch."""

from __future__ import annotations

import json

import pytest
from patients import LINET_WINDOW, LMNET_WINDOW, tiny_bundle

from LesionDiffusionLib import bundle_folders
from LesionDiffusionLib.bundle_folders import MANIFEST, delete_bundle, installed_bundles, summarize
from LesionDiffusionLib.errors import BundleError, OutputError


def test_the_summary_of_a_bundle(tmp_path):
    summary = summarize(tiny_bundle(tmp_path / "tiny", guidable=False).folder)
    assert (summary.name, summary.title, summary.license) == ("tiny", "random networks for tests", "MIT")
    limits = zip(LMNET_WINDOW.largest_lesion_mm, LINET_WINDOW.largest_lesion_mm, strict=True)
    assert summary.largest_lesion_mm == tuple(map(min, limits))
    assert summary.encoder == "vocabulary"
    assert not summary.guidable


@pytest.mark.parametrize("damage", ["absent", "no json", "no window", "a list", "deep"])
def test_a_damaged_manifest(tmp_path, damage):
    path = tmp_path / MANIFEST
    if damage == "no window":
        data = json.loads((tiny_bundle(tmp_path / "tiny").folder / MANIFEST).read_text())
        del data["linet"]["window"]
        path.write_text(json.dumps(data))
    elif damage != "absent":
        path.write_text({"no json": "{", "a list": "[]", "deep": "[" * 100_000}[damage])
    with pytest.raises(BundleError, match=r"cannot read .*bundle\.json"):
        summarize(tmp_path)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The user's folder of bundles."""
    monkeypatch.setattr(bundle_folders, "user_bundles_dir", lambda: tmp_path / "bundles")
    (tmp_path / "bundles").mkdir()
    return tmp_path / "bundles"


def test_of_a_linked_bundle_only_the_link_is_deleted(own, tmp_path):
    elsewhere = tiny_bundle(tmp_path / "elsewhere").folder
    (own / "mine").symlink_to(elsewhere)
    assert delete_bundle("mine") == own / "mine"
    assert "mine" not in installed_bundles()
    assert (elsewhere / MANIFEST).is_file()


def test_a_bundle_that_cannot_be_deleted_is_told_and_is_no_bundle_any_more(own, monkeypatch):
    def locked(folder):
        raise PermissionError(13, "Permission denied")

    tiny_bundle(own / "mine")
    monkeypatch.setattr(bundle_folders.shutil, "rmtree", locked)
    with pytest.raises(OutputError, match=r"cannot delete .*mine: Permission denied; delete it by hand"):
        delete_bundle("mine")
    assert "mine" not in installed_bundles()
