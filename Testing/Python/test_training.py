"""Training: the loop, rendered cases, and each network learning something in a few steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from patients import LINET_WINDOW, LMNET_WINDOW, make_patient, tiny_manifest
from torch import nn

from LesionDiffusionLib.diffusion.denoiser import Denoiser
from LesionDiffusionLib.diffusion.schedule import NoiseSchedule
from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.linet import LatentMask
from LesionDiffusionLib.networks.unet import UNet3D
from LesionDiffusionLib.networks.vocabulary_encoder import VocabularyEncoder
from LesionDiffusionLib.networks.vqgan import VQGAN
from LesionDiffusionLib.training.case_store import CaseStore, save_shard
from LesionDiffusionLib.training.loop import Ema, LoopOptions, optimize
from LesionDiffusionLib.training.phrases import vocabulary_phrases
from LesionDiffusionLib.training.rendered_case import random_case
from LesionDiffusionLib.training.train_denoisers import drop_attributes, train_linet, train_lmnet
from LesionDiffusionLib.training.train_vqgan import revive_codes, start_codebook, train_vqgan
from LesionDiffusionLib.training.volumes import TrainingVolume, load_volumes
from LesionDiffusionLib.training.windows import random_windows


def silent(_: str) -> None:
    """A report that goes nowhere."""


@pytest.fixture(scope="module")
def volume():
    ct, organs = make_patient()
    return TrainingVolume("patient", ct, organs, contrast=False)


@pytest.fixture(scope="module")
def store(volume, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    generator = np.random.default_rng(0)
    drawn = (random_case([volume], LMNET_WINDOW, LINET_WINDOW, generator) for _ in range(60))
    save_shard(folder / "shard_000.npz", [case for case in drawn if case is not None][:8])
    return CaseStore(folder)


def test_volumes_survive_a_round_trip(volume, tmp_path):
    volume.save(tmp_path)
    (loaded,) = load_volumes(tmp_path)
    assert np.array_equal(loaded.ct.array, volume.ct.array)
    assert np.array_equal(loaded.organs.volume.array, volume.organs.volume.array)
    assert loaded.ct.geometry.difference(volume.ct.geometry) is None
    assert (loaded.name, loaded.contrast) == ("patient", False)


def test_rendered_cases_agree_with_their_reports(volume):
    generator = np.random.default_rng(1)
    cases = [c for c in (random_case([volume], LMNET_WINDOW, LINET_WINDOW, generator) for _ in range(30)) if c]
    assert len(cases) > 10
    for case in cases:
        assert case.report.enhancement == "non-contrast CT"
        assert case.lmnet_mask.max() <= 1
        assert not np.array_equal(case.healthy_hu, case.lesion_hu)
        far = ~case.lmnet_box
        assert case.lmnet_mask[far].astype(float).sum() < 0.25 * case.lmnet_mask.astype(float).sum() + 2
        longest_vox = max(Box.bounding(case.lmnet_box).shape)
        assert longest_vox <= LMNET_WINDOW.box_voxels + 1, "the box is scaled to the lesion that was drawn"


def test_the_store_keeps_arrays_and_texts_together(store):
    assert len(store) == 8
    assert store.array("mask").shape == (8, 24, 24, 24)
    assert all("mm" in " ".join(strings) for strings in store.strings("image"))
    with pytest.raises(FileNotFoundError, match="run the step 'cases' first"):
        CaseStore(store_folder_without_cases())


def store_folder_without_cases():
    from pathlib import Path

    return Path("no-such-folder")


def test_windows_are_cut_from_the_body(volume, generator):
    windows = random_windows([volume], 6, 16, (1.0, 4.0), generator)
    assert windows.shape == (6, 16, 16, 16)
    assert windows.dtype == np.int16
    assert (windows > -300).mean() > 0.5


def test_learning_rate_warms_up_and_falls():
    options = LoopOptions(steps=1000, batch=1, learning_rate=1e-3, warmup=100)
    rates = [options.rate_at(step) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-5)
    assert max(rates) == pytest.approx(1e-3)
    assert np.all(np.diff(rates[100:]) < 0)
    assert rates[-1] < 3e-5


def test_ema_follows_the_closed_form():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(0.0)
    ema = Ema(layer, decay=0.9)
    layer.weight.data.fill_(1.0)
    wanted = 0.0
    for n in range(1, 40):
        ema.update(layer)
        factor = min(0.9, (1 + n) / (10 + n))
        wanted = factor * wanted + (1 - factor)
        assert ema.shadow["weight"].item() == pytest.approx(wanted, abs=1e-6)


def test_the_loop_minimizes_and_names_a_broken_loss():
    layer = nn.Linear(1, 1)
    x, y = torch.linspace(-1, 1, 32)[:, None], torch.linspace(-1, 1, 32)[:, None] * 3 + 1
    options = LoopOptions(steps=400, batch=1, learning_rate=0.05, warmup=5, clip=10)
    state = optimize(layer, lambda _: {"fit": (layer(x) - y).square().mean()}, options, silent)
    assert state["weight"].item() == pytest.approx(3, abs=0.05)
    assert state["bias"].item() == pytest.approx(1, abs=0.05)
    with pytest.raises(FloatingPointError, match="became nan at step 0"):
        optimize(layer, lambda _: {"fit": layer.weight.sum() * math.nan}, options, silent)


def test_vqgan_learns_and_uses_its_codebook(volume, generator):
    torch.manual_seed(0)
    windows = random_windows([volume], 12, 32, (2.0, 3.0), generator)
    model = VQGAN(tiny_manifest().autoencoder.config)
    seen = []
    options = LoopOptions(steps=12, batch=1, learning_rate=2e-3, warmup=5)
    trained = train_vqgan(model, windows, options, seen.append)
    assert not trained.training
    assert len(seen) == 1


def test_codebook_start_and_revival_put_codes_where_latents_are(volume, generator):
    torch.manual_seed(0)
    windows = random_windows([volume], 4, 32, (2.0, 3.0), generator)
    model = VQGAN(tiny_manifest().autoencoder.config)
    chance = torch.Generator().manual_seed(0)
    start_codebook(model, windows, chance, rounds=3)
    z = model.encode(torch.rand(1, 1, 16, 16, 16))
    size = model.config.codebook_size
    usage = torch.ones(size)
    usage[3] = 0
    before = model.quantize.embedding.weight.clone()
    revive_codes(model, z, usage, chance)
    moved = (model.quantize.embedding.weight != before).any(dim=1)
    assert moved.nonzero().flatten().tolist() == [3]
    rows = z.movedim(1, -1).flatten(0, -2)
    assert (rows - model.quantize.embedding.weight[3]).abs().sum(dim=1).min() < 1e-6


def test_attribute_dropout_keeps_order_and_sometimes_drops_all():
    generator = torch.Generator().manual_seed(0)
    strings = ["a", "b", "c", "d"]
    drawn = [drop_attributes(strings, generator) for _ in range(600)]
    assert all(kept == [""] or kept == [s for s in strings if s in kept] for kept in drawn)
    assert 0.05 < np.mean([kept == [""] for kept in drawn]) < 0.16
    assert 0.75 < np.mean(["a" in kept for kept in drawn]) < 0.87


def small(spec):
    torch.manual_seed(0)
    text = VocabularyEncoder(vocabulary_phrases(), spec.unet.context_dim)
    return Denoiser(UNet3D(spec.unet), NoiseSchedule.cosine(), "v"), text


def last_loss(lines: list[str], name: str) -> float:
    return float(lines[-1].split(name)[1].split()[0])


@pytest.mark.parametrize("network", ["lmnet", "linet"])
def test_learning_beats_not_learning_on_the_same_draws(store, network):
    """The same seed draws the same cases, timesteps and noise; only the learning rate differs."""
    latents = tuple(np.full((8, 4, 12, 12, 12), value, np.float16) for value in (0.0, 2.0))
    found = {}
    for rate in (0.0, 3e-3):
        denoiser, text = small(getattr(tiny_manifest(), network))
        before = text.embedding.weight.detach().clone()
        lines: list[str] = []
        options = LoopOptions(60 if network == "lmnet" else 20, 2, rate, warmup=4, ema_decay=0.9)
        if network == "lmnet":
            state = train_lmnet(denoiser, text, store, options, lines.append)
        else:
            state = train_linet(denoiser, text, latents, store, LatentMask("mean", 1), options, lines.append)
        found[rate] = last_loss(lines, network)
        assert {name.split(".")[0] for name in state} == {"unet", "text"}
        assert torch.equal(before, text.embedding.weight) == (rate == 0), "the text learns with its network"
    assert found[3e-3] < found[0.0]
