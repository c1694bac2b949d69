"""What LMNet and LINet minimize: the losses of the papers, of the released code, and ours, each by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from LesionDiffusionLib.diffusion.denoiser import Condition, Denoiser
from LesionDiffusionLib.diffusion.losses import (
    box_l1,
    box_weighted_l2,
    dice_loss,
    released_masked_l1,
    released_weighted_l2,
    tight_box,
)
from LesionDiffusionLib.linet import inpainted
from LesionDiffusionLib.networks.text_tower import TextEncoder
from LesionDiffusionLib.training import ranks
from LesionDiffusionLib.training.config import DenoiserTraining, LINetTraining, LMNetTraining, TextOptions
from LesionDiffusionLib.training.loop import Objective
from LesionDiffusionLib.training.mirroring import mirrored_words
from LesionDiffusionLib.training.sources import ImageBatch, MaskBatch, Source

BALANCED_SCALE = 0.1  # brings the balanced loss to the size of the others
LEAST_CHANGE = 0.5  # root mean square, in the units that are diffused: what is smaller counts no more for being small


class Draw(NamedTuple):
    """This process's share of what chance decides in one step."""

    batch: tuple[Tensor, ...]
    t: Tensor
    noise: Tensor
    strings: list[list[str]]


def draw(source: Source, training: DenoiserTraining, num_train_steps: int, generator: torch.Generator) -> Draw:
    """Examples, timesteps, noise and texts of one step.

    Every process draws for all of them, so that the result does not depend on their number.
    """
    total = training.loop.batch * ranks.world_size()
    picks = torch.randint(len(source), (total,), generator=generator).tolist()
    t = draw_timesteps(total, num_train_steps, training.noise_bias, generator)
    noise = torch.randn((total, *source.shape), generator=generator)
    flips = [False] * total
    if training.flip:
        wanted = (torch.rand(total, generator=generator) < 0.5).tolist()
        flips = [flip and source.can_mirror(n) for n, flip in zip(picks, wanted, strict=True)]
    strings = [
        drop_attributes(_sided(source.strings(n), flip), training.text, generator)
        for n, flip in zip(picks, flips, strict=True)
    ]
    longest = max(map(len, strings))
    padded = [[*texts, *[""] * (longest - len(texts))] for texts in strings]
    own = ranks.share(total)
    return Draw(source(picks[own], flips[own]), t[own], noise[own], padded[own])


def drawing(source: Source, training: DenoiserTraining, denoiser: Denoiser) -> Callable[[int, torch.Generator], Draw]:
    """`draw` as an Objective asks for it."""
    return lambda step, generator: draw(source, training, denoiser.schedule.num_train_steps, generator)


def draw_timesteps(count: int, num_train_steps: int, noise_bias: float, generator: torch.Generator) -> Tensor:
    """``count`` timesteps (int64): uniform for bias 1; P(t < x) = (x / T) ** bias in general."""
    if noise_bias == 1:
        return torch.randint(num_train_steps, (count,), generator=generator)
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    return (uniform ** (1 / noise_bias) * num_train_steps).long().clamp(max=num_train_steps - 1)


def drop_attributes(strings: list[str], text: TextOptions, generator: torch.Generator) -> list[str]:
    """The strings that survive attribute dropout; always at least the empty text."""
    if torch.rand(1, generator=generator) < text.drop_all:
        return [""]
    return [s for s in strings if torch.rand(1, generator=generator) >= text.drop_each] or [""]


def lmnet_objective(denoiser: Denoiser, text: TextEncoder, source: Source, training: LMNetTraining) -> Objective:
    """LMNet's backbone and, where it learns, its text encoder ("unet.*", "text.*")."""
    device = _device(denoiser)

    def losses(step: int, drawn: Draw, generator: torch.Generator) -> dict[str, Tensor]:
        maps, m_0, noise = (part.to(device) for part in (*MaskBatch(*drawn.batch), drawn.noise))
        m_t = denoiser.schedule.add_noise(m_0, noise, drawn.t)
        condition = Condition(context_of(text, drawn.strings, device), maps)
        output = denoiser.backbone_output(m_t, drawn.t, condition).float()
        target, box = denoiser.target(m_0, noise, drawn.t), maps[:, 2:3]
        return {"lmnet": lmnet_loss(output, target, box, training)}

    return Objective(trainable(denoiser, text), losses, drawing(source, training, denoiser))


def lmnet_loss(output: Tensor, target: Tensor, box: Tensor, training: LMNetTraining) -> Tensor:
    """The loss of the training's choice, see `LMNetTraining`."""
    if training.loss == "paper":
        return box_weighted_l2(output, target, box, training.gamma)
    if training.loss == "released":
        return released_weighted_l2(output, target, box)
    share = box.mean(dim=(1, 2, 3, 4), keepdim=True)
    return BALANCED_SCALE * box_weighted_l2(output, target, box / share, training.gamma)


def linet_objective(denoiser: Denoiser, text: TextEncoder, source: Source, training: LINetTraining) -> Objective:
    """LINet's backbone and, where it learns, its text encoder ("unet.*", "text.*")."""
    device = _device(denoiser)

    def losses(step: int, drawn: Draw, generator: torch.Generator) -> dict[str, Tensor]:
        known, z_0, mask, noise = (part.to(device) for part in (*ImageBatch(*drawn.batch), drawn.noise))
        region = training.latent_mask.region(mask)
        start, maps = inpainted(known, training.latent_mask.channel(mask), training.change)
        if training.change is not None:
            z_0 = training.change.between(known, z_0)
        z_t = region * denoiser.schedule.add_noise(z_0, noise, drawn.t) + (1 - region) * start
        condition = Condition(context_of(text, drawn.strings, device), maps)
        output = denoiser.backbone_output(z_t, drawn.t, condition).float()
        return linet_losses(output, denoiser.target(z_0, noise, drawn.t), region, training, z_0 - start)

    return Objective(trainable(denoiser, text), losses, drawing(source, training, denoiser))


def linet_losses(
    output: Tensor, target: Tensor, region: Tensor, training: LINetTraining, change: Tensor | None = None
) -> dict[str, Tensor]:
    """The losses of the training's choice, see `LINetTraining`.

    ``region`` (B, 1, d, h, w) holds what is generated; ``change``, for "relative_l2", what the lesion changed.
    """
    channels = target.shape[1]
    predicted = output[:, :channels]
    if training.loss == "paper":
        return {"linet": box_l1(predicted, target, tight_box(region))}
    if training.loss == "released":
        return {
            "linet": released_masked_l1(predicted, target, region),
            "dice": dice_loss(output[:, channels:], region),
        }
    error = _mean_in(region, predicted - target)
    if training.loss == "relative_l2":
        error = error / (LEAST_CHANGE + _mean_in(region, change).sqrt())
    return {"linet": error.mean()}


def _mean_in(region: Tensor, difference: Tensor) -> Tensor:
    """Mean square (B,) inside the region; 0 where there is none."""
    voxels = region.sum(dim=(1, 2, 3, 4)) * difference.shape[1]
    return (difference.square() * region).sum(dim=(1, 2, 3, 4)) / voxels.clamp(min=1)


def context_of(text: TextEncoder, string_lists: list[list[str]], device: torch.device) -> Tensor:
    """Context (B, N, C) of lists of N strings each."""
    return torch.stack([text.encode(strings) for strings in string_lists]).to(device)


def trainable(denoiser: Denoiser, text: TextEncoder) -> nn.ModuleDict:
    """What learns: the backbone, and a text encoder that is a module (a language model stays frozen)."""
    parts = {"unet": denoiser.backbone}
    return nn.ModuleDict(parts | ({"text": text} if isinstance(text, nn.Module) else {}))


def _sided(strings: list[str], flip: bool) -> list[str]:
    return [mirrored_words(string) for string in strings] if flip else strings


def _device(denoiser: Denoiser) -> torch.device:
    return next(denoiser.backbone.parameters()).device
