"""Which networks may leave a full GPU while another one works."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from patients import make_patient, tiny_bundle

from LesionDiffusionLib import run as run_module
from LesionDiffusionLib.errors import PlacementError
from LesionDiffusionLib.models import load_models
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.run import Settings
from LesionDiffusionLib.synthesis import synthesize
from LesionDiffusionLib.wish import Wish


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return load_models(tiny_bundle(tmp_path_factory.mktemp("idle") / "bundle"), torch.device("cpu"))


def networks(models):
    return models.lmnet.denoiser.backbone, models.linet.denoiser.backbone, models.linet.codec.autoencoder


class TextWithTower:
    tower = torch.nn.Linear(1, 1)


def test_all_networks_but_the_working_one_are_idle_each_once(models):
    lmnet, linet, autoencoder = networks(models)
    told = dataclasses.replace(models, mask_text=(text := TextWithTower()), image_text=text)
    assert told.idle_beside(linet) == [lmnet, autoencoder, text.tower]
    assert told.idle_beside(text.tower) == [lmnet, linet, autoencoder]


def test_every_stage_that_computes_names_its_network(models, monkeypatch):
    """LMNet, encoding, LINet and decoding ask for the fallback with exactly the other networks idle."""
    asked = []

    def noted(compute, device, notes, idle, halvable):
        assert halvable, "all are in single precision"
        asked.append(tuple(idle))
        return compute()

    monkeypatch.setattr(run_module, "with_memory_fallback", noted)
    ct, organs = make_patient()
    lmnet, linet, autoencoder = networks(models)
    report, settings = LesionReport(lesion_type="liver cyst", size_mm=(12, 12, 12)), Settings(1, steps=2)
    with pytest.raises(PlacementError, match="LMNet drew none"):  # its weights are random
        synthesize(ct, organs, Wish(report), bundle=models, settings=settings)
    assert set(asked) == {(linet, autoencoder)}
    asked.clear()
    mask = np.zeros(ct.array.shape, bool)
    mask[20:28, 18:26, 26:32] = True
    synthesize(ct, organs, Wish(report, mask=mask), bundle=models, settings=settings)
    assert asked == [(lmnet, linet), (lmnet, autoencoder), (lmnet, linet), (lmnet, linet)]


def test_a_second_try_draws_the_same_lesion(models, monkeypatch):
    ct, organs = make_patient()
    mask = np.zeros(ct.array.shape, bool)
    mask[20:28, 18:26, 26:32] = True
    report, settings = LesionReport(lesion_type="liver cyst", size_mm=(12, 12, 12)), Settings(1, steps=2)
    wanted, other = (
        synthesize(ct, organs, Wish(report, mask=mask), bundle=models, settings=s)
        for s in (settings, dataclasses.replace(settings, seed=2))
    )
    monkeypatch.setattr(run_module, "with_memory_fallback", lambda compute, *_: [compute(), compute()][1])
    found = synthesize(ct, organs, Wish(report, mask=mask), bundle=models, settings=settings)
    assert np.array_equal(found.ct.array, wanted.ct.array)
    assert not np.array_equal(found.ct.array, other.ct.array), "the noise matters"
