"""What the VQ autoencoder minimizes: paper equation 3, and what the released code has besides (released-model 1.6)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from LesionDiffusionLib.intensity import to_network
from LesionDiffusionLib.networks.discriminator import PatchDiscriminator
from LesionDiffusionLib.networks.lpips import LPIPS
from LesionDiffusionLib.networks.vqgan import VQGAN
from LesionDiffusionLib.training import ranks
from LesionDiffusionLib.training.config import VQGANLosses, VQGANTraining
from LesionDiffusionLib.training.linear_start import start_linear
from LesionDiffusionLib.training.loop import Objective

CONTINUOUS_SHARE = 0.5  # of the steps, before the codebook is switched on
ROWS_PER_CODE = 100
REVIVE_EVERY = 100  # steps between revivals of unused codes
REVIVED_SHARE = 0.9  # of the steps, in which codes are revived
KMEANS_BATCH = 4
KMEANS_WINDOW = 32  # edge of the crops whose latents start the codebook
LATENT_WEIGHT = 1e-3  # keeps latents small while nothing is quantized
LARGEST_ADAPTIVE_WEIGHT = 1e4
HALF_SCALE = 2.0**16  # a power of two: it changes no bit of what is not lost

Place = tuple[int, tuple[slice, ...], list[int]]  # window, crop, mirrored axes


class VQGANTrainee(nn.Module):
    """All that the autoencoder's training must remember: the model, its judges, and which codes were used."""

    def __init__(self, model: VQGAN, losses: VQGANLosses) -> None:
        super().__init__()
        self.model = model
        model.quantize.codebook_weight = losses.codebook
        self.judges = nn.ModuleList()
        if losses.adversarial != "none":
            dims = (3, 2) if losses.slices else (3,)
            self.judges.extend(PatchDiscriminator(n, losses.discriminator_norm) for n in dims)
            on_gpu = next(model.parameters()).device.type == "cuda"
            if on_gpu and ranks.world_size() > 1:  # as released; there is none for CPUs
                self.judges = nn.SyncBatchNorm.convert_sync_batchnorm(self.judges)
        self.register_buffer("usage", torch.zeros(model.config.codebook_size))


def vqgan_objective(
    model: VQGAN, windows_hu: Sequence[np.ndarray] | np.ndarray, training: VQGANTraining, lpips: LPIPS | None = None
) -> Objective:
    """The autoencoder and its discriminators ("model.*", "judges.*").

    With a "kmeans" start the first half runs without quantization: the latent space settles first. Then the codebook
    starts from k-means centers of the latents, and codes that no voxel chooses are moved onto latents that are served
    badly. Both keep the whole codebook in use, which plain training from a tiny uniform codebook does not.

    Args:
        model: trained in place.
        windows_hu: int16 (N, D, H, W) HU.
        training: see VQGANTraining.
        lpips: the perceptual distance, with weights, where ``training.losses.lpips`` is above 0.
    """
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):  # the judges' weights are drawn here: by every process the same
        torch.manual_seed(training.loop.seed)
        trainee = VQGANTrainee(model, training.losses).to(device)
    if training.start == "linear":
        start_linear(model, windows_hu)
    kmeans = training.codebook_start == "kmeans"
    switch = quantized_from(training)

    def draw(step: int, generator: torch.Generator) -> Tensor:
        return draw_windows(windows_hu, training, step, generator)

    def losses(step: int, drawn: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        x = drawn.to(device)
        z = model.encode(x)
        if step < switch:
            decoded = model.decode(z, quantize=False)
            return {
                **reconstruction_losses(decoded, x, training.losses),
                "latent": LATENT_WEIGHT * z.square().mean(),
            }
        if kmeans and step == switch:
            start_codebook(model, windows_hu, generator)
        quantized = model.quantize(z)
        if kmeans:
            keep_codes_in_use(trainee, (z.detach(), quantized.indices), step, training, generator)
        decoded = model.decode(quantized.latent, quantize=False).float()
        slice_at = int(torch.randint(x.shape[2], (1,), generator=generator)) if _needs_slice(training.losses) else 0
        found = reconstruction_losses(decoded, x, training.losses)
        if lpips is not None and training.losses.lpips:
            pair = (image[:, :, slice_at].clamp(0, 1) for image in (decoded, x))
            found["lpips"] = training.losses.lpips * lpips(*pair).mean()
        if trainee.judges and step >= training.losses.adversarial_from:
            found |= adversarial_losses(trainee, decoded, x, (sum(found.values()), slice_at), training.losses)
        return {**found, "codebook": quantized.codebook_loss}

    groups = [list(model.parameters())] + ([list(trainee.judges.parameters())] if trainee.judges else [])
    return Objective(trainee, losses, draw, groups)


def quantized_from(training: VQGANTraining) -> int:
    """The first step whose latents are quantized."""
    return round(CONTINUOUS_SHARE * training.loop.steps) if training.codebook_start == "kmeans" else 0


def draw_windows(
    windows_hu: Sequence[np.ndarray] | np.ndarray, training: VQGANTraining, step: int, generator: torch.Generator
) -> Tensor:
    """This process's share of a step's windows (B, 1, D, H, W) in network units, randomly cropped and mirrored.

    Smaller crops are cheaper; a whole window now and then keeps the group norms' statistics right for inference. It is
    a single one, which every process takes.
    """
    total = training.loop.batch * ranks.world_size()
    picks = torch.randint(len(windows_hu), (total,), generator=generator).tolist()
    if training.crop is None:
        return cut(windows_hu, draw_places(windows_hu, picks, windows_hu.shape[1:], generator)[ranks.share(total)])
    if training.whole_every and step % training.whole_every == 0:
        return cut(windows_hu, draw_places(windows_hu, picks[:1], windows_hu.shape[1:], generator))
    return cut(windows_hu, draw_places(windows_hu, picks, (training.crop,) * 3, generator)[ranks.share(total)])


def draw_places(
    windows_hu: Sequence[np.ndarray] | np.ndarray,
    picks: Sequence[int],
    size: tuple[int, int, int],
    generator: torch.Generator,
) -> list[Place]:
    """Where to cut a crop of ``size`` out of each picked window, and along which axes to mirror it."""
    places = []
    room = [n - s for n, s in zip(windows_hu.shape[1:], size, strict=True)]
    for pick in picks:
        starts = [int(torch.randint(r + 1, (1,), generator=generator)) for r in room]
        flips = [axis for axis in range(3) if torch.rand(1, generator=generator) < 0.5]
        places.append((pick, tuple(slice(a, a + s) for a, s in zip(starts, size, strict=True)), flips))
    return places


def cut(windows_hu: Sequence[np.ndarray] | np.ndarray, places: Sequence[Place]) -> Tensor:
    """The crops at these places in network units: float32 (B, 1, D, H, W)."""
    crops = [np.flip(windows_hu[pick][where], flips) for pick, where, flips in places]
    return torch.from_numpy(to_network(np.stack(crops)))[:, None]


def reconstruction_losses(decoded: Tensor, x: Tensor, losses: VQGANLosses) -> dict[str, Tensor]:
    """L1 for edges and medians, L2 as in the paper; those with a weight above 0."""
    found = {}
    if losses.l1:
        found["l1"] = losses.l1 * functional.l1_loss(decoded, x)
    if losses.l2:
        found["l2"] = losses.l2 * functional.mse_loss(decoded, x)
    return found


def adversarial_losses(
    trainee: VQGANTrainee, decoded: Tensor, x: Tensor, likeness: tuple[Tensor, int], losses: VQGANLosses
) -> dict[str, Tensor]:
    """What the autoencoder gains by deceiving its judges, and what they lose by being deceived; one backward for both.

    Each term reaches only its own parameters: the judges are frozen while they judge for the autoencoder, and see a
    detached image while they learn. ``likeness``: the reconstruction's loss and the axial slice for the 2-D judge.
    """
    likeness_loss, slice_at = likeness
    trainee.judges.requires_grad_(False)
    fakes = [judge(_seen_by(judge, decoded, slice_at)) for judge in trainee.judges]
    trainee.judges.requires_grad_(True)
    deceit = torch.stack([_deceit(fake, losses) for fake in fakes]).mean()
    last = trainee.model.decoder.conv_out.weight
    weight = losses.adversarial_weight * adaptive_weight(likeness_loss, deceit, last)
    learned = []
    for judge in trainee.judges:
        real, fake = (judge(_seen_by(judge, image, slice_at)) for image in (x, decoded.detach()))
        learned.append(_judgment(real, fake, losses))
    return {"adversarial": weight * deceit, "judges": torch.stack(learned).mean()}


def adaptive_weight(likeness: Tensor, deceit: Tensor, last_layer: nn.Parameter) -> Tensor:
    """Ratio of the gradients of both losses at the decoder's last layer: the two pull about equally hard."""
    pulls = [  # enlarged on their way back, where half precision would lose them
        ranks.mean(torch.autograd.grad(loss * HALF_SCALE, last_layer, retain_graph=True)[0]).norm() / HALF_SCALE
        for loss in (likeness, deceit)
    ]
    return (pulls[0] / (pulls[1] + 1e-4)).clamp(0, LARGEST_ADAPTIVE_WEIGHT).detach()


@torch.no_grad()
def start_codebook(model: VQGAN, windows_hu: np.ndarray, generator: torch.Generator, rounds: int = 12) -> None:
    """Set the codebook to k-means centers of latents of random windows, ROWS_PER_CODE latents a code."""
    size = model.config.codebook_size
    device = model.quantize.embedding.weight.device

    crop = tuple(min(KMEANS_WINDOW, n) for n in windows_hu.shape[1:])
    rows = torch.empty(0, model.config.z_channels, device=device)
    while len(rows) < ROWS_PER_CODE * size:  # every process does the same: this happens once
        picks = torch.randint(len(windows_hu), (KMEANS_BATCH,), generator=generator).tolist()
        x = cut(windows_hu, draw_places(windows_hu, picks, crop, generator))
        rows = torch.cat([rows, _rows(model.encode(x.to(device))).float()])
    start = torch.randperm(len(rows), generator=generator)[:size].to(device)
    model.quantize.embedding.weight.copy_(rows[start])
    for _ in range(rounds):
        nearest = model.quantize.nearest(rows)
        counts = torch.bincount(nearest, minlength=size).clamp(min=1)
        sums = torch.zeros(size, rows.shape[1], device=device).index_add_(0, nearest, rows)
        used = torch.bincount(nearest, minlength=size) > 0
        weight = model.quantize.embedding.weight
        weight[used] = (sums / counts[:, None])[used]
    ranks.copy_first(model.quantize.embedding.weight)


def keep_codes_in_use(
    trainee: VQGANTrainee,
    latents: tuple[Tensor, Tensor],
    step: int,
    training: VQGANTraining,
    generator: torch.Generator,
) -> None:
    """Count which codes were chosen, and now and then revive the others; ``latents``: z and the chosen indices."""
    z, indices = latents
    _count_usage(trainee, indices)
    due = (step - quantized_from(training)) % REVIVE_EVERY == REVIVE_EVERY - 1
    if due and step < REVIVED_SHARE * training.loop.steps:
        revive_codes(trainee.model, z, trainee.usage, generator)
        trainee.usage.zero_()


@torch.no_grad()
def revive_codes(model: VQGAN, z: Tensor, usage: Tensor, generator: torch.Generator) -> None:
    """Move codes that were not chosen since the last revival onto latents of the current batch."""
    unused = torch.nonzero(usage == 0).flatten()
    rows = ranks.gathered(_rows(z).float())
    picks = torch.randint(len(rows), (len(unused),), generator=generator)
    model.quantize.embedding.weight[unused] = rows[picks.to(rows.device)]


@torch.no_grad()
def _count_usage(trainee: VQGANTrainee, indices: Tensor) -> None:
    counts = torch.bincount(indices.flatten(), minlength=len(trainee.usage)).to(trainee.usage)
    trainee.usage += ranks.mean(counts) * ranks.world_size()


def _needs_slice(losses: VQGANLosses) -> bool:
    return bool(losses.lpips) or (losses.adversarial != "none" and losses.slices)


def _seen_by(judge: PatchDiscriminator, image: Tensor, slice_at: int) -> Tensor:
    return image if judge.dims == 3 else image[:, :, slice_at]


def _deceit(fake: Tensor, losses: VQGANLosses) -> Tensor:
    """Of the autoencoder: small where a judge takes its image for real."""
    return -fake.mean() if losses.adversarial == "hinge" else functional.softplus(-fake).mean()


def _judgment(real: Tensor, fake: Tensor, losses: VQGANLosses) -> Tensor:
    """Of a judge: small where it tells the two apart (paper equation 3's logarithms, or the hinge)."""
    if losses.adversarial == "hinge":
        return (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()) / 2
    return functional.softplus(-real).mean() + functional.softplus(fake).mean()


def _rows(z_BCDHW: Tensor) -> Tensor:
    return z_BCDHW.movedim(1, -1).flatten(0, -2)
