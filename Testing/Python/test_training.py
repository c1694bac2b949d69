"""Training: the loop, rendered cases, and each network learning something in a few steps."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from patients import LINET_WINDOW, LMNET_WINDOW, make_patient, tiny_manifest

from LesionDiffusionLib.bundles import open_bundle
from LesionDiffusionLib.errors import SettingsError
from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.networks.vqgan import VQGAN
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.training import starter
from LesionDiffusionLib.training.build import make_denoiser, make_vqgan, model_state, normalized_units
from LesionDiffusionLib.training.case_store import FOR_LINET, CaseStore, save_shard
from LesionDiffusionLib.training.checkpoint import Checkpoint
from LesionDiffusionLib.training.config import TextOptions, VQGANLosses, deciding
from LesionDiffusionLib.training.inputs import Inputs, require_inputs
from LesionDiffusionLib.training.loop import LoopOptions, optimize
from LesionDiffusionLib.training.presets import PRESETS
from LesionDiffusionLib.training.rendered_case import random_case, reworded_cases
from LesionDiffusionLib.training.sources import RenderedImages, RenderedMasks
from LesionDiffusionLib.training.train_denoisers import (
    draw_timesteps,
    drop_attributes,
    linet_losses,
    linet_objective,
    lmnet_objective,
)
from LesionDiffusionLib.training.train_vqgan import draw_windows, revive_codes, start_codebook, vqgan_objective
from LesionDiffusionLib.training.volumes import TrainingVolume, load_volumes
from LesionDiffusionLib.training.windows import random_windows


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


def test_reworded_cases_differ_in_nothing_but_their_words(volume):
    """Same patient, same lesion; every report says another density, and the lesion has it."""
    generator = np.random.default_rng(3)
    groups = [reworded_cases([volume], LMNET_WINDOW, LINET_WINDOW, generator, None, 4) for _ in range(30)]
    assert 4 in {len(group) for group in groups} <= {0, 4}
    words = ("density", "density_variations", "surface")
    for first, *others in filter(None, groups):
        assert "stone" not in first.report.features, "whose density no word but their own describes"
        for case in others:
            assert np.array_equal(case.healthy_hu, first.healthy_hu)
            assert np.array_equal(case.mask, first.mask)
            assert not np.array_equal(case.lesion_hu, first.lesion_hu)
            same = {name: getattr(first.report, name) for name in words}
            assert dataclasses.replace(case.report, **same) == first.report
    stated = {(c.report.density, c.report.density_variations, c.report.surface) for group in groups for c in group}
    assert len(stated) > 10


def test_the_word_shards_of_the_starter_are_for_linet_and_can_be_continued(volume, tmp_path, monkeypatch):
    small = dataclasses.replace(
        starter.RECIPE,
        word_shards=2,
        cases_per_shard=2,
        words=3,
        lmnet=dataclasses.replace(starter.RECIPE.lmnet, window=LMNET_WINDOW),
        linet=dataclasses.replace(starter.RECIPE.linet, window=LINET_WINDOW),
    )
    monkeypatch.setattr(starter, "RECIPE", small)
    (tmp_path / "volumes").mkdir()
    volume.save(tmp_path / "volumes")
    starter.words(tmp_path, tmp_path)
    first, second = sorted((tmp_path / "words").glob("*.npz"))
    made = CaseStore(tmp_path / "words").array("lesion_hu")
    assert len(made) == 2 * 2 * 3
    assert set(np.load(first).files) == {"texts", *FOR_LINET}
    reports = [LesionReport.from_json(text["report"]) for text in CaseStore(tmp_path / "words").texts]
    assert {report.organ for report in reports[6:]} <= starter.ORGANS
    second.unlink()
    kept = first.stat().st_mtime_ns
    starter.words(tmp_path, tmp_path)
    assert first.stat().st_mtime_ns == kept
    assert np.array_equal(CaseStore(tmp_path / "words").array("lesion_hu"), made)


def test_the_store_keeps_arrays_and_texts_together(store):
    assert len(store) == 8
    assert store.array("mask").shape == (8, 24, 24, 24)
    assert all("mm" in " ".join(strings) for strings in store.strings("image"))
    with pytest.raises(FileNotFoundError, match="run the steps 'cases' and 'words' first"):
        CaseStore(store_folder_without_cases())


def store_folder_without_cases():
    from pathlib import Path

    return Path("no-such-folder")


def test_windows_are_cut_from_the_body(volume, generator):
    windows = random_windows([volume], 6, 16, (1.0, 4.0), generator)
    assert windows.shape == (6, 16, 16, 16)
    assert windows.dtype == np.int16
    assert (windows > -300).mean() > 0.5


def tiny_vqgan_training(**changes):
    preset = PRESETS["starter"]["vqgan"]
    loop = LoopOptions(steps=12, batch=1, learning_rate=2e-3, warmup=5, report_every=1)
    network, window = tiny_manifest().autoencoder.config, dataclasses.replace(LINET_WINDOW, shape=(32, 32, 32))
    fixed = {"network": network, "window": window, "loop": loop, "crop": 16, "start": "random"}
    return dataclasses.replace(preset, **fixed | changes)


def test_vqgan_learns_and_uses_its_codebook(volume, generator):
    windows = random_windows([volume], 12, 32, (2.0, 3.0), generator)
    training = tiny_vqgan_training()
    model, seen = make_vqgan(training), []
    state = model_state(optimize(vqgan_objective(model, windows, training), training.loop, seen.append))
    assert set(state) == set(VQGAN(training.network).state_dict())
    assert seen[-1].losses["l1"] < seen[0].losses["l1"]
    assert "latent" in seen[5].raw
    assert "codebook" in seen[6].raw, "quantized from the half on"


@pytest.mark.parametrize(("whole_every", "edges"), [(3, [32, 16, 16, 32]), (0, [16, 16, 16, 16])])
def test_a_whole_window_comes_now_and_then_or_never(whole_every, edges):
    training = tiny_vqgan_training(whole_every=whole_every)
    windows, chance = np.zeros((2, 32, 32, 32), np.int16), torch.Generator().manual_seed(0)
    assert [draw_windows(windows, training, step, chance).shape[-1] for step in range(4)] == edges


@pytest.mark.parametrize("adversarial", ["log", "hinge"])
def test_judges_and_autoencoder_learn_against_each_other(volume, generator, adversarial):
    windows = random_windows([volume], 4, 32, (2.0, 3.0), generator)
    losses = VQGANLosses(1.0, 0.0, adversarial=adversarial, adversarial_from=2, slices=True, discriminator_norm="group")
    training = tiny_vqgan_training(losses=losses, codebook_start="uniform")
    training = dataclasses.replace(training, loop=dataclasses.replace(training.loop, steps=4))
    objective, seen = vqgan_objective(make_vqgan(training), windows, training), []
    before = {name: value.clone() for name, value in objective.module.state_dict().items()}
    after = optimize(objective, training.loop, seen.append)
    assert "judges" not in seen[1].raw
    assert {"l1", "codebook", "adversarial", "judges"} == set(seen[2].raw)
    assert [len(group) > 0 for group in objective.groups] == [True, True]
    moved = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"model", "judges"}


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


@pytest.mark.parametrize(("whitening", "deviations"), [(1.0, (1, 1, 1)), (0.0, (1, 0.01, 0.25)), (0.5, (1, 0.1, 0.5))])
def test_whitening_decides_how_alike_channels_become(whitening, deviations):
    z = torch.randn(3, 3, 20, 20, 20, generator=torch.Generator().manual_seed(0))
    z = z * torch.tensor([4.0, 0.04, 1.0]).reshape(1, 3, 1, 1, 1) + 7
    shift, scale = normalized_units(z, whitening)
    normalized = (z - shift.reshape(1, 3, 1, 1, 1)) / scale.reshape(1, 3, 1, 1, 1)
    torch.testing.assert_close(normalized.mean(dim=(0, 2, 3, 4)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(normalized.std(dim=(0, 2, 3, 4)), torch.tensor(deviations).float(), rtol=0.02, atol=0)


def test_attribute_dropout_keeps_order_and_sometimes_drops_all():
    generator = torch.Generator().manual_seed(0)
    strings = ["a", "b", "c", "d"]
    drawn = [drop_attributes(strings, TextOptions(), generator) for _ in range(600)]
    assert all(kept == [""] or kept == [s for s in strings if s in kept] for kept in drawn)
    assert 0.05 < np.mean([kept == [""] for kept in drawn]) < 0.16
    assert 0.75 < np.mean(["a" in kept for kept in drawn]) < 0.87


def tiny_training(network: str, **changes):
    unet = getattr(tiny_manifest(), network).unet
    return dataclasses.replace(PRESETS["starter"][network], network=unet, **changes)


@pytest.mark.parametrize("bias", [1.0, 2.0, 3.0])
def test_timesteps_are_distributed_as_a_power(bias):
    t = draw_timesteps(100_000, 1000, bias, torch.Generator().manual_seed(0))
    assert (t.min() >= 0, t.max()) == (True, 999)
    for border in (250, 500, 900):
        assert (t < border).double().mean() == pytest.approx((border / 1000) ** bias, abs=0.006)


@pytest.mark.parametrize("network", ["lmnet", "linet"])
def test_learning_beats_not_learning_on_the_same_draws(store, network):
    """The same seed draws the same cases, timesteps and noise; only the learning rate differs."""
    latents = (np.full((8, 4, 12, 12, 12), value, np.float16) for value in (0.0, 2.0))
    source = RenderedMasks(store) if network == "lmnet" else RenderedImages(store, *latents)
    objective_of = {"lmnet": lmnet_objective, "linet": linet_objective}[network]
    found = {}
    for rate in (0.0, 3e-3):
        loop = LoopOptions(24 if network == "lmnet" else 16, 2, rate, warmup=4, ema_decay=0.9)
        training = tiny_training(network, loop=loop, prediction="v")
        denoiser, text = make_denoiser(training)
        before = text.embedding.weight.detach().clone()
        seen = []
        state = optimize(objective_of(denoiser, text, source, training), loop, seen.append)
        found[rate] = seen[-1].losses[network]
        assert {name.split(".")[0] for name in state} == {"unet", "text"}
        assert torch.equal(before, text.embedding.weight) == (rate == 0), "the text learns with its network"
    assert found[3e-3] < found[0.0]


def test_the_relative_loss_lets_a_faint_lesion_count_beside_a_strong_one():
    """For a lesion ten times as strong the plain one is a hundred times as large, and this one ten times."""
    training = dataclasses.replace(PRESETS["starter"]["linet"], loss="relative_l2")
    region = torch.zeros(1, 1, 4, 4, 4)
    region[..., 1:3] = 1
    losses = {}
    for loss in ("masked_l2", "relative_l2"):
        chosen = dataclasses.replace(training, loss=loss)
        losses[loss] = []
        for strength in (10.0, 100.0):
            change = torch.full((1, 4, 4, 4, 4), strength)
            target = torch.zeros_like(change)
            (value,) = linet_losses(target + change / 2, target, region, chosen, change).values()
            losses[loss].append(float(value))
    faint, strong = losses["masked_l2"]
    assert (faint, strong) == pytest.approx((25.0, 2500.0))
    faint, strong = losses["relative_l2"]
    assert (faint, strong) == pytest.approx((25.0 / 10.5, 2500.0 / 100.5))


@pytest.mark.parametrize(
    ("training", "told"),
    [
        (starter.RECIPE.linet, "diffuses the change needs every patient without the lesion"),
        (
            dataclasses.replace(PRESETS["starter"]["linet"], loss="relative_l2"),
            "relative_l2 weighs by what the lesion changed",
        ),
    ],
)
def test_what_needs_the_patient_without_the_lesion_is_refused_for_prepared_cases(training, told, tmp_path):
    """There the latents shown are those learned: the change is nothing, and no case would weigh more than another."""
    with pytest.raises(SettingsError, match=told):
        require_inputs(training, Inputs(tmp_path, torch.device("cpu")))


@pytest.mark.parametrize("step", ["lmnet", "linet"])
def test_the_starter_does_not_go_on_under_another_recipe(step, tmp_path, monkeypatch, capsys):
    former = dataclasses.replace(getattr(starter.RECIPE, step), noise_bias=7.0)
    Checkpoint(tmp_path / f"{step}.checkpoint", deciding(former)).save({"done": 1})
    monkeypatch.setattr(starter, "optimize", lambda objective, options, checkpoint: checkpoint.load())
    for name in ("CaseStore", "RenderedMasks", "RenderedImages", "lmnet_objective", "linet_objective"):
        monkeypatch.setattr(starter, name, lambda *args: None)
    monkeypatch.setattr(starter.np, "load", lambda path: np.zeros(1))
    monkeypatch.setattr(sys, "argv", ["starter", step, "--data", str(tmp_path), "--work", str(tmp_path)])
    assert starter.main() == 2
    assert "belongs to a training with other settings: noise_bias was 7.0" in capsys.readouterr().err


def test_a_card_with_figures_of_other_weights_is_refused_and_what_was_packed_stays(tmp_path, monkeypatch, capsys):
    shipped = open_bundle("starter")
    for name in shipped.manifest.files:
        if name.endswith(".safetensors"):
            (tmp_path / name).write_bytes((shipped.folder / name).read_bytes())
    codec = shipped.manifest.autoencoder
    (tmp_path / "latents.json").write_text(json.dumps({"shift": codec.latent_shift, "scale": codec.latent_scale}))
    monkeypatch.setattr(sys, "argv", ["starter", "bundle", "--data", str(tmp_path), "--work", str(tmp_path)])
    assert starter.main() == 0
    packed = open_bundle(tmp_path / "starter").manifest.files
    (tmp_path / "measured").mkdir()
    (tmp_path / "measured" / "measure_text.json").write_text('{"settings": {"weights": {"linet.safetensors": "abc"}}}')
    assert starter.main() == 2
    assert "measure_text.json, which was measured with other weights" in capsys.readouterr().err
    assert open_bundle(tmp_path / "starter").manifest.files == packed


def test_a_window_without_a_lesion_does_not_break_the_loss():
    training = PRESETS["starter"]["linet"]
    nothing, anything = torch.zeros(1, 1, 4, 4, 4), torch.ones(1, 4, 4, 4, 4)
    (value,) = linet_losses(anything, -anything, nothing, training, anything).values()
    assert float(value) == 0
