"""The measuring scripts can say no, count what they could not measure, and keep figures with their weights."""

from __future__ import annotations

import json
from types import SimpleNamespace

import exchanged_words
import numpy as np
import pytest
import raw_masks
import torch
from measuring import keep

from LesionDiffusionLib.errors import PlacementError, TrainingError
from LesionDiffusionLib.training.starter_card import TARGETS, measured, require_own_figures

WEIGHTS = {"linet.safetensors": "abc", "lmnet.safetensors": "123", "vqgan.safetensors": "456"}


@pytest.fixture
def models():
    linet, lmnet, autoencoder = (SimpleNamespace(file=name, threshold=0.5) for name in WEIGHTS)
    manifest = SimpleNamespace(name="mine", files=WEIGHTS, linet=linet, lmnet=lmnet, autoencoder=autoencoder)
    lmnet = raw_masks.RecordedLMNet(None, None)  # nothing is denoised here
    return SimpleNamespace(bundle=SimpleNamespace(manifest=manifest), lmnet=lmnet)


def drawn_as(models, drawn, monkeypatch):
    """Let the LMNet of ``models`` draw ``drawn`` for a box and an organ in the middle of a window."""
    maps = torch.zeros(1, 3, 12, 12, 12)
    maps[:, 1, :, :, :8] = 0.5
    maps[:, 2, 3:9, 3:9, 3:9] = 1
    steps = [SimpleNamespace(x=torch.as_tensor(drawn, dtype=torch.float32)[None, None])]
    monkeypatch.setattr(raw_masks.LMNet, "sample", lambda *args: iter(steps))
    list(models.lmnet.sample(maps, None, None, None))


def test_what_lmnet_draws_is_judged_before_it_is_cut(models, monkeypatch):
    drawn = np.zeros((12, 12, 12))
    drawn[4:8, 4:8, 4:8] = 1
    drawn_as(models, drawn, monkeypatch)
    assert list(raw_masks.judge_drawn(models, inside_organ=True).values()) == [True, True, True]
    drawn[4:8, 4:8, 8] = 1  # still in the box, no longer in the organ
    drawn_as(models, drawn, monkeypatch)
    assert list(raw_masks.judge_drawn(models, inside_organ=True).values()) == [True, False, True]
    assert list(raw_masks.judge_drawn(models, inside_organ=False).values()) == [True, None, True]
    drawn[0, :, :] = 1  # beyond the box, and a piece of its own
    drawn_as(models, drawn, monkeypatch)
    assert list(raw_masks.judge_drawn(models, inside_organ=False).values()) == [False, None, False]
    drawn_as(models, 0 * drawn, monkeypatch)
    assert list(raw_masks.judge_drawn(models, inside_organ=True).values()) == [False, False, False]


DENSITY = ("density", ("hypodense lesion", "hyperdense lesion"))


@pytest.fixture
def asked(monkeypatch):
    """What is synthesized: seeds and reports. The seed 3 finds no place."""
    asked = []

    def synthesized(ct, organs, wish, bundle, settings):
        asked.append((settings.seed, wish.report, wish.mask))
        if settings.seed == 3:
            raise PlacementError("no place")
        geometry = SimpleNamespace(spacing_mm=None)
        ct = SimpleNamespace(array=None, geometry=geometry)
        return SimpleNamespace(mask=SimpleNamespace(array=f"mask {settings.seed}"), ct=ct, report=wish.report)

    monkeypatch.setattr(exchanged_words, "synthesize", synthesized)
    return asked


def shares(lesions, seeds, **rows):
    organs = SimpleNamespace(mask=lambda name: None)
    return exchanged_words.shares_in_order(None, organs, None, lesions, seeds, rows)


def test_lesions_without_a_place_or_an_edge_are_counted(asked):
    """Four lesions: in order, not in order, not measurable, without a place."""
    values = iter([1.0, 2.0, 2.0, 2.0, 1.0, None])
    told = shares(4 * [exchanged_words.PLAIN], 1, density=(*DENSITY, lambda *args: next(values)))
    assert told == {"density": "50.0 % of 2 (2 without a place or an edge)"}


def test_words_are_exchanged_in_one_mask_with_every_seed_and_drawn_once(asked):
    texture = ("density_variations", ("homogeneous", "heterogeneous"), lambda *args: 1.0)
    told = shares(2 * [exchanged_words.PLAIN], 2, density=(*DENSITY, lambda *args: 1.0), texture=texture)
    assert set(told.values()) == {"0.0 % of 4 (0 without a place or an edge)"}
    assert [seed for seed, _, _ in asked] == [0, 0, 0, 1, 1, 1, 1000, 1000, 1000, 1001, 1001, 1001]
    assert [mask for _, _, mask in asked[:3]] == [None, "mask 0", "mask 0"]
    assert [(r.density, r.density_variations) for _, r, _ in asked[:3]] == [
        ("hypodense lesion", "homogeneous"),
        ("hyperdense lesion", "homogeneous"),
        ("hypodense lesion", "heterogeneous"),
    ]


def test_figures_are_of_their_own_weights(models, tmp_path):
    (tmp_path / "measured").mkdir()
    keep({"share": 1.0}, {"seeds": 3}, models, tmp_path / "measured" / "measure_text.json")
    kept = json.loads((tmp_path / "measured" / "measure_text.json").read_text())
    assert kept == {"share": 1.0, "settings": {"bundle": "mine", "seeds": 3, "weights": WEIGHTS}}
    require_own_figures(tmp_path, WEIGHTS)
    with pytest.raises(TrainingError, match=r"measure_text.json, which was measured with other weights"):
        require_own_figures(tmp_path, WEIGHTS | {"linet.safetensors": "def"})


def test_the_card_tells_what_misses_its_target(tmp_path):
    (tmp_path / "measured").mkdir()
    figures = dict.fromkeys(TARGETS["measure_bundle"], "100.0 % of 9")
    for patient, share in (("phantom", "89.9 % of 45 (5 without a place)"), ("torso", "none (50 without a place)")):
        told = figures | {"heterogeneous varies more": share, "settings": {"ct": patient}}
        (tmp_path / "measured" / f"measure_bundle.{patient}.json").write_text(json.dumps(told))
    told = dict.fromkeys(TARGETS["measure_reconstruction"], 10) | {"settings": {"ct": "series"}}
    (tmp_path / "measured" / "measure_reconstruction.series.json").write_text(json.dumps(told))
    card = measured(tmp_path)
    assert "| `measure_bundle` | target | phantom | torso |" in card
    missed = "**89.9 % of 45 (5 without a place)** | none (50 without a place)"
    assert f"| heterogeneous varies more | >= 90 | {missed} |" in card
    assert "| one piece | >= 95 | 100.0 % of 9 | 100.0 % of 9 |" in card
    assert "| PSNR dB over [-1000, 1000] HU | >= 34 | **10** |" in card
    assert "| soft-tissue mean absolute error HU | <= 15 | 10 |" in card


def test_figures_that_do_not_depend_on_a_network_stay_true_without_it(models, tmp_path):
    (tmp_path / "measured").mkdir()
    keep({"share": 1.0}, {}, models, tmp_path / "measured" / "measure_rule.json", ("lmnet", "autoencoder"))
    require_own_figures(tmp_path, WEIGHTS | {"linet.safetensors": "def"})
