"""Training LMNet and LINet on rendered cases, each together with its own vocabulary encoder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from LesionDiffusionLib.diffusion.denoiser import Condition, Denoiser
from LesionDiffusionLib.diffusion.losses import box_weighted_l2
from LesionDiffusionLib.linet import LatentMask
from LesionDiffusionLib.lmnet import condition_maps
from LesionDiffusionLib.networks.vocabulary_encoder import VocabularyEncoder
from LesionDiffusionLib.training.case_store import CaseStore
from LesionDiffusionLib.training.loop import LoopOptions, optimize

DROP_ALL, DROP_EACH = (
    0.1,
    0.1,
)  # shares of texts left out: whole ones for guidance, single attributes for partial reports
GAMMA = 0.05  # paper equation 2 uses 0.001: with a short training the region outside the box would stay untrained


def drop_attributes(strings: list[str], generator: torch.Generator) -> list[str]:
    """The strings that survive attribute dropout; always at least the empty text."""
    if torch.rand(1, generator=generator) < DROP_ALL:
        return [""]
    return [s for s in strings if torch.rand(1, generator=generator) >= DROP_EACH] or [""]


def train_lmnet(
    denoiser: Denoiser, text: VocabularyEncoder, cases: CaseStore, options: LoopOptions, report: Callable = print
) -> dict[str, Tensor]:
    """Train LMNet's backbone with its text encoder; returns the averaged state dict ("unet.*", "text.*").

    Loss: paper equation 2 on the denoiser's own target.
    """
    labels, organ, box, mask = (cases.array(f"lmnet_{name}") for name in ("labels", "organ", "box", "mask"))
    strings = cases.strings("mask")
    generator = torch.Generator().manual_seed(options.seed)

    def losses(step: int) -> dict[str, Tensor]:
        picks = torch.randint(len(cases), (options.batch,), generator=generator).tolist()
        maps = torch.cat([condition_maps(labels[n], organ[n], box[n]) for n in picks])
        m_0 = torch.from_numpy(mask[picks].astype(np.float32))[:, None]
        t = torch.randint(denoiser.schedule.num_train_steps, (options.batch,), generator=generator)
        noise = torch.randn(m_0.shape, generator=generator)
        context = text.encode_batch([drop_attributes(strings[n], generator) for n in picks])
        output = denoiser.backbone_output(denoiser.schedule.add_noise(m_0, noise, t), t, Condition(context, maps))
        inside = maps[:, 2:3]
        share = inside.mean(dim=(1, 2, 3, 4), keepdim=True)  # so that a small lesion counts as much as a large one
        return {"lmnet": 0.1 * box_weighted_l2(output, denoiser.target(m_0, noise, t), inside / share, GAMMA)}

    return optimize(_together(denoiser.backbone, text), losses, options, report)


def train_linet(
    denoiser: Denoiser,
    text: VocabularyEncoder,
    latents: tuple[np.ndarray, np.ndarray],
    cases: CaseStore,
    latent_mask: LatentMask,
    options: LoopOptions,
    report: Callable = print,
) -> dict[str, Tensor]:
    """Train LINet's backbone with its text encoder; returns the averaged state dict ("unet.*", "text.*").

    Args:
        denoiser: of 5 input channels.
        text: its encoder.
        latents: float16 (N, C, d, h, w) of the healthy windows and of the same windows with a lesion.
        cases: masks and texts.
        latent_mask: as at inference.
        options: see LoopOptions.
        report: receives progress lines.

    The known surroundings are those of the healthy window, as at inference; with the lesion image's own latents
    (paper equation 4) the network could read the lesion's density off its blurred rim and ignore the text.
    """
    healthy, lesion = latents
    masks, strings = cases.array("mask"), cases.strings("image")
    generator = torch.Generator().manual_seed(options.seed)

    def losses(step: int) -> dict[str, Tensor]:
        picks = torch.randint(len(cases), (options.batch,), generator=generator).tolist()
        known, z_0 = (torch.from_numpy(part[picks].astype(np.float32)) for part in (healthy, lesion))
        mask = torch.from_numpy(masks[picks].astype(np.float32))[:, None]
        region = latent_mask.region(mask)
        t = torch.randint(denoiser.schedule.num_train_steps, (options.batch,), generator=generator)
        noise = torch.randn(z_0.shape, generator=generator)
        z_t = region * denoiser.schedule.add_noise(z_0, noise, t) + (1 - region) * known
        context = text.encode_batch([drop_attributes(strings[n], generator) for n in picks])
        output = denoiser.backbone_output(z_t, t, Condition(context, latent_mask.channel(mask)))
        error = (output[:, : z_0.shape[1]] - denoiser.target(z_0, noise, t)).square() * region
        per_case = error.sum(dim=(1, 2, 3, 4)) / (region.sum(dim=(1, 2, 3, 4)) * z_0.shape[1])
        return {"linet": per_case.mean()}

    return optimize(_together(denoiser.backbone, text), losses, options, report)


def _together(unet: nn.Module, text: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict({"unet": unet, "text": text})
