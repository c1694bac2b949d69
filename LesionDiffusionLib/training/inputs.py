"""What a training needs besides its settings, and whether it has all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from LesionDiffusionLib.errors import SettingsError, TrainingError
from LesionDiffusionLib.networks.lpips import LPIPS
from LesionDiffusionLib.networks.text_tower import BiomedCLIPTextEncoder
from LesionDiffusionLib.training.bundling import Part
from LesionDiffusionLib.training.config import DenoiserTraining, LINetTraining, Training, VQGANTraining


@dataclass(frozen=True, eq=False)
class Inputs:
    """
    Attributes:
        data: folder of a prepared dataset.
        device: where to compute.
        autoencoder: of LINet's latents.
        text: a frozen text encoder; None for one that learns with the network.
        lpips: the perceptual distance, where its loss is used.
    """

    data: Path
    device: torch.device
    autoencoder: Part | None = None
    text: BiomedCLIPTextEncoder | None = None
    lpips: LPIPS | None = None


def require_inputs(training: Training, inputs: Inputs) -> None:
    """Tell what is missing or does not fit before anything is written. Raises TrainingError, SettingsError."""
    training.loop.require_device(inputs.device)
    if isinstance(training, VQGANTraining):
        if training.losses.lpips and inputs.lpips is None:
            raise TrainingError("losses.lpips needs the metric's weights; give --lpips FILE, or set losses.lpips=0")
        return
    _require_text(training, inputs)
    if isinstance(training, LINetTraining):
        _require_latents(training, inputs.autoencoder)


def frozen_weights(training: Training, inputs: Inputs) -> dict[str, Mapping[str, Tensor]]:
    """The weights that decide what is learned without learning themselves, by name."""
    if isinstance(training, VQGANTraining):
        return {"lpips": inputs.lpips.state_dict()} if training.losses.lpips else {}
    frozen = {"text_encoder": inputs.text.tower.state_dict()} if training.text.encoder == "biomedclip" else {}
    if isinstance(training, LINetTraining):
        frozen["autoencoder"] = inputs.autoencoder.tensors
    return frozen


def _require_text(training: DenoiserTraining, inputs: Inputs) -> None:
    if training.text.encoder != "biomedclip":
        return
    if inputs.text is None:
        raise TrainingError(
            "this training hears texts through BiomedCLIP; give its folder as --text-encoder, "
            "or --set text.encoder=vocabulary for one that learns with the network"
        )
    wanted, width = training.network.context_dim, inputs.text.encode([""]).shape[-1]
    if width != wanted:
        raise SettingsError(
            f"the text encoder gives vectors of {width} numbers and the network expects {wanted}; "
            f"set network.context_dim={width}, or text.encoder=vocabulary"
        )


def _require_latents(training: LINetTraining, autoencoder: Part | None) -> None:
    if training.change is not None:
        raise SettingsError(
            "a LINet that diffuses the change needs every patient without the lesion, too, which prepared cases do not "
            "have; expected change=null, network.in_channels=5 and network.replaces_shown=false"
        )
    if training.loss == "relative_l2":
        raise SettingsError(
            "the loss relative_l2 weighs by what the lesion changed, and prepared cases have no patient without it; "
            "expected loss=masked_l2, paper or released"
        )
    if autoencoder is None:
        raise TrainingError(
            "LINet learns on the latents of an autoencoder; give --autoencoder with a bundle or a finished training"
        )
    found = (autoencoder.spec.z_channels, autoencoder.spec.downsampling)
    if found != (4, 2):
        raise TrainingError(
            f"LINet needs an autoencoder of 4 latent channels at half the size, got {found[0]} at 1/{found[1]}; "
            "train one with network.z_channels=4 and two levels, see 'lesiondiffusion train vqgan --dry-run'"
        )
