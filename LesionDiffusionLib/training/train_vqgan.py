"""Training the VQ autoencoder on CT windows (paper equation 3 without the adversarial term)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from LesionDiffusionLib.intensity import to_network
from LesionDiffusionLib.networks.vqgan import VQGAN
from LesionDiffusionLib.training.loop import LoopOptions, optimize

CONTINUOUS_SHARE = 0.5  # of the steps, before the codebook is switched on
ROWS_PER_CODE = 100
REVIVE_EVERY = 100  # steps between revivals of unused codes


def train_vqgan(model: VQGAN, windows_hu: np.ndarray, options: LoopOptions, report=print) -> VQGAN:
    """Train ``model`` in place on ``windows_hu``, int16 (N, D, H, W) HU, and return it.

    The first half runs without quantization: the latent space settles first. Then the codebook starts from k-means
    centers of the latents, and codes that no voxel chooses are moved onto latents that are served badly. Both keep the
    whole codebook in use, which plain training from a tiny uniform codebook does not.
    """
    generator = torch.Generator().manual_seed(options.seed)
    switch = round(CONTINUOUS_SHARE * options.steps)
    usage = torch.zeros(model.config.codebook_size)

    def losses(step: int) -> dict[str, Tensor]:
        x = draw_windows(windows_hu, options.batch, generator, crop=32 if step % 8 else None)
        z = model.encode(x)
        if step < switch:
            decoded = model.decode(z, quantize=False)
            return {**reconstruction_losses(decoded, x), "latent": 1e-3 * z.square().mean()}
        if step == switch:
            start_codebook(model, windows_hu, generator)
        quantized = model.quantize(z)
        usage.index_add_(0, quantized.indices.flatten(), torch.ones(quantized.indices.numel()))
        if (step - switch) % REVIVE_EVERY == REVIVE_EVERY - 1 and step < 0.9 * options.steps:
            revive_codes(model, z.detach(), usage, generator)
            usage.zero_()
        decoded = model.decode(quantized.latent, quantize=False)
        return {**reconstruction_losses(decoded, x), "codebook": quantized.codebook_loss}

    model.load_state_dict(optimize(model, losses, options, report))
    return model.eval()


def draw_windows(windows_hu: np.ndarray, batch: int, generator: torch.Generator, crop: int | None) -> Tensor:
    """A batch (B, 1, D, H, W) in network units, randomly cropped and mirrored.

    Smaller crops are cheaper; whole windows now and then keep the group norms' statistics right for inference.
    """
    picks = torch.randint(len(windows_hu), (batch,), generator=generator)
    size = windows_hu.shape[1] if crop is None else crop
    if crop is None:
        picks = picks[:1]
    batch_hu = []
    for pick in picks.tolist():
        starts = [int(torch.randint(n - size + 1, (1,), generator=generator)) for n in windows_hu.shape[1:]]
        window = windows_hu[pick][tuple(slice(s, s + size) for s in starts)]
        flips = [axis for axis in range(3) if torch.rand(1, generator=generator) < 0.5]
        batch_hu.append(np.flip(window, flips))
    return torch.from_numpy(to_network(np.stack(batch_hu)))[:, None]


def reconstruction_losses(decoded: Tensor, x: Tensor) -> dict[str, Tensor]:
    """L1 for edges and medians plus the paper's L2, weighted so that both count at a few hundredths."""
    return {"l1": functional.l1_loss(decoded, x), "l2": 4 * functional.mse_loss(decoded, x)}


@torch.no_grad()
def start_codebook(model: VQGAN, windows_hu: np.ndarray, generator: torch.Generator, rounds: int = 12) -> None:
    """Set the codebook to k-means centers of latents of random windows, ROWS_PER_CODE latents a code."""
    size = model.config.codebook_size
    rows = _rows(model.encode(draw_windows(windows_hu, 4, generator, 32)))
    while len(rows) < ROWS_PER_CODE * size:
        rows = torch.cat([rows, _rows(model.encode(draw_windows(windows_hu, 4, generator, 32)))])
    model.quantize.embedding.weight.copy_(rows[torch.randperm(len(rows), generator=generator)[:size]])
    for _ in range(rounds):
        nearest = model.quantize.nearest(rows)
        counts = torch.bincount(nearest, minlength=size).clamp(min=1)
        sums = torch.zeros(size, rows.shape[1]).index_add_(0, nearest, rows)
        used = torch.bincount(nearest, minlength=size) > 0
        weight = model.quantize.embedding.weight
        weight[used] = (sums / counts[:, None])[used]


@torch.no_grad()
def revive_codes(model: VQGAN, z: Tensor, usage: Tensor, generator: torch.Generator) -> None:
    """Move codes that were not chosen since the last revival onto latents of the current batch."""
    unused = torch.nonzero(usage == 0).flatten()
    rows = _rows(z)
    picks = torch.randint(len(rows), (len(unused),), generator=generator)
    model.quantize.embedding.weight[unused] = rows[picks]


def _rows(z_BCDHW: Tensor) -> Tensor:
    return z_BCDHW.movedim(1, -1).flatten(0, -2)
