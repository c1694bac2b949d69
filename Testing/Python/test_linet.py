"""LINet: what its network is shown, at inference as in training."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from patients import LINET_WINDOW, PoolingAutoencoder

from LesionDiffusionLib.diffusion.denoiser import Denoiser
from LesionDiffusionLib.diffusion.samplers import SampleNoise
from LesionDiffusionLib.diffusion.schedule import NoiseSchedule
from LesionDiffusionLib.linet import LatentCodec, LatentMask, LINet
from LesionDiffusionLib.sampling import SamplingOptions
from LesionDiffusionLib.training.presets import PRESETS
from LesionDiffusionLib.training.sources import ImageBatch
from LesionDiffusionLib.training.train_denoisers import linet_objective

OPTIONS = SamplingOptions("dpmpp", 3)


class Watching(torch.nn.Module):
    """A backbone that remembers what it was shown and says zero."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def forward(self, x, timesteps, context):
        self.seen.append(x)
        return x[:, :4] * self.weight


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


def shown_in_sampling(known, mask, sees_known):
    backbone = Watching()
    codec = LatentCodec(PoolingAutoencoder(), torch.zeros(4), torch.ones(4))
    denoiser = Denoiser(backbone, NoiseSchedule.cosine(), "x0")
    linet = LINet(denoiser, codec, LINET_WINDOW, LatentMask("mean", 1), sees_known=sees_known)
    *_, last = linet.sample(known, mask, torch.zeros(1, 1, 4), OPTIONS, SampleNoise.from_seeds([0]))
    return backbone.seen, last.x


def shown_in_training(known, z_0, mask, in_channels):
    starter = PRESETS["starter"]["linet"]
    training = dataclasses.replace(starter, network=dataclasses.replace(starter.network, in_channels=in_channels))
    denoiser = Denoiser(Watching(), NoiseSchedule.cosine(), "x0")
    objective = linet_objective(denoiser, Silent(), OneCase(known, z_0, mask), training)
    objective.losses(0, torch.Generator().manual_seed(0))
    return denoiser.backbone.seen[0]


def test_the_papers_network_sees_latents_and_mask_and_not_what_the_lesion_replaces(case):
    known, z_0, mask = case
    region = LatentMask("mean", 1).region(mask).bool().expand_as(known)
    for x in [*shown_in_sampling(known, mask, False)[0], shown_in_training(known, z_0, mask, 5)]:
        assert x.shape[1] == 5
        assert torch.equal(x[:1, 4:], LatentMask("mean", 1).channel(mask))
        assert torch.equal(x[:1, :4][~region], known[~region])
        assert not torch.isclose(x[:1, :4][region], known[region]).all()


def test_a_network_of_nine_channels_sees_it_in_training_as_in_sampling(case):
    known, z_0, mask = case
    region = LatentMask("mean", 1).region(mask).bool().expand_as(known)
    seen, sample = shown_in_sampling(known, mask, True)
    for x in [*seen, shown_in_training(known, z_0, mask, 9)]:
        assert x.shape[1] == 9
        assert torch.equal(x[:1, 4:5], LatentMask("mean", 1).channel(mask))
        assert torch.equal(x[:1, 5:], known)
    assert torch.equal(sample[~region], known[~region])
    assert (sample[region] == 0).all(), "what is generated is the network's word, not what it was shown"
