"""What is measured: one lesion in one CT, and the networks of a bundle or random ones of the released size."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from LesionDiffusionLib.bundles import AutoencoderSpec, Bundle, LINetSpec, LMNetSpec, Manifest, TextSpec
from LesionDiffusionLib.devices import PRECISIONS
from LesionDiffusionLib.diffusion.denoiser import Denoiser
from LesionDiffusionLib.diffusion.schedule import NoiseSchedule
from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.labels import OrganMap
from LesionDiffusionLib.linet import LatentCodec, LatentMask, LINet
from LesionDiffusionLib.lmnet import LMNet
from LesionDiffusionLib.models import Models
from LesionDiffusionLib.networks.convolution import store_channels_last
from LesionDiffusionLib.networks.text_tower import (
    BiomedCLIPTextEncoder,
    TextEncoder,
    TextTowerConfig,
    build_text_tower,
)
from LesionDiffusionLib.networks.unet import UNet3D, UNetConfig
from LesionDiffusionLib.networks.upsampling import fold_upsampling
from LesionDiffusionLib.networks.vocabulary_encoder import VocabularyEncoder
from LesionDiffusionLib.networks.vqgan import VQGAN, VQGANConfig
from LesionDiffusionLib.phantom import Phantom, make_phantom
from LesionDiffusionLib.placement import inscribed_ellipsoid
from LesionDiffusionLib.planning import plan_lesion
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.run import Run, Settings
from LesionDiffusionLib.sampling import SamplingOptions
from LesionDiffusionLib.synthesis import chances
from LesionDiffusionLib.volume import Volume
from LesionDiffusionLib.windowing import WindowRule
from LesionDiffusionLib.wish import Wish

PHANTOM_SEED = 7
RANDOM_STD = 0.02  # of the layers that start as zero, so that random networks answer something moderate


@dataclass(frozen=True)
class Sizes:
    """Sizes of random networks; the defaults are the released ones."""

    lmnet: UNetConfig = UNetConfig(4, 1, 16)
    linet: UNetConfig = UNetConfig(5, 4, 128, num_res_blocks=2)
    vqgan: VQGANConfig = VQGANConfig()
    lmnet_shape: tuple[int, int, int] = (64, 152, 152)
    edge: int = 128  # of LINet's window
    spacing_mm: float = 1.0
    text_tower: bool = True


@dataclass(frozen=True, eq=False)
class Job:
    """One lesion to be made.

    Attributes:
        ct, organs: the patient.
        mask: bool (I, J, K), the lesion; given, so that every path inpaints the same one.
        report: what both networks hear.
        models: networks on their device.
    """

    ct: Volume
    organs: OrganMap
    mask: np.ndarray
    report: LesionReport
    models: Models

    def run(self, settings: Settings, kind: type[Run] = Run) -> Run:
        """The job under way, as the stages of a synthesis take it; of another ``kind`` to look at its stages."""
        wish = Wish(self.report, mask=self.mask)
        plan = plan_lesion(self.ct, self.organs, wish, chances(settings.seed)[0])
        return kind(self.ct, self.organs, plan, self.models, settings, lambda _: None, lambda: False)


def patient(spacing_mm: float = 2.5) -> Phantom:
    """The phantom on which everything is measured."""
    return make_phantom(np.random.default_rng(PHANTOM_SEED), "torso", spacing_mm)


def make_job(models: Models, size_mm: float = 30.0, spacing_mm: float = 2.5, margin_mm: float | None = None) -> Job:
    """A liver lesion of ``size_mm`` in the embedded phantom of ``spacing_mm`` voxels.

    Of the phantom only ``margin_mm`` around the lesion's box is kept (None: all): whole volumes cost the released way
    much memory.
    """
    phantom = patient(spacing_mm)
    report = LesionReport(
        lesion_type="liver cancer",
        organ="liver",
        lesion_location="inside organ",
        size_mm=(size_mm,) * 3,
        shape="round-like",
        density="hypodense lesion",
    )
    plan = plan_lesion(phantom.ct, phantom.organs, Wish(report), chances(1)[0])
    mask = np.zeros(phantom.ct.array.shape, bool)
    mask[plan.box.slices] = inscribed_ellipsoid(plan.box.shape)
    kept = Box.whole(mask.shape)
    if margin_mm is not None:
        kept = plan.box.padded(math.ceil(margin_mm / spacing_mm)).clipped(mask.shape)
    organs = replace(phantom.organs, volume=phantom.organs.volume.cropped(kept))
    return Job(phantom.ct.cropped(kept), organs, mask[kept.slices], plan.report, models)


def random_models(device: torch.device, sizes: Sizes | None = None, precision: str = "fp32") -> Models:
    """Random networks, of the released size unless told otherwise."""
    sizes = sizes or Sizes()
    sampling = SamplingOptions("dpmpp", 20, 2.5)
    window = WindowRule((sizes.edge,) * 3, sizes.spacing_mm, sizes.spacing_mm)
    mask_window = replace(window, shape=sizes.lmnet_shape)
    mask_rule = LatentMask()
    manifest = Manifest(
        format=1,
        name="random networks",
        title="for measuring speed",
        license="MIT",
        autoencoder=AutoencoderSpec("", sizes.vqgan, (0.0,) * 4, (1.0,) * 4),
        lmnet=LMNetSpec("", sizes.lmnet, "epsilon", mask_window, sampling, True, 0.5),
        linet=LINetSpec("", sizes.linet, "epsilon", window, sampling, True, mask_rule),
        text=TextSpec("vocabulary", "report", ("liver",)),
        files={},
        made_by={},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = _text_encoder(sizes, device)
        unets = [
            _awake(UNet3D(config)).to(device).eval().requires_grad_(False) for config in (sizes.lmnet, sizes.linet)
        ]
        autoencoder = VQGAN(sizes.vqgan).to(device).eval().requires_grad_(False)
    for network in (*unets, autoencoder):
        fold_upsampling(network)
    for unet in unets:
        store_channels_last(unet.in_precision(PRECISIONS[precision]))
    lmnet, linet = (Denoiser(unet, NoiseSchedule.scaled_linear(), "epsilon") for unet in unets)
    codec = LatentCodec(autoencoder, torch.zeros(4), torch.ones(4))
    with torch.no_grad():
        null = text.encode([""])[None].to(device)
    return Models(
        Bundle(Path(), manifest),
        device,
        LMNet(lmnet, mask_window, null),
        LINet(linet, codec, window, mask_rule, null),
        text,
        text,
        precision,
    )


def _text_encoder(sizes: Sizes, device: torch.device) -> TextEncoder:
    """BiomedCLIP's text tower with random weights, as costly as the real one; without open_clip a vocabulary."""
    if sizes.text_tower:
        with contextlib.suppress(ImportError):
            tower = build_text_tower(TextTowerConfig()).to(device)
            return BiomedCLIPTextEncoder(tower, lambda string: [2, *(5 + ord(letter) for letter in string), 3])
    return VocabularyEncoder(("liver",), sizes.linet.context_dim).eval().requires_grad_(False)


def _awake(unet: UNet3D) -> UNet3D:
    """With small random values in the layers that start as zero: the network's answer depends on its input."""
    for parameter in unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=RANDOM_STD)
    return unet
