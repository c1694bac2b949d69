"""Known-region handling: bit-equal outside, free inside, with every sampler."""

from __future__ import annotations

import pytest
import torch

from LesionDiffusionLib.diffusion.denoiser import Prediction
from LesionDiffusionLib.diffusion.known_region import KnownRegion
from LesionDiffusionLib.diffusion.samplers import SampleNoise, ddim, dpmpp_2m
from LesionDiffusionLib.diffusion.schedule import NoiseSchedule, even_path, released_path

SCHEDULE = NoiseSchedule.scaled_linear()


def region_and_known():
    generator = torch.Generator().manual_seed(4)
    known = torch.randn(2, 3, 4, 5, 6, generator=generator)
    known[0, 0, 0, 0, 0] = -0.0
    region = torch.zeros(2, 1, 4, 5, 6)
    region[0, :, 1:3, 1:4, 2:5] = 1
    region[1, :, 2:, :2, 3] = 1
    return KnownRegion(known, region), known, region.bool().expand_as(known)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_the_known_part_is_bit_equal_at_every_step_and_clean_at_every_question(sampler):
    constrain, known, inside = region_and_known()
    asked = []

    def denoiser(x, t):
        asked.append(torch.equal(x[~inside], known[~inside]))
        return Prediction(x.mean() + 0.1 * x, x + 1)

    noise = SampleNoise.from_seeds([0, 1])
    x_T = noise(known)
    if sampler == "ddim":
        steps = ddim(denoiser, x_T, released_path(SCHEDULE, 5), eta=1.0, noise=noise, constrain=constrain)
    else:
        steps = dpmpp_2m(denoiser, x_T, even_path(SCHEDULE, 5), constrain=constrain)
    for step in steps:
        bits, known_bits = step.x.view(torch.int32), known.view(torch.int32)
        assert torch.equal(bits[~inside], known_bits[~inside])
        assert not torch.isclose(step.x[inside], known[inside]).any()
    assert asked == [True] * 5


def test_what_is_not_a_number_outside_does_not_leak():
    constrain, known, inside = region_and_known()
    x = torch.full_like(known, float("nan"))
    assert torch.equal(constrain(x)[~inside], known[~inside])


def test_shapes_must_fit():
    with pytest.raises(ValueError, match=r"expects a region \(1, 1, 2, 2, 2\) for known \(1, 4, 2, 2, 2\), got"):
        KnownRegion(torch.zeros(1, 4, 2, 2, 2), torch.zeros(1, 4, 2, 2, 2))


def test_a_soft_region_is_refused():
    with pytest.raises(ValueError, match="region of 0 and 1 only"):
        KnownRegion(torch.zeros(1, 4, 2, 2, 2), torch.full((1, 1, 2, 2, 2), 0.5))
