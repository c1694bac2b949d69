"""Classifier-free guidance with a backbone whose answer tells what it was given."""

from __future__ import annotations

import pytest
import torch

from LesionDiffusionLib.diffusion.denoiser import Condition, Denoiser
from LesionDiffusionLib.diffusion.guidance import ClassifierFreeGuidance
from LesionDiffusionLib.diffusion.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.scaled_linear()
X_T = torch.randn(2, 1, 2, 2, 2, generator=torch.Generator().manual_seed(0))
TEXT = Condition(torch.full((2, 3, 4), 5.0), torch.full((2, 1, 2, 2, 2), 0.5))
NULL = torch.full((1, 1, 4), -1.0)


class Backbone:
    """Answers x times the mean of the text, plus the map; counts how often it was asked and for how many samples."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x, timesteps, context):
        self.batches.append(len(x))
        return x[:, :1] * context.mean(dim=(1, 2))[:, None, None, None, None] + x[:, 1:]


def guided(scale: float, unconditional=NULL, interval=None):
    backbone = Backbone()
    return ClassifierFreeGuidance(Denoiser(backbone, SCHEDULE), unconditional, scale, interval), backbone


def plain(context: torch.Tensor):
    return Denoiser(Backbone(), SCHEDULE)(X_T, 500, Condition(context, TEXT.maps))


def test_scale_1_is_the_conditional_denoiser_and_asks_once():
    guidance, backbone = guided(1.0)
    assert torch.equal(guidance(X_T, 500, TEXT).eps, plain(TEXT.context).eps)
    assert backbone.batches == [2]


def test_scale_0_is_the_unconditional_denoiser():
    guidance, backbone = guided(0.0)
    result, expected = guidance(X_T, 500, TEXT), plain(NULL.expand(2, 3, 4))
    assert torch.equal(result.eps, expected.eps)
    assert torch.equal(result.x0, expected.x0)
    assert backbone.batches == [4]


def test_extrapolation_beyond_the_conditional_keeps_x0_and_eps_consistent():
    guidance, _ = guided(2.5)
    result = guidance(X_T, 500, TEXT)
    conditional, unconditional = plain(TEXT.context).eps, plain(NULL.expand(2, 3, 4)).eps
    torch.testing.assert_close(result.eps, unconditional + 2.5 * (conditional - unconditional))
    torch.testing.assert_close(SCHEDULE.add_noise(result.x0, result.eps, 500), X_T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("t", "guides"), [(99, False), (100, True), (500, True), (800, True), (801, False)])
def test_outside_the_interval_only_the_conditional_is_evaluated(t, guides):
    guidance, backbone = guided(2.5, interval=(100, 800))
    conditional = Denoiser(Backbone(), SCHEDULE)(X_T, t, TEXT)
    assert torch.equal(guidance(X_T, t, TEXT).eps, conditional.eps) is not guides
    assert backbone.batches == [4 if guides else 2]


def test_a_condition_for_one_serves_the_batch():
    guidance, _ = guided(2.5)
    one = Condition(TEXT.context[:1], TEXT.maps[:1])
    assert torch.equal(guidance(X_T, 500, one).eps, guidance(X_T, 500, TEXT).eps)


def test_no_maps_are_needed():
    denoiser = Denoiser(lambda x, t, context: x * context.mean(), SCHEDULE)
    result = ClassifierFreeGuidance(denoiser, NULL, 2.0)(X_T, 500, Condition(TEXT.context))
    assert result.eps.shape == X_T.shape


@pytest.mark.parametrize("shape", [(1, 2, 4), (1, 1, 5), (1, 4)])
def test_an_unconditional_text_of_another_form_is_refused(shape):
    guidance, _ = guided(2.5, unconditional=torch.zeros(shape))
    with pytest.raises(ValueError, match=r"unconditional context must fit \(2, 3, 4\), got"):
        guidance(X_T, 500, TEXT)


def test_no_text_to_guide_by_is_refused():
    guidance, _ = guided(2.5)
    with pytest.raises(ValueError, match="guidance needs a conditional context"):
        guidance(X_T, 500, Condition())


def test_an_inverted_interval_is_refused():
    with pytest.raises(ValueError, match=r"must be \(low, high\) timesteps, got \(800, 100\)"):
        guided(2.5, interval=(800, 100))
