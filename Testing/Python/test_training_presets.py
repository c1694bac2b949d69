"""The presets as they are but for their size: trained, interrupted, resumed, exported, and used by `synthesize`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from patients import write_patient
from released_checkpoints import TINY, save_biomedclip
from safetensors.torch import load_file, save_file
from training_cases import SETTINGS, interrupted_after, prepared_dataset

from LesionDiffusionLib.networks import discriminator
from LesionDiffusionLib.networks.lpips import LPIPS
from LesionDiffusionLib.scripts.cli import main
from LesionDiffusionLib.training import train_vqgan
from LesionDiffusionLib.training.config import SCHEDULES
from LesionDiffusionLib.training.presets import PRESETS

LOOP = ("loop.steps=4", "loop.warmup=1", "loop.checkpoint_every=2", "loop.preview_every=0")
WINDOW = ("window.shape=[16,16,16]", "window.min_spacing_mm=2", "window.max_spacing_mm=2")
UNET = ("network.model_channels=8", f"network.context_dim={TINY.text.output_dim}", *WINDOW)
SIZES = {
    "vqgan": ("network.channels=16", "network.codebook_size=32", "losses.adversarial_from=1", *WINDOW),
    "lmnet": UNET,
    "linet": UNET,
}
LOSSES = {
    "paper": {"vqgan": {"l2", "adversarial", "judges", "codebook"}, "lmnet": {"lmnet"}, "linet": {"linet"}},
    "released": {
        "vqgan": {"l1", "lpips", "adversarial", "judges", "codebook"},
        "lmnet": {"lmnet"},
        "linet": {"linet", "dice"},
    },
}


class Given(NamedTuple):
    """What the trainings of the presets are given: prepared cases, a text encoder, a perceptual distance."""

    data: Path
    text: Path
    lpips: Path


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    save_file(LPIPS().state_dict(), folder / "lpips.safetensors")
    return Given(prepared_dataset(folder), save_biomedclip(folder / "text"), folder / "lpips.safetensors")


@pytest.fixture(autouse=True)
def small_judges(monkeypatch):
    """Their width is no setting."""
    monkeypatch.setattr(discriminator, "WIDTHS", (8, 16, 32, 64))


def command(preset: str, network: str, data: Path, *more, settings: tuple[str, ...] = ()) -> list[str]:
    sets = [part for text in (*settings, *LOOP) for part in ("--set", text)]
    where = ("--data", data, "--device", "cpu", "--preset", preset, "--no-tensorboard")
    return ["train", network, *map(str, (*where, *sets, *more))]


def resumed_after(step: int, start: list[str], folder: Path, monkeypatch, *export) -> Path:
    """Where a training was interrupted after a step and resumed, which must end as one that was not interrupted."""
    whole, stopped = folder / "whole", folder / "stopped"
    assert main([*start, "--out", str(whole)]) == 0
    with monkeypatch.context() as patch:
        interrupted_after(step, patch)
        assert main([*start, "--out", str(stopped)]) == 130
    assert not (stopped / "weights.safetensors").exists()
    assert main([*start, "--out", str(stopped), "--resume", *map(str, export)]) == 0
    assert (stopped / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    return stopped


def require_preset(preset: str, network: str, folder: Path) -> None:
    """Losses, optimizer and schedule of a finished training are those of its preset."""
    wanted, state = PRESETS[preset][network], torch.load(folder / "checkpoint.pt", weights_only=True)
    assert set(state["means"]) == LOSSES[preset][network]
    for group in state["optimizer"]["param_groups"]:
        assert (group["betas"], group["weight_decay"]) == (wanted.loop.betas, wanted.loop.weight_decay)
    assert ("ema" in state) == (wanted.loop.ema_decay > 0)
    if network != "vqgan":
        schedule = load_file(folder / "weights.safetensors")["alphas_cumprod"]
        assert torch.equal(schedule, SCHEDULES[wanted.schedule]().alphas_cumprod)


@pytest.mark.parametrize("preset", LOSSES)
def test_a_preset_is_trained_resumed_exported_and_used(preset, given, tmp_path, monkeypatch):
    """The autoencoder is interrupted while its judges are at work. Together the networks make a lesion in a CT."""
    text = ("--text-encoder", given.text)
    needed = {
        "vqgan": ("--lpips", given.lpips) if PRESETS[preset]["vqgan"].losses.lpips else (),
        "lmnet": text,
        "linet": (*text, "--autoencoder", tmp_path / "vqgan" / "stopped"),
    }
    export = ("--with", tmp_path / "lmnet" / "stopped", "--bundle-folder", tmp_path, "--export-bundle", "own")
    for network, more in needed.items():
        start = command(preset, network, given.data, *more, settings=SIZES[network])
        last = export if network == "linet" else ()
        require_preset(preset, network, resumed_after(2, start, tmp_path / network, monkeypatch, *last))
    told = synthesized(tmp_path, *text)
    assert told["voxels_changed"] > 0
    for stage, network in (("mask", "lmnet"), ("image", "linet")):
        wanted = dataclasses.asdict(PRESETS[preset][network].sampling) | {"steps": 2}
        assert told["settings"][stage] == wanted


def synthesized(folder: Path, *text) -> dict:
    """The provenance of a lesion for which both networks of the bundle ``own`` were asked, in two steps each."""
    write_patient(folder)
    files = ("--ct", folder / "ct.nii.gz", "--organs", folder / "organs.nii.gz", "--labels", "totalseg_v1")
    wish = ("--lesion", "liver cyst", "--size-mm", "20,20,20", "--steps", "2")
    where = ("--bundle", folder / "own", *text, "--out", folder / "case", "--device", "cpu")
    assert main(["synthesize", *map(str, (*files, *wish, *where))]) == 0
    return json.loads((folder / "case" / "provenance.json").read_text())


@pytest.mark.parametrize("step", [3, 4])
def test_a_codebook_that_starts_from_the_latents_survives_an_interruption(step, given, tmp_path, monkeypatch):
    """Right before that start, and after it, when it is counted which codes are chosen: the others are moved."""
    monkeypatch.setattr(train_vqgan, "REVIVE_EVERY", 2)
    long = ("--set", "loop.steps=6", "--set", "loop.checkpoint_every=1")
    start = command("starter", "vqgan", given.data, *long, settings=SETTINGS["vqgan"])
    resumed_after(step, start, tmp_path, monkeypatch)
