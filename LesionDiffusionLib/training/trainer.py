"""Training one network on a prepared dataset, from its settings to weights on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from LesionDiffusionLib.errors import DatasetError, OutputError, SettingsError
from LesionDiffusionLib.linet import LatentCodec, LINet
from LesionDiffusionLib.lmnet import LMNet
from LesionDiffusionLib.networks.vqgan import VQGAN
from LesionDiffusionLib.training import ranks
from LesionDiffusionLib.training.build import (
    denoiser_tensors,
    make_denoiser,
    make_vqgan,
    model_state,
    normalized_units,
    plain_codec,
)
from LesionDiffusionLib.training.bundling import CHECKPOINT, Part, fingerprint, save_trained
from LesionDiffusionLib.training.checkpoint import Checkpoint
from LesionDiffusionLib.training.config import (
    DenoiserTraining,
    LINetTraining,
    LMNetTraining,
    Training,
    VQGANTraining,
    deciding,
)
from LesionDiffusionLib.training.inputs import Inputs, frozen_weights
from LesionDiffusionLib.training.loop import ADJUSTABLE, LoopOptions, Objective, history_told, optimize
from LesionDiffusionLib.training.monitor import Monitor, require_tensorboard
from LesionDiffusionLib.training.prepared import MANIFEST, PreparedCases
from LesionDiffusionLib.training.previews import Pictures, linet_row, lmnet_row, previewing, vqgan_row
from LesionDiffusionLib.training.sources import PreparedImages, PreparedMasks, PreparedWindows
from LesionDiffusionLib.training.train_denoisers import linet_objective, lmnet_objective
from LesionDiffusionLib.training.train_vqgan import vqgan_objective

STATISTICS_CASES = 64  # whose latents tell mean and standard deviation


class Job(NamedTuple):
    """An objective, what becomes of the state it ends with, and facts that belong to the weights."""

    objective: Objective
    finish: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    facts: Mapping[str, Any]


class Start(NamedTuple):
    """From what a training starts: its folder, the cases, where its state is kept, the steps of earlier sessions."""

    folder: Path
    cases: PreparedCases
    checkpoint: Checkpoint
    done: int


def require_start(training: Training, inputs: Inputs, folder: Path, resume: bool, tensorboard: bool = True) -> Start:
    """Tell before anything is written what would stop `train` at its start; ``inputs`` are those of `require_inputs`.

    Raises:
        OutputError: the folder is taken and not to be continued.
        DatasetError: no usable case.
        SettingsError: TensorBoard is wanted and not installed, or the folder's training is finished or further on, so
            that these settings would do nothing.
        TrainingError: the folder's checkpoint cannot be read, or has other settings.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not resume)):
        raise OutputError(f"{folder} exists; continue its training with --resume or choose another --out")
    cases = usable_cases(training, inputs.data)
    if tensorboard:
        require_tensorboard()
    checkpoint = Checkpoint(folder / CHECKPOINT, _deciding(training, inputs))
    state = checkpoint.load()
    if state is not None:
        _require_effect(training.loop, state, folder)
    return Start(folder, cases, checkpoint, 0 if state is None else state["done"])


def _require_effect(loop: LoopOptions, state: Mapping[str, Any], folder: Path) -> None:
    """Raises SettingsError for steps that are done already, and for settings of a training that is finished."""
    done, history = state["done"], state.get("history", [])
    if loop.steps < done:
        raise SettingsError(
            f"the training in {folder} has done {done} steps, and none is taken back: expected loop.steps={done} or "
            f"more, got {loop.steps}"
        )
    changed = [name for name in ADJUSTABLE if history and history[-1][name] != getattr(loop, name)]
    if loop.steps == done and changed:
        raise SettingsError(
            f"the training in {folder} is finished after {done} steps: another loop.{changed[0]} would do nothing; "
            "leave it as it was, or choose another --out"
        )


def train(
    network: str, training: Training, inputs: Inputs, start: Start, tensorboard: bool = True, told: str = ""
) -> None:
    """Train a network, or go on with a training that was interrupted; writes into its folder.

    ``start`` is what `require_start` found there; ``told`` is the command, for whoever finds the weights.

    Raises:
        TrainingError, OutputError, DatasetError, SettingsError: see `optimize` and the rooms that read.
    """
    folder, cases, checkpoint, done = start
    if ranks.rank():
        job = make_job(training, inputs, cases, lambda step, rows: None)
        optimize(job.objective, training.loop, lambda report: None, checkpoint)
        return
    for reason, count in cases.left_out.items():
        print(f"{count} training cases are left out: {reason}", file=sys.stderr)
    with Monitor(folder, training.loop.steps, done, tensorboard) as monitor:
        job = make_job(training, inputs, cases, monitor.picture)
        state = optimize(job.objective, training.loop, monitor, checkpoint)
    facts = {
        "command": told,
        "steps": training.loop.steps,
        "seed": training.loop.seed,
        **history_told(checkpoint.load()),
    }
    facts |= {"versions": {"torch": torch.__version__, "python": platform.python_version()}}
    facts |= {"data": _data_told(inputs.data, len(cases)), **job.facts}
    save_trained(folder, network, training, job.finish(state), facts)


def usable_cases(training: Training, data: Path, split: str = "train") -> PreparedCases:
    """The cases that a network of these settings can learn from."""
    need_ct = not isinstance(training, LMNetTraining)
    return PreparedCases(data, split, training.window, need_ct)


def make_job(training: Training, inputs: Inputs, cases: PreparedCases, show: Pictures) -> Job:
    """What a training of these settings minimizes."""
    if isinstance(training, VQGANTraining):
        return _vqgan_job(training, inputs, cases, show)
    if isinstance(training, LMNetTraining):
        return _lmnet_job(training, inputs, cases, show)
    return _linet_job(training, inputs, cases, show)


def make_folder(folder: Path) -> None:
    """Make the folder of a training. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {folder}: {error.strerror}; choose another --out") from error


def frozen_codec(part: Part, device: torch.device) -> LatentCodec:
    """The autoencoder of LINet's latents, as they come."""
    model = VQGAN(part.spec)
    model.load_state_dict({name: value.float() for name, value in part.tensors.items()})
    return plain_codec(model.to(device))


def _vqgan_job(training: VQGANTraining, inputs: Inputs, cases: PreparedCases, show: Pictures) -> Job:
    model = make_vqgan(training).to(inputs.device)
    windows = PreparedWindows(cases, training.window)
    shown = PreparedWindows(_shown(cases, training), training.window)
    objective = vqgan_objective(model, windows, training, inputs.lpips)
    row = partial(vqgan_row, model, shown, inputs.device)
    return Job(dataclasses.replace(objective, preview=previewing(show, len(shown), row)), model_state, {})


def _lmnet_job(training: LMNetTraining, inputs: Inputs, cases: PreparedCases, show: Pictures) -> Job:
    denoiser, text = _denoiser(training, inputs)
    source, shown = (
        PreparedMasks(c, training.window, training.text.spelling) for c in (cases, _shown(cases, training))
    )
    row = partial(lmnet_row, LMNet(denoiser, training.window), text, shown, inputs.device)
    preview = previewing(show, len(shown), row)
    objective = dataclasses.replace(lmnet_objective(denoiser, text, source, training), preview=preview)
    return Job(objective, lambda state: denoiser_tensors(state, denoiser), {})


def _linet_job(training: LINetTraining, inputs: Inputs, cases: PreparedCases, show: Pictures) -> Job:
    codec = frozen_codec(inputs.autoencoder, inputs.device)
    spelling = training.text.spelling
    if training.normalize_latents:
        codec = normalizing(codec, PreparedImages(cases, training.window, spelling, codec), training.whitening)
    denoiser, text = _denoiser(training, inputs)
    source, shown = (PreparedImages(c, training.window, spelling, codec) for c in (cases, _shown(cases, training)))
    linet = LINet(denoiser, codec, training.window, training.latent_mask)
    preview = previewing(show, len(shown), partial(linet_row, linet, text, shown, inputs.device))
    objective = dataclasses.replace(linet_objective(denoiser, text, source, training), preview=preview)
    latents = {"shift": codec.shift.tolist(), "scale": codec.scale.tolist()}
    latents["fingerprint"] = fingerprint(inputs.autoencoder.tensors)
    return Job(objective, lambda state: denoiser_tensors(state, denoiser), {"latents": latents})


def _denoiser(training: DenoiserTraining, inputs: Inputs):
    denoiser, text = make_denoiser(training, inputs.text if training.text.encoder == "biomedclip" else None)
    for part in (denoiser.backbone, text):
        if isinstance(part, torch.nn.Module):
            part.to(inputs.device)
    return denoiser, text


def normalizing(codec: LatentCodec, source: PreparedImages, whitening: float) -> LatentCodec:
    """The codec with the mean and standard deviation of the training set's latents taken out."""
    z = torch.stack([source([n], [False]).z_0[0].cpu() for n in range(min(STATISTICS_CASES, len(source)))])
    shift, scale = normalized_units(z, whitening)
    return dataclasses.replace(codec, shift=shift, scale=scale)


def _deciding(training: Training, inputs: Inputs) -> dict[str, Any]:
    """Everything that decides the weights: a checkpoint is only continued under the same."""
    settings = deciding(training)
    if training.loop.decay == "constant" and settings.get("codebook_start") != "kmeans":
        del settings["loop"]["steps"]  # then nothing depends on the end, and a training may be made longer
    # As announced, not as joined: a checkpoint is also looked at before the processes join.
    settings["samples_per_step"] = settings["loop"].pop("batch") * ranks.announced_size()
    settings["data"] = hashlib.sha256((inputs.data / MANIFEST).read_bytes()).hexdigest()
    return settings | {name: fingerprint(tensors) for name, tensors in frozen_weights(training, inputs).items()}


def _shown(cases: PreparedCases, training: Training) -> PreparedCases:
    """The cases of previews: held out, if there are such."""
    if "test" not in cases.splits:
        return cases
    try:
        return usable_cases(training, cases.folder, "test")
    except DatasetError:  # none of them fits the window
        return cases


def _data_told(folder: Path, count: int) -> dict[str, Any]:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return {name: manifest.get(name) for name in ("dataset", "made_by")} | {"training_cases": count}
