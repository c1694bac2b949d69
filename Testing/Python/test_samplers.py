"""Samplers against Gaussian data, for which the ideal denoiser and every distribution on the way are known."""

from __future__ import annotations

import math

import pytest
import torch

from LesionDiffusionLib.diffusion.denoiser import Condition, Denoiser, Prediction
from LesionDiffusionLib.diffusion.samplers import SampleNoise, ddim, dpmpp_2m, last
from LesionDiffusionLib.diffusion.schedule import (
    NoiseSchedule,
    clean_path,
    even_path,
    path_through,
    released_path,
)

SCHEDULE = NoiseSchedule.scaled_linear()
MEAN, STD = 0.7, 0.3


def gaussian_denoiser(x_t: torch.Tensor, t: int) -> Prediction:
    """The conditional expectations of x_0 and eps for x_0 ~ N(MEAN, STD squared): linear in x_t."""
    alpha, sigma = SCHEDULE.alpha(t).item(), SCHEDULE.sigma(t).item()
    x0 = MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x_t - alpha * MEAN)
    return Prediction(x0, (x_t - alpha * x0) / sigma)


def marginal(level: float) -> tuple[float, float]:
    """Mean and standard deviation of x at an alpha-bar."""
    return math.sqrt(level) * MEAN, math.sqrt(level * STD**2 + 1 - level)


def error_of(sampler, steps: int) -> float:
    """Error at the end of the deterministic flow, which keeps the number of standard deviations from the mean."""
    timesteps = [850 - 800 * i // steps for i in range(steps)]
    path = path_through(SCHEDULE, timesteps, SCHEDULE.alphas_cumprod[50].item())
    quantiles = torch.tensor([[-2.0, 0.0, 1.0]], dtype=torch.float64)
    start, end = marginal(path[0].alpha_cumprod), marginal(path[-1].next_alpha_cumprod)
    x = last(sampler(gaussian_denoiser, start[0] + quantiles * start[1], path))
    return (x - (end[0] + quantiles * end[1])).abs().max().item()


@pytest.mark.parametrize("steps", [20, 40])
def test_ddim_converges_with_order_one_and_dpmpp_with_order_two(steps):
    first, second = error_of(ddim, steps), error_of(dpmpp_2m, steps)
    assert first / error_of(ddim, 2 * steps) == pytest.approx(2, rel=0.15)
    assert second / error_of(dpmpp_2m, 2 * steps) > 3.4
    assert second < first / 4


@pytest.mark.parametrize("path", [released_path(SCHEDULE, 500), even_path(SCHEDULE, 700)])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_gives_the_distribution_of_the_data(path, eta):
    noise = SampleNoise.from_seeds([3])
    sample = last(ddim(gaussian_denoiser, noise(torch.empty(1, 40_000)), path, eta=eta, noise=noise))
    mean, std = marginal(path[-1].next_alpha_cumprod)
    assert sample.mean().item() == pytest.approx(mean, abs=0.008)
    assert sample.std().item() == pytest.approx(std, rel=0.05)  # at eta 1 these many steps leave 4 %


def test_dpmpp_gives_the_distribution_of_the_data_in_few_steps():
    x_T = SampleNoise.from_seeds([3])(torch.empty(1, 40_000))
    sample = last(dpmpp_2m(gaussian_denoiser, x_T, clean_path(SCHEDULE, 10)))
    assert sample.mean().item() == pytest.approx(MEAN, abs=0.008)
    assert sample.std().item() == pytest.approx(STD, rel=0.03)


@pytest.mark.parametrize("t", [1, 40, 500, 999])
def test_ddim_with_eta_1_is_one_ancestral_ddpm_step(t):
    """Ho et al. 2020, equations 6 and 7, with the expectation of x_0 put in."""
    level, next_level = SCHEDULE.alphas_cumprod[t].item(), SCHEDULE.alphas_cumprod[t - 1].item()
    beta = 1 - level / next_level
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[None]
    x0 = gaussian_denoiser(x, t).x0
    mean = (math.sqrt(next_level) * beta * x0 + math.sqrt(1 - beta) * (1 - next_level) * x) / (1 - level)
    std = math.sqrt((1 - next_level) / (1 - level) * beta)
    path = path_through(SCHEDULE, [t], next_level)
    torch.testing.assert_close(last(ddim(gaussian_denoiser, x, path, 1.0, torch.zeros_like)), mean)
    torch.testing.assert_close(last(ddim(gaussian_denoiser, x, path, 1.0, torch.ones_like)), mean + std)


@pytest.mark.parametrize("sampler", [ddim, dpmpp_2m])
def test_a_single_step_to_the_clean_end_is_the_predicted_x0(sampler):
    x_T = torch.randn(2, 5, dtype=torch.float64)
    (step,) = sampler(gaussian_denoiser, x_T, even_path(SCHEDULE, 1))
    torch.testing.assert_close(step.x, gaussian_denoiser(x_T, 999).x0)
    assert torch.equal(step.x0, gaussian_denoiser(x_T, 999).x0)


def test_noise_is_drawn_at_every_step_with_the_last_included():
    drawn = []

    def noise(like):
        drawn.append(like)
        return torch.ones_like(like)

    list(ddim(gaussian_denoiser, torch.zeros(1, 4), released_path(SCHEDULE, 10), eta=1.0, noise=noise))
    assert len(drawn) == 10


@pytest.mark.parametrize("sampler", [ddim, dpmpp_2m])
def test_every_step_is_yielded_and_nothing_is_computed_after_cancelling(sampler):
    asked = []

    def denoiser(x, t):
        asked.append(t)
        return gaussian_denoiser(x, t)

    steps = sampler(denoiser, torch.zeros(1, 4), even_path(SCHEDULE, 10))
    assert asked == []
    seen = [next(steps), next(steps)]
    steps.close()
    assert asked == [999, 888]
    assert [(step.index, step.total, step.timestep) for step in seen] == [(0, 10, 999), (1, 10, 888)]
    with pytest.raises(StopIteration):
        next(steps)


@pytest.mark.parametrize(
    "run",
    [
        lambda x_T, noise: ddim(gaussian_denoiser, x_T, released_path(SCHEDULE, 10), eta=1.0, noise=noise),
        lambda x_T, noise: dpmpp_2m(gaussian_denoiser, x_T, even_path(SCHEDULE, 10)),
    ],
)
def test_the_same_seed_gives_the_same_sample_in_any_batch(run):
    def samples(seeds):
        noise = SampleNoise.from_seeds(seeds)
        return last(run(noise(torch.empty(len(seeds), 2, 3, 5, 7)), noise))

    together = samples([11, 12, 13])
    assert torch.equal(together[1:2], samples([12]))
    assert torch.equal(together, samples([11, 12, 13]))
    assert not torch.equal(together[0], together[1])


def test_noise_comes_from_the_generator_it_is_given_in_the_dtype_asked_for():
    generator = torch.Generator().manual_seed(5)
    expected = torch.randn(3, 2, generator=torch.Generator().manual_seed(5))
    noise = SampleNoise([generator])
    like = torch.empty(1, 3, 2, dtype=torch.float64)
    assert torch.equal(noise(like), expected[None].double())
    assert not torch.equal(noise(like), expected[None].double())


def test_sampling_tracks_no_gradient_and_leaves_the_callers_mode_alone():
    weight = torch.ones(1, requires_grad=True)
    steps = ddim(lambda x, t: Prediction(x * weight, x * weight), torch.ones(1, 2), even_path(SCHEDULE, 3))
    step = next(steps)
    assert not step.x.requires_grad
    assert torch.is_grad_enabled()


def test_misuse_is_refused():
    path, x_T = even_path(SCHEDULE, 3), torch.zeros(2, 4)
    with pytest.raises(ValueError, match=r"eta must lie in 0..1, got 1.5"):
        last(ddim(gaussian_denoiser, x_T, path, eta=1.5, noise=torch.ones_like))
    with pytest.raises(ValueError, match=r"eta 1.0 draws noise at every step; pass noise"):
        last(ddim(gaussian_denoiser, x_T, path, eta=1.0))
    with pytest.raises(ValueError, match="SampleNoise has 1 generators for a batch of 2 samples"):
        last(ddim(gaussian_denoiser, x_T, path, eta=1.0, noise=SampleNoise.from_seeds([0])))


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("t", [0, 400, torch.tensor([3, 999])])
def test_a_backbone_that_hits_its_target_gives_back_x0_and_eps(prediction, t):
    generator = torch.Generator().manual_seed(1)
    x_0, eps = (torch.randn(2, 3, 2, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    x_t = SCHEDULE.add_noise(x_0, eps, t)
    denoiser = Denoiser(lambda x, t, context: perfect(), SCHEDULE, prediction)

    def perfect():
        extra = torch.full((2, 1, 2, 2, 2), 7.0, dtype=torch.float64)
        return torch.cat([denoiser.target(x_0, eps, t), extra], dim=1)

    predicted = denoiser(x_t, t)
    torch.testing.assert_close(predicted.x0, x_0, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(predicted.eps, eps, rtol=1e-6, atol=1e-9)
    assert denoiser.backbone_output(x_t, t).shape[1] == 4


def test_the_backbone_gets_the_maps_behind_x_and_one_timestep_a_sample():
    seen = {}

    def backbone(x, timesteps, context):
        seen.update(x=x, timesteps=timesteps, context=context)
        return x[:, :2]

    x_t, maps, context = torch.randn(3, 2, 1, 1, 1), torch.randn(1, 4, 1, 1, 1), torch.randn(1, 5, 6)
    Denoiser(backbone, SCHEDULE)(x_t, 17, Condition(context, maps))
    assert torch.equal(seen["x"][:, :2], x_t)
    assert torch.equal(seen["x"][:, 2:], maps.expand(3, -1, -1, -1, -1))
    assert seen["timesteps"].tolist() == [17, 17, 17]
    assert seen["context"].shape == (3, 5, 6)


def test_a_half_precision_backbone_leaves_the_state_in_float32():
    denoiser = Denoiser(lambda x, t, context: x.bfloat16(), SCHEDULE)
    assert denoiser(torch.randn(1, 1, 2, 2, 2), 5).x0.dtype == torch.float32


def test_unknown_parametrization_is_refused():
    with pytest.raises(ValueError, match="must be one of epsilon, v, x0, got 'score'"):
        Denoiser(lambda x, t, context: x, SCHEDULE, "score")
