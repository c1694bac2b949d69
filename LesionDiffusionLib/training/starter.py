"""The starter bundle, end to end.

    python -m LesionDiffusionLib.training.starter STEP --data ../shared/data --work runs/starter

Steps, in order: volumes, windows, vqgan, cases, words, latents, lmnet, linet, bundle (or `all`). Each writes its result
into the work folder, so that a step can be repeated alone; a training goes on where it stopped. Then
`sh Testing/measure_starter.sh ../shared/data runs/starter` measures the bundle and packs it again with its figures.
What decides the weights stands in `starter_recipe.py`; how the shipped ones came to be besides stands in their card.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from LesionDiffusionLib import __version__
from LesionDiffusionLib.bundles import AutoencoderSpec, Manifest, write_bundle
from LesionDiffusionLib.devices import use_threads
from LesionDiffusionLib.errors import LesionDiffusionError
from LesionDiffusionLib.labels import OrganMap, load_table
from LesionDiffusionLib.lesion_types import LesionType, all_lesion_types
from LesionDiffusionLib.linet import LatentCodec
from LesionDiffusionLib.networks.vqgan import VQGAN
from LesionDiffusionLib.phantom import make_phantom
from LesionDiffusionLib.training.build import (
    denoiser_tensors,
    make_denoiser,
    make_vqgan,
    model_state,
    normalized_units,
    plain_codec,
)
from LesionDiffusionLib.training.bundling import FILES, linet_spec, lmnet_spec, text_spec
from LesionDiffusionLib.training.case_store import ARRAYS, FOR_LINET, CaseStore, save_shard
from LesionDiffusionLib.training.checkpoint import Checkpoint
from LesionDiffusionLib.training.config import LMNetTraining, deciding
from LesionDiffusionLib.training.loop import optimize
from LesionDiffusionLib.training.organ_guess import guess_organs
from LesionDiffusionLib.training.rendered_case import RenderedCase, random_case, reworded_cases
from LesionDiffusionLib.training.sources import RenderedImages, RenderedMasks
from LesionDiffusionLib.training.starter_card import measured, model_card, require_own_figures
from LesionDiffusionLib.training.starter_recipe import ORGANS, RECIPE, SOURCES, UNSEEN_BY_VQGAN, WITHOUT_ORGANS
from LesionDiffusionLib.training.train_denoisers import linet_objective, lmnet_objective
from LesionDiffusionLib.training.train_vqgan import vqgan_objective
from LesionDiffusionLib.training.volumes import TrainingVolume, in_v1, load_volumes
from LesionDiffusionLib.training.windows import random_windows
from LesionDiffusionLib.volume import Volume
from LesionDiffusionLib.whole_file import whole_file

ENCODED_AT_ONCE = 50
SHOWN = ("healthy_hu", "lesion_hu")  # what LINet sees, and what it should paint
SHARD_SEEDS = {"cases": 11, "words": 12}  # by the folder of LINet's examples
MINUTES = "minutes.json"
LICENSE = "MIT; trained on a procedural phantom and on CTs under Apache-2.0 and BSD-3-Clause (see README.md)"


def volumes(data: Path, work: Path) -> None:
    """Real CTs and phantoms as training volumes."""
    from LesionDiffusionLib.io import read_ct, read_labels
    from LesionDiffusionLib.labels import organ_map
    from LesionDiffusionLib.volume import align_to

    folder = _made(work / "volumes")
    v1 = load_table("totalseg_v1")
    for source in SOURCES:
        ct = read_ct(data / source.ct).volume
        organs = None
        if source.organs is not None:
            labels, names = read_labels(data / source.organs)
            organs = in_v1(organ_map(align_to(labels, ct, "organ map"), names, source.numbering))
        elif source.name not in WITHOUT_ORGANS:
            organs = OrganMap(Volume(guess_organs(ct), ct.geometry), v1)
        TrainingVolume(source.name, ct, organs, source.contrast).save(folder)
        print(f"volume {source.name}")
    for number in range(RECIPE.phantoms):
        generator = np.random.default_rng([77, number])
        head = number >= RECIPE.phantoms - 2
        spacing_mm = 1.5 if head else (2.5, 2.0, 3.0)[number % 3]
        contrast = number % 2 == 0 and not head
        region = "head" if head else "torso"
        phantom = make_phantom(generator, region, spacing_mm, contrast, noise_hu=float(generator.uniform(6, 18)))
        TrainingVolume(f"phantom_{number:02d}", phantom.ct, phantom.organs, contrast).save(folder)
        print(f"volume phantom_{number:02d}")


def windows(data: Path, work: Path) -> None:
    """Healthy windows for the autoencoder."""
    chance = np.random.default_rng(5)
    size = RECIPE.vqgan.window.shape[0]
    seen = [v for v in load_volumes(work / "volumes") if v.name not in UNSEEN_BY_VQGAN]
    cut = random_windows(seen, RECIPE.windows, size, RECIPE.window_spacing_mm, chance)
    np.save(work / "windows.npy", cut)


def vqgan(data: Path, work: Path) -> None:
    """Train the autoencoder."""
    training = RECIPE.vqgan
    train_on = np.load(work / "windows.npy")[: RECIPE.windows]
    model = make_vqgan(training).to(memory_format=torch.channels_last_3d)  # which convolves faster on a CPU
    checkpoint = Checkpoint(work / "vqgan.checkpoint", deciding(training))
    state = optimize(vqgan_objective(model, train_on, training), training.loop, checkpoint=checkpoint)
    _save(model_state(state), work / "vqgan.safetensors")


def cases(data: Path, work: Path) -> None:
    """Rendered cases; shards that exist are kept, so that the step can be continued. Delete those of another recipe."""
    first_of_organs = RECIPE.shards - RECIPE.organ_shards

    def drawn(shard: int, volumes: list[TrainingVolume], generator: np.random.Generator) -> list[RenderedCase]:
        kinds = organ_types() if shard >= first_of_organs else None
        case = random_case(volumes, RECIPE.lmnet.window, RECIPE.linet.window, generator, kinds)
        return [] if case is None else [case]

    _write_shards(work, "cases", RECIPE.shards, RECIPE.cases_per_shard, ARRAYS, drawn)


def words(data: Path, work: Path) -> None:
    """Lesions drawn several times, alike but for their words; every second shard in ORGANS alone. For LINet."""

    def drawn(shard: int, volumes: list[TrainingVolume], generator: np.random.Generator) -> list[RenderedCase]:
        windows = RECIPE.lmnet.window, RECIPE.linet.window
        return reworded_cases(volumes, *windows, generator, organ_types() if shard % 2 else None, RECIPE.words)

    count = RECIPE.words * RECIPE.cases_per_shard
    _write_shards(work, "words", RECIPE.word_shards, count, FOR_LINET, drawn)


def _write_shards(
    work: Path, name: str, shards: int, count: int, arrays: tuple[str, ...], draw: Callable[..., list[RenderedCase]]
) -> None:
    """``count`` cases a shard into ``work/name``, as ``draw(shard, volumes, generator)`` gives them."""
    folder = _made(work / name)
    all_volumes = [v for v in load_volumes(work / "volumes") if v.organs is not None]
    real = [v for v in all_volumes if not v.name.startswith("phantom")]
    drawn_from = all_volumes + (RECIPE.real_share - 1) * real
    for shard in range(shards):
        path = folder / f"shard_{shard:03d}.npz"
        if path.exists():
            continue
        generator = np.random.default_rng([SHARD_SEEDS[name], shard])
        rendered: list[RenderedCase] = []
        while len(rendered) < count:
            rendered += draw(shard, drawn_from, generator)
        with whole_file(path) as partial:
            save_shard(partial, rendered, arrays)
        print(f"{name} {shard + 1}/{shards}")


def organ_types() -> list[LesionType]:
    """The lesion types that occur in ORGANS."""
    return [kind for kind in all_lesion_types() if ORGANS & set(kind.organs)]


def latents(data: Path, work: Path) -> None:
    """Latents of LINet's cases, normalized, and the statistics that normalize them."""
    model = VQGAN(RECIPE.vqgan.network)
    model.load_state_dict(load_file(work / "vqgan.safetensors"))
    plain = plain_codec(model)
    store = CaseStore(work / "cases")
    encoded = {name: _encoded(plain, store.array(name)) for name in SHOWN}
    _, scale = normalized_units(encoded["lesion_hu"], RECIPE.linet.whitening)
    middle = RECIPE.linet.window.shape[0] // 4
    shift = plain.encode(np.full(RECIPE.linet.window.shape, RECIPE.tissue_hu))[0, :, middle, middle, middle]
    codec = dataclasses.replace(plain, shift=shift, scale=scale)
    for name, z in encoded.items():
        _save_latents(work, "cases", name, codec.normalized(z))
    healthy, lesion = (CaseStore(work / "words").array(name) for name in SHOWN)
    once = _encoded(codec, healthy[:: RECIPE.words])  # the words change, the patient does not
    _save_latents(work, "words", "healthy_hu", once.repeat_interleave(RECIPE.words, dim=0))
    _save_latents(work, "words", "lesion_hu", _encoded(codec, lesion))
    (work / "latents.json").write_text(json.dumps({"shift": shift.tolist(), "scale": scale.tolist()}))


def lmnet(data: Path, work: Path) -> None:
    """Train LMNet."""
    denoiser, text = make_denoiser(RECIPE.lmnet)
    source = RenderedMasks(CaseStore(work / "cases"))
    settings = deciding(RECIPE.lmnet) | {"polish": RECIPE.lmnet_polish}
    for training in (RECIPE.lmnet, _polishing(RECIPE.lmnet, RECIPE.lmnet_polish)):
        objective = lmnet_objective(denoiser, text, source, training)
        state = optimize(objective, training.loop, checkpoint=Checkpoint(work / "lmnet.checkpoint", settings))
    _save(denoiser_tensors(state, denoiser), work / "lmnet.safetensors")


def linet(data: Path, work: Path) -> None:
    """Train LINet."""
    denoiser, text = make_denoiser(RECIPE.linet)
    denoiser.backbone.to(memory_format=torch.channels_last_3d)
    z = (np.concatenate([np.load(_latents_file(work, name, shown)) for name in SHARD_SEEDS]) for shown in SHOWN)
    source = RenderedImages(CaseStore(*(work / name for name in SHARD_SEEDS)), *z)
    objective = linet_objective(denoiser, text, source, RECIPE.linet)
    checkpoint = Checkpoint(work / "linet.checkpoint", deciding(RECIPE.linet))
    state = optimize(objective, RECIPE.linet.loop, checkpoint=checkpoint)
    _save(denoiser_tensors(state, denoiser), work / "linet.safetensors")


def bundle(data: Path, work: Path) -> None:
    """Pack the networks in half precision, with hashes and a model card, in place of what was packed before."""
    statistics = json.loads((work / "latents.json").read_text())
    manifest = Manifest(
        format=1,
        name="starter",
        title="Small networks trained on procedurally rendered lesions, for trying the software and for tests",
        license=LICENSE,
        autoencoder=AutoencoderSpec(
            FILES["vqgan"], RECIPE.vqgan.network, tuple(statistics["shift"]), tuple(statistics["scale"])
        ),
        lmnet=lmnet_spec(RECIPE.lmnet),
        linet=linet_spec(RECIPE.linet),
        text=text_spec(RECIPE.lmnet.text),
        files={},
        made_by={
            "command": "python -m LesionDiffusionLib.training.starter all --data ../shared/data --work runs/starter",
            "version": __version__,
            "torch": torch.__version__,
            "recipe": dataclasses.asdict(RECIPE),
            "sources": [dataclasses.asdict(source) for source in SOURCES],
        },
    )
    names = (manifest.autoencoder.file, manifest.lmnet.file, manifest.linet.file)
    tensors = {name: {k: _halved(k, v) for k, v in load_file(work / name).items()} for name in names}
    card = model_card(manifest, tensors, _minutes(work)) + measured(work)
    fresh, packed = work / "starter.new", work / "starter"
    shutil.rmtree(fresh, ignore_errors=True)
    require_own_figures(work, write_bundle(fresh, manifest, tensors, {"README.md": card}).manifest.files)
    shutil.rmtree(packed, ignore_errors=True)
    fresh.rename(packed)
    print(f"bundle in {packed}")


STEPS = {f.__name__: f for f in (volumes, windows, vqgan, cases, words, latents, lmnet, linet, bundle)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=(*STEPS, "all"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--threads", type=int, help="CPU threads for training")
    args = parser.parse_args()
    try:
        use_threads(args.threads)
        args.work.mkdir(parents=True, exist_ok=True)
        for name in STEPS if args.step == "all" else (args.step,):
            _timed(name, args.data, args.work)
    except LesionDiffusionError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _timed(step: str, data: Path, work: Path) -> None:
    started = time.time()
    STEPS[step](data, work)
    minutes = round((_trained_seconds(work, step) or time.time() - started) / 60, 1)
    print(f"{step} took {minutes} min on {platform.machine()}", flush=True)
    (work / MINUTES).write_text(json.dumps(_minutes(work) | {step: minutes}))


def _trained_seconds(work: Path, step: str) -> float | None:
    """Of a network's training with all its sessions; None for other steps."""
    path = work / f"{step}.checkpoint"
    if not path.exists():
        return None
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("seconds")


def _minutes(work: Path) -> dict[str, float]:
    """Wall time of the steps done so far, for the card."""
    path = work / MINUTES
    return json.loads(path.read_text()) if path.exists() else {}


def _polishing(training: LMNetTraining, steps: int) -> LMNetTraining:
    """The last steps of a training: all timesteps alike, at twice the (almost ended) learning rate.

    Having seen few timesteps of little noise, a network adds there once more what its words mean, and a sample that was
    right drifts away at its end.
    """
    loop = training.loop
    longer = dataclasses.replace(loop, steps=loop.steps + steps, learning_rate=2 * loop.learning_rate)
    return dataclasses.replace(training, loop=longer, noise_bias=1.0)


def _encoded(codec: LatentCodec, windows_hu: np.ndarray) -> torch.Tensor:
    """Latents (N, C, d, h, w), several windows at a time."""
    starts = range(0, len(windows_hu), ENCODED_AT_ONCE)
    return torch.cat([codec.encode(windows_hu[start : start + ENCODED_AT_ONCE]) for start in starts])


def _latents_file(work: Path, folder: str, shown: str) -> Path:
    return work / f"latents_{folder}_{shown}.npy"


def _save_latents(work: Path, folder: str, shown: str, z: torch.Tensor) -> None:
    np.save(_latents_file(work, folder, shown), z.numpy().astype(np.float16))


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)


def _halved(name: str, value: torch.Tensor) -> torch.Tensor:
    """Weights in half precision, which nobody sees in the result; schedule and codebook stay as they are."""
    return value if name == "alphas_cumprod" or name.startswith("quantize.") else value.half()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
