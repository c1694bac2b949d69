"""Pictures of what a network has learned so far: a row for each of a few cases, held out where there are such."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from LesionDiffusionLib.diffusion.samplers import SampleNoise
from LesionDiffusionLib.intensity import to_network
from LesionDiffusionLib.linet import LINet
from LesionDiffusionLib.lmnet import LMNet
from LesionDiffusionLib.networks.text_tower import TextEncoder
from LesionDiffusionLib.networks.vqgan import VQGAN
from LesionDiffusionLib.sampling import SamplingOptions
from LesionDiffusionLib.training.sources import PreparedImages, PreparedMasks, PreparedWindows
from LesionDiffusionLib.training.train_denoisers import context_of

CASES, SAMPLING = 3, SamplingOptions("dpmpp", 10, 1.0)
SOFT_TISSUE = (0.35, 0.85)  # network values that are shown: -100 to 233 HU

Row = list[np.ndarray]
Pictures = Callable[[int, list[Row]], None]


def previewing(show: Pictures, cases: int, row: Callable[[int], Row]) -> Callable[[int], None]:
    """What a training calls with its step: shows ``row`` of the first of ``cases``."""
    return lambda step: show(step, [row(n) for n in range(min(CASES, cases))])


def vqgan_row(model: VQGAN, windows: PreparedWindows, device: torch.device, n: int) -> Row:
    """The CT, and what is left of it."""
    x = torch.from_numpy(to_network(windows[n]))
    decoded = model(x[None, None].to(device))[0][0, 0].float().cpu()
    return [_gray(image.numpy()) for image in (x, decoded)]


def lmnet_row(lmnet: LMNet, text: TextEncoder, source: PreparedMasks, device: torch.device, n: int) -> Row:
    """The organ, the real lesion, and the one that is drawn."""
    maps, m_0 = (part.to(device) for part in source([n], [False]))
    *_, last = lmnet.sample(maps, _context(text, source, device, n), SAMPLING, SampleNoise.from_seeds([n]))
    return [_middle(window.float().cpu().numpy()) for window in (maps[0, 1], m_0[0, 0], last.x[0, 0])]


def linet_row(linet: LINet, text: TextEncoder, source: PreparedImages, device: torch.device, n: int) -> Row:
    """The lesion's mask, the CT, and the CT with the lesion painted anew."""
    known, _, mask = (part.to(device) for part in source([n], [False]))
    *_, last = linet.sample(known, mask, _context(text, source, device, n), SAMPLING, SampleNoise.from_seeds([n]))
    images = (to_network(linet.codec.decode(z)[0]) for z in (known, last.x))
    return [_middle(mask[0, 0].cpu().numpy()), *map(_gray, images)]


def _context(text: TextEncoder, source: PreparedMasks | PreparedImages, device: torch.device, n: int) -> torch.Tensor:
    return context_of(text, [source.strings(n) or [""]], device)


def _middle(window: np.ndarray) -> np.ndarray:
    """The axial slice through the middle of a window (D, H, W), where the lesion is."""
    return window[len(window) // 2].astype(np.float32)


def _gray(network_values: np.ndarray) -> np.ndarray:
    """The middle slice of a CT window in network values, the soft tissue from 0 to 1."""
    low, high = SOFT_TISSUE
    return (_middle(network_values) - low) / (high - low)
