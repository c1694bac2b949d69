"""From a training's configuration to fresh networks."""

from __future__ import annotations

import torch
from torch import Tensor

from LesionDiffusionLib.diffusion.denoiser import Denoiser
from LesionDiffusionLib.linet import LatentCodec
from LesionDiffusionLib.networks.text_tower import TextEncoder
from LesionDiffusionLib.networks.unet import UNet3D
from LesionDiffusionLib.networks.vocabulary_encoder import VocabularyEncoder
from LesionDiffusionLib.networks.vqgan import VQGAN
from LesionDiffusionLib.training.config import SCHEDULES, DenoiserTraining, VQGANTraining
from LesionDiffusionLib.training.phrases import vocabulary_phrases


def make_vqgan(training: VQGANTraining) -> VQGAN:
    """An autoencoder with weights drawn from the training's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.loop.seed)
        return VQGAN(training.network)


def make_denoiser(training: DenoiserTraining, text: TextEncoder | None = None) -> tuple[Denoiser, TextEncoder]:
    """A denoiser with weights drawn from the training's seed, and its text encoder: ``text``, or a vocabulary that
    learns with it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.loop.seed)
        text = text or VocabularyEncoder(vocabulary_phrases(), training.network.context_dim)
        backbone = UNet3D(training.network, training.activation_checkpointing)
    return Denoiser(backbone, SCHEDULES[training.schedule](), training.prediction), text


def denoiser_tensors(state: dict[str, Tensor], denoiser: Denoiser) -> dict[str, Tensor]:
    """A trained denoiser as a bundle keeps it: "unet.*", "text.*" and the schedule's table."""
    return {**state, "alphas_cumprod": denoiser.schedule.alphas_cumprod}


def model_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The autoencoder's part of what its training returns: without discriminators and statistics."""
    return {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}


def plain_codec(autoencoder: VQGAN) -> LatentCodec:
    """A codec of latents as they come (shift 0, scale 1); the autoencoder learns no more."""
    channels = autoencoder.config.z_channels
    return LatentCodec(autoencoder.eval().requires_grad_(False), torch.zeros(channels), torch.ones(channels))


def normalized_units(z: Tensor, whitening: float) -> tuple[Tensor, Tensor]:
    """Shift and scale of every channel of latents (N, C, d, h, w), see `LINetTraining.whitening`."""
    deviation = z.std(dim=(0, 2, 3, 4)).clamp(min=1e-6)
    return z.mean(dim=(0, 2, 3, 4)), deviation**whitening * deviation.max() ** (1 - whitening)
