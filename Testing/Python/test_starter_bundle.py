"""The bundle that is shipped: whole, described truly, and doing its job."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from LesionDiffusionLib import meters
from LesionDiffusionLib.benchmark.job import make_job
from LesionDiffusionLib.bundles import open_bundle
from LesionDiffusionLib.dataclass_json import from_json
from LesionDiffusionLib.io import read_ct, read_labels, read_mask
from LesionDiffusionLib.labels import load_table
from LesionDiffusionLib.models import load_models
from LesionDiffusionLib.run import Settings
from LesionDiffusionLib.scripts.cli import main
from LesionDiffusionLib.synthesis import synthesize
from LesionDiffusionLib.training.starter_recipe import RECIPE, Recipe
from LesionDiffusionLib.wish import Wish

LARGEST_MB = 25
QUICK = ["--steps", "4", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(repository):
    return repository / "Resources" / "Models" / "starter"


def test_it_is_whole_and_small(folder, capsys):
    assert main(["bundles", "check", "starter"]) == 0
    assert "files match" in capsys.readouterr().out
    assert sum(path.stat().st_size for path in folder.iterdir()) < LARGEST_MB * 1e6


def test_its_card_says_what_it_was_trained_on(folder):
    card = (folder / "README.md").read_text()
    assert "procedurally rendered" in card
    assert "not for diagnosis" in card


def test_its_manifest_holds_the_recipe_that_stands_in_the_code(folder):
    """Whoever changes the recipe has to train the bundle again, or to say so. An option that is younger than the bundle
    has its default there, which is what was done before there was a choice."""
    written = json.loads((folder / "bundle.json").read_text())["made_by"]["recipe"]
    assert from_json(Recipe, written, "bundle.json") == RECIPE


def test_the_demo_puts_a_lesion_into_the_liver(tmp_path, capsys):
    """The command of the README with all its steps."""
    kept = ["--keep-phantom", str(tmp_path / "phantom")]
    assert main(["demo", "--out", str(tmp_path / "demo"), "--device", "cpu", *kept]) == 0
    assert "liver cancer in the liver" in capsys.readouterr().out
    before = read_ct(tmp_path / "phantom" / "phantom.nii.gz").volume
    after = read_ct(tmp_path / "demo" / "ct.nii.gz").volume
    organs = read_labels(tmp_path / "phantom" / "phantom-organs.nii.gz")[0].array
    lesion = read_mask(tmp_path / "demo" / "lesion.nii.gz").array
    provenance = json.loads((tmp_path / "demo" / "provenance.json").read_text())
    assert before.geometry.difference(after.geometry) is None
    assert provenance["max_abs_change_outside_hu"] == 0
    liver = next(number for number, name in load_table("totalseg_v1").items() if name == "liver")
    assert (organs[lesion] == liver).mean() > 0.9
    assert np.any(after.array[lesion] != before.array[lesion])


def test_it_follows_the_words_for_density():
    """Same seed, same mask, three words: as `Testing/measure_text.py` measures it over many seeds."""
    models = load_models(open_bundle("starter"), torch.device("cpu"))
    job = make_job(models, 30, 3.0)
    found_hu = {}
    for word in ("hypodense lesion", "isodense lesion", "hyperdense lesion"):
        wish = Wish(dataclasses.replace(job.report, density=word), mask=job.mask)
        case = synthesize(job.ct, job.organs, wish, bundle=models, settings=Settings(3))
        found_hu[word] = meters.median_hu(case.ct.array, job.mask)
    before_hu = meters.median_hu(job.ct.array, job.mask)
    assert found_hu["hypodense lesion"] < before_hu - 20
    assert abs(found_hu["isodense lesion"] - before_hu) < 20
    assert found_hu["hyperdense lesion"] > before_hu + 20


def test_same_seed_same_bytes_another_seed_another_lesion(tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert main(["demo", "--out", str(tmp_path / name), "--seed", seed, *QUICK]) == 0
    files = {name: (tmp_path / name / "ct.nii.gz").read_bytes() for name in "abc"}
    assert files["a"] == files["b"]
    assert files["a"] != files["c"]


@pytest.mark.shared
@pytest.mark.parametrize("lesion", ["liver cyst", "kidney stone"])
def test_a_real_ct(shared, tmp_path, lesion):
    """Geometry and voxel type of the input, the lesion where it belongs, and nothing changed elsewhere."""
    torso = shared / "data" / "torso"
    files = ["--ct", str(torso / "ct.nii.gz"), "--organs", str(torso / "organs.nii.gz"), "--labels", "totalseg_v1"]
    out = tmp_path / "out"
    assert main(["synthesize", *files, "--lesion", lesion, "--seed", "1", "--out", str(out), *QUICK]) == 0
    before, after = read_ct(torso / "ct.nii.gz"), read_ct(out / "ct.nii.gz")
    assert before.volume.geometry.difference(after.volume.geometry) is None
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["max_abs_change_outside_hu"] == 0
    assert provenance["voxels_changed_outside"] == 0
    changed = before.volume.array != after.volume.array
    lesion_mask = read_mask(out / "lesion.nii.gz").array
    assert changed[lesion_mask].mean() > 0.8
    assert changed.sum() < 30 * lesion_mask.sum() + 5000
