"""What is installed, without torch."""

from __future__ import annotations

import json

import pytest
from patients import LINET_WINDOW, LMNET_WINDOW, tiny_bundle

from LesionDiffusionLib.bundle_folders import MANIFEST, summarize
from LesionDiffusionLib.errors import BundleError


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
