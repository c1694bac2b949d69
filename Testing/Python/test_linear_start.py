"""The autoencoder's linear start: against principal components computed by numpy, and as a beginning of training."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from LesionDiffusionLib.errors import SettingsError
from LesionDiffusionLib.intensity import to_network
from LesionDiffusionLib.networks.vqgan import VQGAN, VQGANConfig
from LesionDiffusionLib.training.build import make_vqgan
from LesionDiffusionLib.training.config import VQGANTraining
from LesionDiffusionLib.training.linear_start import blocks, principal_components, start_linear
from LesionDiffusionLib.training.loop import LoopOptions, optimize
from LesionDiffusionLib.training.presets import PRESETS
from LesionDiffusionLib.training.train_vqgan import vqgan_objective

PLAIN = VQGANConfig(16, (1, 2), codebook_size=16, norm_groups=0, upsampling="transposed")
LOOP = LoopOptions(steps=20, batch=2, learning_rate=1e-3, warmup=2, report_every=1)


@pytest.fixture(scope="module")
def windows_hu():
    """Windows with edges and noise and all their mirror images, so that no corner of a block is preferred."""
    generator = np.random.default_rng(3)
    hu = 15 * generator.standard_normal((2, 12, 12, 12))
    hu[:, :5] += generator.uniform(-150, 150, (2, 1, 1, 1))
    hu[:, :, :, 7:] += 80
    for axis in (1, 2, 3):
        hu = np.concatenate([hu, np.flip(hu, axis)])
    return np.round(np.clip(hu, -200, 200)).astype(np.int16)


def round_trip(model: VQGAN, windows_hu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = torch.from_numpy(to_network(windows_hu))[:, None]
    with torch.no_grad():
        return model.decode(model.encode(x), quantize=False)[:, 0].numpy(), x[:, 0].numpy()


def test_blocks_hold_eight_neighbors_and_lose_an_odd_plane():
    image = np.arange(5 * 4 * 3).reshape(5, 4, 3)
    rows = blocks(image)
    assert rows.shape == (4, 8)
    assert rows[0].tolist() == image[:2, :2, :2].ravel().tolist()
    assert rows[-1].tolist() == image[2:4, 2:4, :2].ravel().tolist()


def test_components_are_those_of_a_singular_value_decomposition(windows_hu):
    mean, components = principal_components(windows_hu, 3)
    rows = np.concatenate([blocks(to_network(window)) for window in windows_hu]).astype(np.float64)
    assert np.allclose(mean, rows.mean(axis=0), atol=1e-6)
    _, _, expected = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    assert np.allclose(np.abs((components.double().numpy() * expected[:3]).sum(axis=1)), 1, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        dataclasses.replace(PLAIN, z_channels=8),
        dataclasses.replace(PLAIN, z_channels=8, channel_multipliers=(1, 1, 2), sample_depth=(1,), num_res_blocks=2),
    ],
)
def test_eight_components_lose_nothing(windows_hu, config):
    model = VQGAN(config)
    start_linear(model, windows_hu)
    decoded, x = round_trip(model, windows_hu)
    assert np.abs(decoded - x).max() < 1e-5


def test_four_components_lose_what_the_other_four_hold(windows_hu):
    model = VQGAN(PLAIN)
    start_linear(model, windows_hu)
    decoded, x = round_trip(model, windows_hu)
    rows = np.concatenate([blocks(window) for window in x])
    lost = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)[4:]
    assert ((decoded - x) ** 2).mean() == pytest.approx((lost**2).sum() / rows.size, rel=1e-3)


def test_training_goes_on_from_there(windows_hu):
    found = {}
    for start in ("random", "linear"):
        training = VQGANTraining(PLAIN, PRESETS["starter"]["vqgan"].window, LOOP, crop=None, start=start)
        seen = []
        optimize(vqgan_objective(make_vqgan(training), windows_hu, training), training.loop, seen.append)
        found[start] = [report.raw["l2"] for report in seen]
    assert found["linear"][0] < 0.1 * found["random"][0]
    assert np.mean(found["linear"][-5:]) < np.mean(found["linear"][:5])


def test_without_norms_a_latent_depends_on_its_surroundings_alone():
    x = torch.rand(1, 1, 4, 4, 48)
    changed = x.clone()
    changed[..., -1] += 1
    for norm_groups, local in ((0, True), (4, False)):
        model = VQGAN(dataclasses.replace(PLAIN, norm_groups=norm_groups))
        with torch.no_grad():
            same = torch.isclose(model.encode(x), model.encode(changed), rtol=0, atol=1e-6)
        assert same[..., 0].all() == local
        assert not same[..., -1].all()


@pytest.mark.parametrize(
    "changes",
    [
        {"norm_groups": 16},
        {"upsampling": "nearest"},
        {"channels": 7},
        {"channel_multipliers": (1, 1, 1), "sample_depth": (0, 1)},
        {"in_channels": 2},
        {"z_channels": 9, "channels": 18},
    ],
)
def test_a_network_that_cannot_start_so_is_refused(changes):
    network = dataclasses.replace(PLAIN, **changes)
    with pytest.raises(SettingsError, match='start "linear" needs'):
        VQGANTraining(network, PRESETS["starter"]["vqgan"].window, LOOP, start="linear")
