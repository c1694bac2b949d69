"""The starter bundle, end to end.

    python -m LesionDiffusionLib.training.starter STEP --data ../shared/data --work runs/starter

Steps, in order: volumes, windows, vqgan, cases, latents, lmnet, linet, bundle (or `all`). Each writes its result into
the work folder, so that a step can be repeated alone. The recipe below decides the weights; how the shipped ones came
to be besides stands in their card.

Only permissively licensed CTs are read; see SOURCES.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from LesionDiffusionLib import __version__
from LesionDiffusionLib.bundles import AutoencoderSpec, Manifest, write_bundle
from LesionDiffusionLib.labels import OrganMap, load_table
from LesionDiffusionLib.latent_change import LatentChange
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
from LesionDiffusionLib.training.bundling import FILES, largest_lesion, linet_spec, lmnet_spec, size_table, text_spec
from LesionDiffusionLib.training.case_store import CaseStore, save_shard
from LesionDiffusionLib.training.checkpoint import Checkpoint
from LesionDiffusionLib.training.config import LINetTraining, LMNetTraining, VQGANTraining
from LesionDiffusionLib.training.loop import optimize
from LesionDiffusionLib.training.organ_guess import guess_organs
from LesionDiffusionLib.training.presets import PRESETS
from LesionDiffusionLib.training.rendered_case import random_case
from LesionDiffusionLib.training.sources import RenderedImages, RenderedMasks
from LesionDiffusionLib.training.train_denoisers import linet_objective, lmnet_objective
from LesionDiffusionLib.training.train_vqgan import vqgan_objective
from LesionDiffusionLib.training.volumes import TrainingVolume, in_v1, load_volumes
from LesionDiffusionLib.training.windows import random_windows
from LesionDiffusionLib.volume import Volume
from LesionDiffusionLib.whole_file import whole_file

ENCODED_AT_ONCE = 50
LICENSE = "MIT; trained on a procedural phantom and on CTs under Apache-2.0 and BSD-3-Clause (see README.md)"


@dataclass(frozen=True)
class Source:
    """One real CT: file, organ map and its numbering (or None: lungs or brain by threshold), phase, whence, licence."""

    name: str
    ct: str
    organs: str | None
    numbering: str | None
    contrast: bool
    origin: str


TOTALSEGMENTATOR, XCIST = "TotalSegmentator test files, Apache-2.0", "xcist/phantoms-voxelized, BSD-3-Clause, TCIA"
SOURCES = (
    Source("torso", "torso/ct.nii.gz", "torso/organs.nii.gz", "totalseg_v1", False, TOTALSEGMENTATOR),
    Source("torso_dicom", "torso_dicom/series", "torso_dicom/organs_v2.nii.gz", None, True, TOTALSEGMENTATOR),
    Source("chest_abdomen_1mm", "ct/chest_abdomen_1mm.nii.gz", None, None, False, "FNNDSC/data, Apache-2.0"),
    Source("chest_contrast_3mm", "ct/chest_contrast_3mm.nii.gz", None, None, True, f"{XCIST} CPTAC-PDA"),
    Source("abdomen_contrast_3mm", "ct/abdomen_contrast_3mm.nii.gz", None, None, True, f"{XCIST} TCGA-OV"),
    Source("head_3mm", "ct/head_3mm.nii.gz", None, None, True, f"{XCIST} CPTAC-LSCC"),
)
WITHOUT_ORGANS = ("abdomen_contrast_3mm",)  # its anatomy is displaced by a very large mass: for the autoencoder only
UNSEEN_BY_VQGAN = ("torso_dicom",)  # kept for measuring reconstruction on a real CT the autoencoder never saw
ORGANS = {"liver", "right kidney", "left kidney", "pancreas"}  # of many densities, by phase: more examples of each


def _saying_changes(training: LINetTraining) -> LINetTraining:
    """Diffusing what the lesion changes: rendered cases have the patient without it, prepared ones do not.

    Changes keep their own proportions (no whitening: the density is what matters most), lie in the middle of the
    diffusion's noise (so fewer noisy timesteps than where they are a tenth of it), and need no guidance to be seen.
    """
    return dataclasses.replace(
        training,
        network=dataclasses.replace(training.network, in_channels=9, replaces_shown=True),
        loop=dataclasses.replace(training.loop, steps=13_500),
        sampling=dataclasses.replace(training.sampling, guidance=1.0),
        change=LatentChange(1 / 16),
        whitening=0.0,
        noise_bias=2.0,
    )


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    phantoms: int = 14  # the last two are heads
    windows: int = 2500
    window_spacing_mm: tuple[float, float] = (0.5, 5.0)
    shards: int = 24
    organ_shards: int = 8  # the last ones: lesions of ORGANS alone
    cases_per_shard: int = 250
    real_share: int = 3  # a real CT is drawn this much more often than a phantom
    vqgan: VQGANTraining = PRESETS["starter"]["vqgan"]
    lmnet: LMNetTraining = PRESETS["starter"]["lmnet"]
    linet: LINetTraining = _saying_changes(PRESETS["starter"]["linet"])
    tissue_hu: float = 40.0  # the latents of even soft tissue become zero: LINet sees them finest there
    lmnet_polish: int = 600  # more steps, see `_polishing`


RECIPE = Recipe()


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
    checkpoint = Checkpoint(work / "vqgan.checkpoint", dataclasses.asdict(training))
    state = optimize(vqgan_objective(model, train_on, training), training.loop, checkpoint=checkpoint)
    _save(model_state(state), work / "vqgan.safetensors")


def cases(data: Path, work: Path) -> None:
    """Rendered cases; shards that exist are kept, so that the step can be continued."""
    folder = _made(work / "cases")
    all_volumes = [v for v in load_volumes(work / "volumes") if v.organs is not None]
    real = [v for v in all_volumes if not v.name.startswith("phantom")]
    drawn_from = all_volumes + (RECIPE.real_share - 1) * real
    for shard in range(RECIPE.shards):
        path = folder / f"shard_{shard:03d}.npz"
        if path.exists():
            continue
        kinds = organ_types() if shard >= RECIPE.shards - RECIPE.organ_shards else None
        generator = np.random.default_rng([11, shard])
        rendered = []
        while len(rendered) < RECIPE.cases_per_shard:
            case = random_case(drawn_from, RECIPE.lmnet.window, RECIPE.linet.window, generator, kinds)
            rendered += [case] if case is not None else []
        with whole_file(path) as partial:
            save_shard(partial, rendered)
        print(f"cases {shard + 1}/{RECIPE.shards}")


def organ_types() -> list[LesionType]:
    """The lesion types that occur in ORGANS."""
    return [kind for kind in all_lesion_types() if ORGANS & set(kind.organs)]


def latents(data: Path, work: Path) -> None:
    """Latents of LINet's cases, normalized, and the statistics that normalize them."""
    model = VQGAN(RECIPE.vqgan.network)
    model.load_state_dict(load_file(work / "vqgan.safetensors"))
    plain = plain_codec(model)
    store = CaseStore(work / "cases")
    encoded = {name: _encoded(plain, store.array(name)) for name in ("healthy_hu", "lesion_hu")}
    _, scale = normalized_units(encoded["lesion_hu"], RECIPE.linet.whitening)
    middle = RECIPE.linet.window.shape[0] // 4
    shift = plain.encode(np.full(RECIPE.linet.window.shape, RECIPE.tissue_hu))[0, :, middle, middle, middle]
    codec = dataclasses.replace(plain, shift=shift, scale=scale)
    for name, z in encoded.items():
        np.save(work / f"latents_{name}.npy", codec.normalized(z).numpy().astype(np.float16))
    (work / "latents.json").write_text(json.dumps({"shift": shift.tolist(), "scale": scale.tolist()}))


def lmnet(data: Path, work: Path) -> None:
    """Train LMNet."""
    denoiser, text = make_denoiser(RECIPE.lmnet)
    source = RenderedMasks(CaseStore(work / "cases"))
    for training in (RECIPE.lmnet, _polishing(RECIPE.lmnet, RECIPE.lmnet_polish)):
        objective = lmnet_objective(denoiser, text, source, training)
        state = optimize(objective, training.loop, checkpoint=Checkpoint(work / "lmnet.checkpoint"))
    _save(denoiser_tensors(state, denoiser), work / "lmnet.safetensors")


def linet(data: Path, work: Path) -> None:
    """Train LINet."""
    denoiser, text = make_denoiser(RECIPE.linet)
    denoiser.backbone.to(memory_format=torch.channels_last_3d)
    z = (np.load(work / f"latents_{name}.npy") for name in ("healthy_hu", "lesion_hu"))
    source = RenderedImages(CaseStore(work / "cases"), *z)
    objective = linet_objective(denoiser, text, source, RECIPE.linet)
    state = optimize(objective, RECIPE.linet.loop, checkpoint=Checkpoint(work / "linet.checkpoint"))
    _save(denoiser_tensors(state, denoiser), work / "linet.safetensors")


def bundle(data: Path, work: Path) -> None:
    """Pack the networks in half precision, with hashes and a model card."""
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
            "command": "python -m LesionDiffusionLib.training.starter all",
            "version": __version__,
            "torch": torch.__version__,
            "recipe": dataclasses.asdict(RECIPE),
            "sources": [dataclasses.asdict(source) for source in SOURCES],
        },
    )
    names = (manifest.autoencoder.file, manifest.lmnet.file, manifest.linet.file)
    tensors = {name: {k: _halved(k, v) for k, v in load_file(work / name).items()} for name in names}
    card = model_card(manifest, tensors) + measured(work)
    write_bundle(work / "starter", manifest, tensors, {"README.md": card})
    print(f"bundle in {work / 'starter'}")


def model_card(manifest: Manifest, tensors: dict[str, dict]) -> str:
    """The card, written from the same data that made the weights."""
    sources = "\n".join(f"- {source.ct}: {source.origin}" for source in SOURCES)
    loops = {"VQ-GAN": RECIPE.vqgan.loop, "LMNet": RECIPE.lmnet.loop, "LINet": RECIPE.linet.loop}
    training = "\n".join(
        f"| {name} | {loop.steps} | {loop.batch} | {loop.learning_rate:g} | {loop.seed} |"
        for name, loop in loops.items()
    )
    return f"""# Starter bundle

{manifest.title}.

**Trained on procedurally rendered lesions.** The lesions these networks learned were drawn by rules from their reports
(`LesionDiffusionLib/training/rendering.py`), not observed in patients. The bundle shows how the software works; it is
not a model of disease. Research use only, not for diagnosis.

{size_table(tensors)}

Lesions up to {largest_lesion(manifest)} mm; the window's voxels scale with the lesion.

## Training data

{RECIPE.phantoms} procedural phantoms and these CTs; KiTS23 and other restricted data were not used:

{sources}

{RECIPE.shards * RECIPE.cases_per_shard} rendered cases, {RECIPE.windows} healthy windows. (The VQ-GAN saw windows of an
earlier state of the phantom's generator: trained anew it becomes as good, but not the same to the bit.)

## Training

`{manifest.made_by["command"]}` on CPU, float32, torch {manifest.made_by["torch"]}.

| network | steps | batch | learning rate | seed |
|---|---|---|---|---|
{training}

The VQ-GAN began as the principal components of 2 x 2 x 2 blocks and was trained with reconstruction and codebook
losses only (no adversarial, no perceptual term). LMNet and LINet hear the text in their transformers and in the time
embedding; noisy timesteps were drawn more often than others, and for LMNet all alike in {RECIPE.lmnet_polish} more
steps at the end. LINet diffuses what the lesion changes and sees the latents it changes, so that it need not invent
the scan's noise.

The weights are not those of one run of the command, since the recipe grew with them. LMNet learned on the first 2000
cases. LINet: on those 4200 steps without the level that it changes, 1100 with `takes_off_level`, and 4300 with
`level_in_embedding` and the present weight of strong changes in the loss; 5600 on the first 4000 cases; 3600 on
all of them. (Learning rates at first 0.001, then 0.0008 and 0.0006; each part ended at a fiftieth.) The table's steps
are as many as had everything; one run of them from the start has not been made.

## What it does badly

Measured below: of the fluid-like lesions one in three (phantom) and one in seven (real scan) miss 0 to 25 HU: most of
those in enhanced kidneys stay above it, those in fat below. LINet is told to change what is there; it knows where that
lies, but not exactly. For the same reason isodense lesions come out too dark in livers, by some 10 HU in the phantom's
and by 18 in the real one, five seeds each. Edges called well-defined are 2 to 3 mm wide where the rules draw 1.5, and
in the phantom (voxels of 2.5 mm) an ill-defined one is hardly wider. Shapes called irregular are only mildly so. One
lesion in five (real scan: one in ten) misses its size by over a quarter, in walls of hollow organs.
"""


def measured(work: Path) -> str:
    """The card's last section: what the scripts in Testing wrote to ``work/measured`` (--out SCRIPT[.WHAT].json)."""
    files = sorted((work / "measured").glob("*.json"))
    return "\n".join(["\n## Measured\n", *map(_told, files)]) if files else ""


STEPS = {f.__name__: f for f in (volumes, windows, vqgan, cases, latents, lmnet, linet, bundle)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=(*STEPS, "all"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--threads", type=int, help="CPU threads for training")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    for name in STEPS if args.step == "all" else (args.step,):
        started = time.time()
        STEPS[name](args.data, args.work)
        print(f"{name} took {(time.time() - started) / 60:.1f} min on {platform.machine()}", flush=True)


def _polishing(training: LMNetTraining, steps: int) -> LMNetTraining:
    """The last steps of a training: all timesteps alike, at twice the (almost ended) learning rate.

    Having seen few timesteps of little noise, a network adds there once more what its words mean, and a sample that was
    right drifts away at its end.
    """
    loop = training.loop
    longer = dataclasses.replace(loop, steps=loop.steps + steps, learning_rate=2 * loop.learning_rate)
    return dataclasses.replace(training, loop=longer, noise_bias=1.0)


def _told(path: Path) -> str:
    script, _, _ = path.name.partition(".")
    return f"`Testing/{script}.py`:\n\n```json\n{path.read_text().strip()}\n```\n"


def _encoded(codec: LatentCodec, windows_hu: np.ndarray) -> torch.Tensor:
    """Latents (N, C, d, h, w), several windows at a time."""
    starts = range(0, len(windows_hu), ENCODED_AT_ONCE)
    return torch.cat([codec.encode(windows_hu[start : start + ENCODED_AT_ONCE]) for start in starts])


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)


def _halved(name: str, value: torch.Tensor) -> torch.Tensor:
    """Weights in half precision, which nobody sees in the result; schedule and codebook stay as they are."""
    return value if name == "alphas_cumprod" or name.startswith("quantize.") else value.half()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
