"""From a bundle to networks that are ready to sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from LesionDiffusionLib.bundles import Bundle, LINetSpec, LMNetSpec
from LesionDiffusionLib.devices import PRECISIONS, resolve_precision
from LesionDiffusionLib.diffusion.denoiser import Denoiser
from LesionDiffusionLib.diffusion.schedule import NoiseSchedule
from LesionDiffusionLib.errors import BundleError
from LesionDiffusionLib.linet import LatentCodec, LINet
from LesionDiffusionLib.lmnet import LMNet
from LesionDiffusionLib.networks.convolution import store_channels_last
from LesionDiffusionLib.networks.text_tower import BIOMEDCLIP_HUB_ID, BiomedCLIPTextEncoder, TextEncoder
from LesionDiffusionLib.networks.unet import UNet3D
from LesionDiffusionLib.networks.upsampling import fold_upsampling
from LesionDiffusionLib.networks.vocabulary_encoder import VocabularyEncoder
from LesionDiffusionLib.networks.vqgan import VQGAN
from LesionDiffusionLib.released_report import released_image_strings, released_mask_strings
from LesionDiffusionLib.report import LesionReport, image_strings, mask_strings

SPELLINGS: dict[str, tuple[Callable[[LesionReport], list[str]], ...]] = {
    "report": (mask_strings, image_strings),
    "released": (released_mask_strings, released_image_strings),
}


@dataclass(frozen=True, eq=False)
class Models:
    """Networks of one bundle on one device."""

    bundle: Bundle
    device: torch.device
    lmnet: LMNet
    linet: LINet
    mask_text: TextEncoder
    image_text: TextEncoder
    precision: str = "fp32"  # of the denoisers

    def mask_strings(self, report: LesionReport) -> list[str]:
        """What LMNet hears of a report."""
        return SPELLINGS[self.bundle.manifest.text.spelling][0](report)

    def image_strings(self, report: LesionReport) -> list[str]:
        """What LINet hears of a report."""
        return SPELLINGS[self.bundle.manifest.text.spelling][1](report)

    def mask_context(self, report: LesionReport) -> Tensor:
        """LMNet's context (1, N, C) of a report."""
        return self._context(self.mask_text, self.mask_strings(report))

    def image_context(self, report: LesionReport) -> Tensor:
        """LINet's context (1, N, C) of a report."""
        return self._context(self.image_text, self.image_strings(report))

    def unknown_strings(self, report: LesionReport) -> list[str]:
        """Strings that a vocabulary encoder was never trained on; a language encoder knows every string."""
        if not isinstance(self.mask_text, VocabularyEncoder):
            return []
        return list(dict.fromkeys(self.mask_text.unknown(self.mask_strings(report) + self.image_strings(report))))

    def idle_beside(self, working: nn.Module) -> list[nn.Module]:
        """The networks that do not work while ``working`` does: they need not lie on the GPU then."""
        networks = (
            self.lmnet.denoiser.backbone,
            self.linet.denoiser.backbone,
            self.linet.codec.autoencoder,
            *(getattr(text, "tower", None) for text in (self.mask_text, self.image_text)),
        )
        others = (n for n in networks if isinstance(n, nn.Module) and n is not working)
        return list(dict.fromkeys(others))

    def _context(self, encoder: TextEncoder, strings: list[str]) -> Tensor:
        if (tower := getattr(encoder, "tower", None)) is not None:
            tower.to(self.device)  # it may have waited elsewhere, and found no room to come back
        with torch.no_grad():
            return encoder.encode(strings or [""])[None].to(self.device)


def load_models(
    bundle: Bundle,
    device: torch.device,
    text_encoder: str | None = None,
    allow_download: bool = False,
    precision: str = "auto",
) -> Models:
    """Build a bundle's networks and fill in their weights.

    Args:
        bundle: opened, hashes checked.
        device: where they run.
        text_encoder: folder or hub id of BiomedCLIP, for a bundle that needs it and does not hold it.
        allow_download: whether a hub id may be fetched; otherwise it must lie in the local cache.
        precision: of the denoisers, see `resolve_precision`; the autoencoder keeps float32, because half precision has
            steps of several HU.

    Raises:
        DeviceError: no such precision.
        BundleError: tensors missing, left over or misshapen, or no text encoder.
    """
    manifest, precision = bundle.manifest, resolve_precision(precision, device)
    tensors = {spec.file: bundle.tensors(spec.file) for spec in (manifest.lmnet, manifest.linet, manifest.autoencoder)}
    texts = _text_encoders(bundle, tensors, device, (text_encoder, allow_download))
    lmnet, linet = (_denoiser(spec, tensors[spec.file], device, bundle) for spec in (manifest.lmnet, manifest.linet))
    for denoiser in (lmnet, linet):
        store_channels_last(denoiser.backbone.in_precision(PRECISIONS[precision]))
    nulls = (_null(text, device) if spec.guidable else None for text, spec in zip(texts, _specs(bundle), strict=True))
    autoencoder = _filled(VQGAN(manifest.autoencoder.config), tensors[manifest.autoencoder.file], bundle).to(device)
    shift, scale = (torch.tensor(t) for t in (manifest.autoencoder.latent_shift, manifest.autoencoder.latent_scale))
    codec = LatentCodec(autoencoder, shift, scale)
    mask_null, image_null = nulls
    image = manifest.linet
    return Models(
        bundle,
        device,
        LMNet(lmnet, manifest.lmnet.window, mask_null),
        LINet(linet, codec, image.window, image.latent_mask, image_null, image.change),
        *texts,
        precision,
    )


def _specs(bundle: Bundle) -> tuple[LMNetSpec, LINetSpec]:
    return bundle.manifest.lmnet, bundle.manifest.linet


def _null(encoder: TextEncoder, device: torch.device) -> Tensor:
    with torch.no_grad():
        return encoder.encode([""])[None].to(device)


def _denoiser(
    spec: LMNetSpec | LINetSpec, tensors: Mapping[str, Tensor], device: torch.device, bundle: Bundle
) -> Denoiser:
    if "alphas_cumprod" not in tensors:
        raise BundleError(f"{bundle.folder / spec.file} lacks the schedule 'alphas_cumprod'; install the bundle again")
    unet = _filled(UNet3D(spec.unet), _part(tensors, "unet."), bundle).to(device)
    return Denoiser(unet, NoiseSchedule(tensors["alphas_cumprod"]), spec.prediction)


def _text_encoders(
    bundle: Bundle,
    tensors: Mapping[str, Mapping[str, Tensor]],
    device: torch.device,
    source: tuple[str | None, bool],
) -> tuple[TextEncoder, TextEncoder]:
    text = bundle.manifest.text
    if text.encoder == "vocabulary":
        return tuple(
            _filled(VocabularyEncoder(text.phrases, spec.unet.context_dim), _part(tensors[spec.file], "text."), bundle)
            for spec in _specs(bundle)
        )
    name, allow_download = source
    if name is not None and Path(name).is_dir():
        encoder = BiomedCLIPTextEncoder.from_folder(Path(name))
    elif name is None and text.file is not None and text.vocabulary_file is not None:
        encoder = BiomedCLIPTextEncoder.from_tensors(bundle.tensors(text.file), bundle.folder / text.vocabulary_file)
    else:
        encoder = BiomedCLIPTextEncoder.from_hub(name or BIOMEDCLIP_HUB_ID, allow_download)
    encoder.tower.to(device)
    return encoder, encoder


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _filled(module: nn.Module, tensors: Mapping[str, Tensor], bundle: Bundle) -> nn.Module:
    """The module with these weights in float32 (files may hold half precision), frozen."""
    try:
        module.load_state_dict({name: value.float() for name, value in tensors.items()})
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise BundleError(f"the weights in {bundle.folder} do not fit its bundle.json: {first}") from error
    fold_upsampling(module)
    return module.eval().requires_grad_(False)
