"""Small datasets for training tests: one made-up patient with ellipsoid lesions, as files and as prepared cases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from patients import make_patient

from LesionDiffusionLib.datasets.layouts import table
from LesionDiffusionLib.datasets.preparation import Preparation, prepare
from LesionDiffusionLib.io import write_labels
from LesionDiffusionLib.training.checkpoint import Checkpoint
from LesionDiffusionLib.training.prepared import MANIFEST
from LesionDiffusionLib.training.presets import load_config

UNET = ("norm_groups=8", "model_channels=16", "channel_mult=[1,2]", "attention_resolutions=[2]", "context_dim=16")
LOOP = ("steps=6", "report_every=1", "checkpoint_every=2", "preview_every=3", "warmup=2")
SMALL_WINDOW, WINDOW = (
    ("window.shape=[16,16,16]", "window.box_voxels=8"),
    ("window.shape=[24,24,24]", "window.box_voxels=12"),
)
SETTINGS = {  # of trainings that take seconds, on top of the preset "starter"
    "vqgan": (
        *("network.channel_multipliers=[1,1]", "network.sample_depth=[0]", "network.codebook_size=32", "crop=16"),
        *WINDOW,
    ),
    "lmnet": (*(f"network.{setting}" for setting in UNET), *SMALL_WINDOW),
    "linet": (*(f"network.{setting}" for setting in UNET), *WINDOW),
}
RELEASED_VQGAN = ("network.norm_groups=16", "network.upsampling=nearest", "start=random")  # instead of the starter's
LESION_HU = {"hypodense": 20.0, "hyperdense": 110.0}


def tiny_training(network: str, *settings: str):
    """Settings of a training that takes seconds, changed by "key=value"."""
    return load_config(network, "starter", None, (*SETTINGS[network], *(f"loop.{text}" for text in LOOP), *settings))


def interrupted_after(step, monkeypatch):
    """Ctrl-C once the checkpoint of a step is written."""
    save = Checkpoint.save

    def save_and_stop(self, state):
        save(self, state)
        if state["done"] == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", save_and_stop)


def with_lesion(center, radii, lesion_hu, seed=0):
    """CT, organ map and lesion mask of the made-up patient with an ellipsoid in the liver."""
    ct, organs = make_patient(seed=seed)
    grids = np.meshgrid(*(np.arange(n) for n in ct.array.shape), indexing="ij")
    mask = sum(((g - c) / r) ** 2 for g, c, r in zip(grids, center, radii, strict=True)) < 1
    array = ct.array.copy()
    array[mask] = lesion_hu + np.random.default_rng(seed).normal(0, 3, int(mask.sum()))
    return np.round(array), organs, mask, ct.geometry


def write_dataset(folder: Path, count: int = 4) -> Path:
    """A CSV dataset of ``count`` scans, a patient each; lesions differ in place, shape and density. Returns the CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["name,patient,image,label,lesion_value,lesion_type,organ,organs,numbering,enhancement"]
    for n in range(count):
        center, radii = (20 + 3 * n, 20 + n, 27 - n), (6 - n % 2, 5 + n % 2, 4)
        hu, organs, mask, geometry = with_lesion(center, radii, LESION_HU[("hypodense", "hyperdense")[n % 2]], n)
        write_labels(hu.astype(np.int16), geometry, folder / f"ct{n}.nii.gz")
        write_labels(mask.astype(np.uint8), geometry, folder / f"label{n}.nii.gz")
        write_labels(organs.volume.array, geometry, folder / f"organs{n}.nii.gz")
        rows.append(f"s{n},p{n},ct{n}.nii.gz,label{n}.nii.gz,1,liver cancer,liver,organs{n}.nii.gz,totalseg_v1,")
    path = folder / "table.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def prepared_dataset(folder: Path, count: int = 4, train_all: bool = False) -> Path:
    """The same, prepared; ``train_all`` holds nothing out."""
    prepare("csv", table(write_dataset(folder / "raw", count)), Preparation(folder / "prepared"))
    if train_all:
        path = folder / "prepared" / MANIFEST
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for case in manifest["cases"]:
            case["split"] = "train"
        path.write_text(json.dumps(manifest), encoding="utf-8")
    return folder / "prepared"
