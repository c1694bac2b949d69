"""LINet: what its network is shown and what its word becomes, at inference as in training."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from patients import LINET_WINDOW, PoolingAutoencoder

from LesionDiffusionLib.diffusion.denoiser import Denoiser
from LesionDiffusionLib.diffusion.samplers import SampleNoise
from LesionDiffusionLib.diffusion.schedule import NoiseSchedule
from LesionDiffusionLib.latent_change import LatentChange
from LesionDiffusionLib.linet import LatentCodec, LatentMask, LINet
from LesionDiffusionLib.sampling import SamplingOptions
from LesionDiffusionLib.training.presets import PRESETS
from LesionDiffusionLib.training.sources import ImageBatch
from LesionDiffusionLib.training.train_denoisers import linet_objective

OPTIONS = SamplingOptions("dpmpp", 3)
STARTER = PRESETS["starter"]["linet"]
CHANGE = LatentChange(0.25)


class Watching(torch.nn.Module):
    """A backbone that remembers what it was shown and always says the same."""

    def __init__(self, says=0.0):
        super().__init__()
        self.says = torch.nn.Parameter(torch.tensor(says))
        self.seen = []

    def forward(self, x, timesteps, context):
        self.seen.append(x)
        return 0 * x[:, :4] + self.says


class OneCase:
    """A source of one rendered pair."""

    shape = (4, 4, 4, 4)

    def __init__(self, known, z_0, mask):
        self.case = ImageBatch(known, z_0, mask)

    def __len__(self):
        return 1

    def strings(self, n):
        return ["liver"]

    def can_mirror(self, n):
        return False

    def __call__(self, picks, mirrored):
        return ImageBatch(*(part.repeat(len(picks), 1, 1, 1, 1) for part in self.case))


class Silent:
    """A text encoder that says nothing."""

    def encode(self, strings):
        return torch.zeros(len(strings), 4)


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(3)
    known, z_0 = torch.randn(2, 1, 4, 4, 4, 4, generator=generator)
    mask = torch.zeros(1, 1, 8, 8, 8)
    mask[..., 2:5, 2:6, 3:7] = 1
    return known, z_0, mask


def shown_in_sampling(known, mask, change=None, says=0.0):
    backbone = Watching(says)
    codec = LatentCodec(PoolingAutoencoder(), torch.zeros(4), torch.ones(4))
    denoiser = Denoiser(backbone, NoiseSchedule.cosine(), "x0")
    linet = LINet(denoiser, codec, LINET_WINDOW, LatentMask("mean", 1), change=change)
    *_, last = linet.sample(known, mask, torch.zeros(1, 1, 4), OPTIONS, SampleNoise.from_seeds([0]))
    return backbone.seen, last.x


def shown_in_training(known, z_0, mask, change=None):
    backbone = Watching()
    first_losses(objective_of(backbone, OneCase(known, z_0, mask), change))
    return backbone.seen[0]


def first_losses(objective):
    generator = torch.Generator().manual_seed(0)
    return objective.losses(0, objective.draw(0, generator), generator)


def objective_of(backbone, source, change):
    network = dataclasses.replace(STARTER.network, in_channels=9 if change else 5)
    training = dataclasses.replace(STARTER, network=network, change=change)
    return linet_objective(Denoiser(backbone, NoiseSchedule.cosine(), "x0"), Silent(), source, training)


def test_no_lesion_of_a_batch_vanishes_in_the_latent_mask():
    large, dot = torch.zeros(1, 1, 8, 8, 8), torch.zeros(1, 1, 8, 8, 8)
    large[..., 2:6, 2:6, 2:6] = 1
    dot[..., 5, 5, 5] = 1  # every second voxel misses it
    together = LatentMask().channel(torch.cat([large, dot]))
    assert torch.equal(together, torch.cat([LatentMask().channel(large), LatentMask().channel(dot)]))
    assert together.sum(dim=(1, 2, 3, 4)).tolist() == [8, 1]


def test_the_papers_network_sees_latents_and_mask_and_not_what_the_lesion_replaces(case):
    known, z_0, mask = case
    region = LatentMask("mean", 1).region(mask).bool().expand_as(known)
    for x in [*shown_in_sampling(known, mask)[0], shown_in_training(known, z_0, mask)]:
        assert x.shape[1] == 5
        assert torch.equal(x[:1, 4:], LatentMask("mean", 1).channel(mask))
        assert torch.equal(x[:1, :4][~region], known[~region])
        assert not torch.isclose(x[:1, :4][region], known[region]).all()


def test_a_network_that_says_what_changes_sees_what_it_changes(case):
    known, z_0, mask = case
    region = LatentMask("mean", 1).region(mask).bool().expand_as(known)
    for x in [*shown_in_sampling(known, mask, CHANGE)[0], shown_in_training(known, z_0, mask, CHANGE)]:
        assert x.shape[1] == 9
        assert torch.equal(x[:1, 4:5], LatentMask("mean", 1).channel(mask))
        assert torch.equal(x[:1, 5:], CHANGE.shown(known))
        assert (x[:1, :4][~region] == 0).all(), "outside nothing changes"
        assert (x[:1, :4][region] != 0).all()


@pytest.mark.parametrize("units", [0.0, 1.0, -2.0])
def test_what_it_says_is_added_to_the_patient(case, units):
    known, _, mask = case
    region = LatentMask("mean", 1).region(mask).bool().expand_as(known)
    _, sample = shown_in_sampling(known, mask, CHANGE, says=units)
    assert torch.equal(sample[~region], known[~region])
    expected = known + CHANGE.onto(torch.zeros(1), torch.tensor([units]))
    torch.testing.assert_close(sample[region], expected[region])


def test_it_learns_the_change(case):
    """The loss is zero for a network that says how the pair differs, and for no other."""
    known, _, mask = case
    change = 2.0
    z_0 = CHANGE.onto(known, torch.full_like(known, change))

    def loss(says):
        objective = objective_of(Watching(says), OneCase(known, z_0, mask), CHANGE)
        return first_losses(objective)["linet"].item()

    assert loss(change) < 1e-10
    assert loss(0.0) > 0.1
