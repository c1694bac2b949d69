"""Small made-up patients and networks: the whole job in a second, without weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from conftest import make_geometry
from torch import nn

from LesionDiffusionLib.bundles import (
    AutoencoderSpec,
    Bundle,
    LINetSpec,
    LMNetSpec,
    Manifest,
    TextSpec,
    write_bundle,
)
from LesionDiffusionLib.diffusion.denoiser import Denoiser
from LesionDiffusionLib.diffusion.schedule import NoiseSchedule
from LesionDiffusionLib.geometry import Geometry
from LesionDiffusionLib.io import write_labels
from LesionDiffusionLib.labels import OrganMap, load_table
from LesionDiffusionLib.linet import LatentCodec, LatentMask, LINet
from LesionDiffusionLib.lmnet import LMNet
from LesionDiffusionLib.models import Models
from LesionDiffusionLib.networks.unet import UNet3D, UNetConfig
from LesionDiffusionLib.networks.vocabulary_encoder import VocabularyEncoder
from LesionDiffusionLib.networks.vqgan import VQGAN, VQGANConfig
from LesionDiffusionLib.sampling import SamplingOptions
from LesionDiffusionLib.training.phrases import vocabulary_phrases
from LesionDiffusionLib.volume import Volume
from LesionDiffusionLib.windowing import WindowRule

LMNET_WINDOW = WindowRule((16, 16, 16), 0.5, 8.0, 8)
LINET_WINDOW = WindowRule((24, 24, 24), 0.5, 8.0, 12)
LIVER_HU, BLADDER_HU = 60.0, 5.0


def make_patient(geometry: Geometry | None = None, seed: int = 0, dtype=np.float32) -> tuple[Volume, OrganMap]:
    """Fat with a liver (label 5) and a urinary bladder (104), and scanner noise."""
    geometry = geometry or make_geometry((48, 44, 40), (2.0, 2.2, 2.5), np.diag([-1.0, -1.0, 1.0]))
    table = load_table("totalseg_v1")
    x, y, z = np.meshgrid(*((np.arange(n) + 0.5) / n * 2 - 1 for n in geometry.shape), indexing="ij")
    labels = np.zeros(geometry.shape, np.uint8)
    labels[(x / 0.8) ** 2 + (y / 0.8) ** 2 + ((z - 0.35) / 0.6) ** 2 < 1] = 5
    labels[(x / 0.5) ** 2 + (y / 0.5) ** 2 + ((z + 0.65) / 0.3) ** 2 < 1] = 104
    ct_hu = np.full(geometry.shape, -100.0)
    ct_hu[labels == 5], ct_hu[labels == 104] = LIVER_HU, BLADDER_HU
    ct_hu[np.maximum(abs(x), abs(y)) > 0.95] = -1000
    ct_hu += np.random.default_rng(seed).normal(0, 8, geometry.shape)
    return Volume(np.round(ct_hu).astype(dtype), geometry), OrganMap(Volume(labels, geometry), table)


def write_patient(folder: Path) -> None:
    """That patient as ct.nii.gz and organs.nii.gz, and mask.nii.gz, a lesion drawn by hand in the liver."""
    ct, organs = make_patient()
    mask = np.zeros(ct.array.shape, np.uint8)
    mask[20:28, 18:26, 26:32] = 1
    for name, array in (("ct", ct.array.astype(np.int16)), ("organs", organs.volume.array), ("mask", mask)):
        write_labels(array, ct.geometry, folder / f"{name}.nii.gz")


class EllipsoidBackbone(nn.Module):
    """Stands for LMNet's network ("x0"): the ellipsoid inscribed in the box channel, a little uneven by the noise."""

    def forward(self, x, timesteps, context):
        box = x[:, 3:4] > 0
        out = torch.zeros_like(x[:, :1])
        where = torch.nonzero(box[0, 0])
        low, high = where.amin(0), where.amax(0)
        grids = torch.meshgrid(*(torch.arange(n) for n in box.shape[2:]), indexing="ij")
        radius = sum(
            ((g - (a + b) / 2) / ((b - a + 1) / 2)) ** 2 for g, a, b in zip(grids, low, high, strict=True)
        ).sqrt()
        out[:, 0] = torch.sigmoid(8 * (1 - radius)) + 0.05 * x[:, 0].tanh()
        return out


class ShiftBackbone(nn.Module):
    """Stands for LINet's network ("x0"): the latent of one density, set by the context's first number."""

    def forward(self, x, timesteps, context):
        return torch.zeros_like(x[:, :4]) + context[:, :1, :1, None, None] + 0.01 * x[:, :4].tanh()


class PoolingAutoencoder(nn.Module):
    """Stands for the VQ-GAN: means of 2 x 2 x 2 voxels and back."""

    config = SimpleNamespace(downsampling=2)

    def encode(self, x):
        return nn.functional.avg_pool3d(x, 2).repeat(1, 4, 1, 1, 1)

    def decode(self, z, quantize=True):
        return nn.functional.interpolate(z.mean(1, keepdim=True), scale_factor=2.0)


class ValueText:
    """Strings -> one number: the network value of the density word (0.5 is 0 HU, 0.0015 per HU)."""

    def encode(self, strings):
        values = {"hypodense lesion": 0.53, "isodense lesion": 0.59, "hyperdense lesion": 0.66}
        value = next((values[s] for s in strings if s in values), 0.55)
        return torch.full((1, 4), value)


def fake_models(folder: Path) -> Models:
    """Models whose networks do by rule what trained ones should."""
    schedule = NoiseSchedule.cosine()
    bundle = Bundle(folder, tiny_manifest())
    return Models(
        bundle,
        torch.device("cpu"),
        LMNet(Denoiser(EllipsoidBackbone(), schedule, "x0"), LMNET_WINDOW),
        LINet(
            Denoiser(ShiftBackbone(), schedule, "x0"),
            LatentCodec(PoolingAutoencoder(), torch.zeros(4), torch.ones(4)),
            LINET_WINDOW,
            LatentMask("mean", 1),
        ),
        ValueText(),
        ValueText(),
    )


def tiny_manifest() -> Manifest:
    """A bundle.json for networks of a few thousand parameters."""
    sampling = SamplingOptions("dpmpp", 3, 1.0)
    unets = [UNetConfig(n, out, 16, (1, 2), 1, (2,), 32, 16, norm_groups=8) for n, out in ((4, 1), (5, 4))]
    return Manifest(
        format=1,
        name="tiny",
        title="random networks for tests",
        license="MIT",
        autoencoder=AutoencoderSpec("vqgan.safetensors", VQGANConfig(16, codebook_size=32), (0.0,) * 4, (1.0,) * 4),
        lmnet=LMNetSpec("lmnet.safetensors", unets[0], "v", LMNET_WINDOW, sampling, True, 0.5),
        linet=LINetSpec("linet.safetensors", unets[1], "v", LINET_WINDOW, sampling, True, LatentMask("mean", 1)),
        text=TextSpec("vocabulary", "report", tuple(vocabulary_phrases())),
        files={},
        made_by={"test": True},
    )


def tiny_bundle(folder: Path, seed: int = 0, guidable: bool = True) -> Bundle:
    """A bundle of random networks on disk."""
    torch.manual_seed(seed)
    manifest = tiny_manifest()
    specs = {name: dataclasses.replace(getattr(manifest, name), guidable=guidable) for name in ("lmnet", "linet")}
    manifest = dataclasses.replace(manifest, **specs)
    tensors = {"vqgan.safetensors": VQGAN(manifest.autoencoder.config).state_dict()}
    for spec in (manifest.lmnet, manifest.linet):
        text = VocabularyEncoder(manifest.text.phrases, spec.unet.context_dim)
        tensors[spec.file] = {
            **{f"unet.{name}": value for name, value in UNet3D(spec.unet).state_dict().items()},
            **{f"text.{name}": value for name, value in text.state_dict().items()},
            "alphas_cumprod": NoiseSchedule.cosine().alphas_cumprod,
        }
    return write_bundle(folder, manifest, tensors, {"README.md": "# tiny\n"})
