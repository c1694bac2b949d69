"""Sampling on a GPU: the processor runs ahead and waits for nothing."""

from __future__ import annotations

import pytest
import torch

from LesionDiffusionLib.diffusion.denoiser import Condition, Denoiser
from LesionDiffusionLib.diffusion.known_region import KnownRegion
from LesionDiffusionLib.diffusion.samplers import SampleNoise, last
from LesionDiffusionLib.diffusion.schedule import NoiseSchedule
from LesionDiffusionLib.networks.unet import UNet3D, UNetConfig
from LesionDiffusionLib.sampling import SAMPLERS, SamplingOptions, sample_conditionally

SHAPE = (1, 1, 8, 8, 8)


def sampled(sampler: str, device: str) -> tuple[torch.Tensor, KnownRegion]:
    """One guided sample of a region; on a GPU no step may wait for it once all is made ready."""
    torch.manual_seed(0)
    network = UNet3D(UNetConfig(3, 1, 8, norm_groups=4, context_dim=16, head_channels=8))
    torch.nn.init.normal_(network.out[-1].weight, std=0.1)
    denoiser = Denoiser(network.to(device).eval(), NoiseSchedule.scaled_linear(), "x0")
    condition = Condition(torch.randn(1, 5, 16).to(device), torch.randn(1, 2, 8, 8, 8).to(device))
    empty, region = torch.zeros(1, 1, 16, device=device), torch.zeros(SHAPE, device=device)
    region[..., 2:6] = 1
    keep, noise = KnownRegion(torch.randn(SHAPE).to(device), region), SampleNoise.from_seeds([5])
    options = SamplingOptions(sampler, 8, guidance=2.0)
    steps = sample_conditionally(denoiser, noise(region), condition, empty, options, noise, keep)
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        return last(steps), keep
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_region_is_sampled_and_the_rest_is_kept(sampler):
    sample, keep = sampled(sampler, "cpu")
    inside = keep.region == 1
    assert torch.equal(sample[~inside], keep.known[~inside])
    assert sample[inside].isfinite().all()
    assert (sample[inside] != keep.known[inside]).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="SKIPPED, not passed: needs a CUDA device")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_step_waits_for_the_gpu(sampler):
    """And the sample is the same as on the processor: so is its noise."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        torch.testing.assert_close(sampled(sampler, "cuda")[0].cpu(), sampled(sampler, "cpu")[0], rtol=0.01, atol=0.01)
