"""Each trainer drives its loss on three cases far down, and the networks sample those cases back.

The cheapest proof that a trainer is right: what it learned is what inference uses.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from training_cases import RELEASED_VQGAN, prepared_dataset, tiny_training

from LesionDiffusionLib.diffusion.samplers import SampleNoise
from LesionDiffusionLib.intensity import to_hu
from LesionDiffusionLib.linet import LINet
from LesionDiffusionLib.lmnet import LMNet
from LesionDiffusionLib.meters import dice
from LesionDiffusionLib.sampling import SamplingOptions
from LesionDiffusionLib.training.build import make_denoiser, make_vqgan, model_state
from LesionDiffusionLib.training.bundling import Part
from LesionDiffusionLib.training.loop import optimize
from LesionDiffusionLib.training.prepared import PreparedCases
from LesionDiffusionLib.training.sources import PreparedImages, PreparedMasks, PreparedWindows
from LesionDiffusionLib.training.train_denoisers import context_of, linet_objective, lmnet_objective
from LesionDiffusionLib.training.train_vqgan import cut, vqgan_objective
from LesionDiffusionLib.training.trainer import frozen_codec, normalizing

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
SAMPLING = SamplingOptions("dpmpp", 15, 1.0)
NO_DROP = ("text.drop_all=0", "text.drop_each=0", "sampling.guidance=1")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return PreparedCases(prepared_dataset(tmp_path_factory.mktemp("overfit"), 3, train_all=True))


@pytest.fixture(scope="module")
def autoencoder(cases):
    """An autoencoder that knows these three windows, and the first and last reports of its training.

    Of the released architecture and from random weights: a linear start would leave nothing to prove.
    """
    loop = ("loop.steps=300", "loop.learning_rate=3e-3", "loop.warmup=20")
    training = tiny_training("vqgan", *loop, "whole_every=2", *RELEASED_VQGAN)
    training = dataclasses.replace(training, network=dataclasses.replace(training.network, codebook_size=128))
    windows, seen = PreparedWindows(cases, training.window), []
    state = model_state(optimize(vqgan_objective(make_vqgan(training), windows, training), training.loop, seen.append))
    return Part(training.network, state), windows, seen


def test_vqgan(autoencoder):
    part, windows, seen = autoencoder
    assert seen[-1].losses["l2"] < 0.05 * seen[0].losses["l2"]
    codec = frozen_codec(part, CPU)
    everything = [(n, (slice(None),) * 3, []) for n in range(len(windows))]
    x = cut(windows, everything)
    with torch.no_grad():
        decoded, _ = codec.autoencoder(x)
        used = codec.autoencoder.quantize(codec.autoencoder.encode(x)).indices.unique().numel()
    error_hu = np.abs(to_hu(decoded.numpy()) - to_hu(x.numpy()))
    print(f"VQ-GAN: median error {np.median(error_hu):.1f} HU, codes used {used}, l1 {seen[-1].losses['l1']:.4f}")
    assert np.median(error_hu) < 15, "the scans' noise of 8 HU alone makes 5"
    assert used > 0.5 * part.spec.codebook_size


@pytest.mark.parametrize("loss", ["balanced", "paper"])
def test_lmnet(loss, cases):
    """The paper's is equation 2, with the starter's gamma: its own hardly teaches what is outside the box."""
    loop = ("loop.steps=400", "loop.learning_rate=4e-3", "loop.ema_decay=0.98")
    training = tiny_training("lmnet", *loop, f"loss={loss}", *NO_DROP)
    source, seen = PreparedMasks(cases, training.window, "report"), []
    denoiser, text = make_denoiser(training)
    objective = lmnet_objective(denoiser, text, source, training)
    objective.module.load_state_dict(optimize(objective, training.loop, seen.append))
    assert seen[-1].losses["lmnet"] < 0.1 * seen[0].losses["lmnet"]
    found = []
    for n in range(len(cases)):
        maps, m_0 = source([n], [False])
        context = context_of(text, [source.strings(n)], CPU).detach()
        *_, last = LMNet(denoiser, training.window).sample(maps, context, SAMPLING, SampleNoise.from_seeds([n]))
        found.append(dice((last.x > 0.5).numpy(), (m_0 > 0.5).numpy()))
    print(f"LMNet, {loss}: loss {seen[0].losses['lmnet']:.4f} -> {seen[-1].losses['lmnet']:.4f}, Dice {found}")
    assert min(found) > 0.9


@pytest.mark.parametrize("loss", ["masked_l2", "paper"])
def test_linet(loss, cases, autoencoder):
    """The paper's is equation 5."""
    loop = ("loop.steps=500", "loop.learning_rate=4e-3", "loop.ema_decay=0.98")
    training = tiny_training("linet", *loop, f"loss={loss}", *NO_DROP)
    codec = frozen_codec(autoencoder[0], CPU)
    codec = normalizing(codec, PreparedImages(cases, training.window, "report", codec), training.whitening)
    source, seen = PreparedImages(cases, training.window, "report", codec), []
    denoiser, text = make_denoiser(training)
    objective = linet_objective(denoiser, text, source, training)
    objective.module.load_state_dict(optimize(objective, training.loop, seen.append))
    assert seen[-1].losses["linet"] < 0.1 * seen[0].losses["linet"]
    linet = LINet(denoiser, codec, training.window, training.latent_mask)
    errors_hu = []
    for n in range(len(cases)):
        known, z_0, mask = source([n], [False])
        context = context_of(text, [source.strings(n)], CPU).detach()
        *_, last = linet.sample(known, mask, context, SAMPLING, SampleNoise.from_seeds([n]))
        sampled, wanted = (codec.decode(z)[0][mask[0, 0].numpy() > 0] for z in (last.x, z_0))
        errors_hu.append(float(np.abs(sampled - wanted).mean()))
    print(f"LINet, {loss}: loss {seen[0].losses['linet']:.4f} -> {seen[-1].losses['linet']:.4f}, error {errors_hu} HU")
    assert max(errors_hu) < 12
