"""Second stage: the window goes through the VQ-GAN, LINet inpaints the lesion, and the change comes home."""

from __future__ import annotations

import functools

import numpy as np
import torch

from LesionDiffusionLib.diffusion.samplers import SampleNoise
from LesionDiffusionLib.geometry import Box, Geometry
from LesionDiffusionLib.homecoming import bring_home, falloff_mm
from LesionDiffusionLib.resampling import sample, sample_mask, window_grid
from LesionDiffusionLib.run import Run


def inpaint(run: Run, mask: np.ndarray, noise: SampleNoise) -> tuple[Box, np.ndarray, float]:
    """The lesion's image.

    Args:
        run: the synthesis under way.
        mask: bool (I, J, K), the lesion.
        noise: source of chance.

    Returns:
        A box of the CT, its new values in the CT's dtype, and the distance in mm from the lesion beyond which nothing
        changed.
    """
    linet, device, patient = run.models.linet, run.models.device, run.ct.geometry
    grid = lesion_window(run, mask)
    with run.stage("encode"):
        encode = functools.partial(linet.codec.encode, sample(run.ct, grid), device)
        known = run.guarded(encode, linet.codec.autoencoder)
    region = torch.from_numpy(sample_mask(mask, patient, grid).astype(np.float32))[None, None].to(device)
    context = run.models.image_context(run.plan.report)
    options = run.settings.for_network(run.models.bundle.manifest.linet.sampling)
    sample_window = functools.partial(linet.sample, known, region, context, options)
    latent = run.sampled("inpaint", sample_window, noise, network=linet.denoiser.backbone)
    with run.stage("decode"):
        decode = linet.codec.decode
        windows = [run.guarded(functools.partial(decode, z), linet.codec.autoencoder)[0] for z in (latent, known)]
    with run.stage("blend"):
        reach_mm = falloff_mm(mask, grid, patient)
        return *bring_home(run.ct, mask, grid, tuple(windows), reach_mm), reach_mm


def lesion_window(run: Run, mask: np.ndarray) -> Geometry:
    """The grid of LINet's window around a lesion, bool (I, J, K)."""
    rule = run.models.linet.window
    spacing_mm = rule.spacing_for(run.plan.report.size_mm)
    return window_grid(run.ct.geometry, Box.bounding(mask).center_vox, spacing_mm, rule.shape)
