"""Doubling and convolving as one step: the same values for fewer products, and only where nothing is learned."""

from __future__ import annotations

import pytest
import torch

from LesionDiffusionLib.benchmark.ceiling import forward_tflop
from LesionDiffusionLib.networks.convolution import as_written
from LesionDiffusionLib.networks.unet import UNet3D, UNetConfig
from LesionDiffusionLib.networks.upsampling import Upsample, fold_upsampling, folded_kernel
from LesionDiffusionLib.networks.vqgan import VQGAN, VQGANConfig

CONFIG = UNetConfig(5, 4, 32, (1, 2, 4), 1, (4,), 32, 32, norm_groups=8)


def layer(channels: int = 6, seed: int = 0) -> Upsample:
    torch.manual_seed(seed)
    return Upsample(channels)


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 5), (8, 1, 4), (7, 6, 5)])
def test_folded_is_the_same_up_to_rounding(size):
    up = layer()
    x = torch.randn(2, 6, *size)
    with torch.no_grad():
        expected = up(x)
        fold_upsampling(up)
        assert torch.allclose(up(x), expected, atol=1e-5)
        assert up(x).shape == (2, 6, *(2 * n for n in size))


def test_a_single_weight_lands_where_the_two_steps_put_it():
    """An impulse and a kernel of one weight each: every place and every weight by itself, exactly."""
    up = Upsample(1)
    x = torch.zeros(1, 1, 3, 3, 3)
    x[0, 0, 1, 0, 2] = 1.0
    for place in range(27):
        with torch.no_grad():
            up.conv.weight.zero_().view(-1)[place] = 1.0
            up.conv.bias.fill_(0.25)
            expected = up(x)
            fold_upsampling(up)
            assert torch.equal(up(x), expected)
            up.folded = None


def test_a_constant_has_the_sum_of_the_weights_inside():
    up = layer(1)
    kernel = folded_kernel(up.conv.weight)
    assert kernel.shape == (8, 1, 2, 2, 2)
    assert torch.allclose(kernel.sum(dim=(1, 2, 3, 4)), up.conv.weight.sum().expand(8), atol=1e-6)


def test_folded_takes_less_than_half_of_the_operations():
    up, x = layer(16), torch.randn(2, 16, 16, 16, 16)
    written = forward_tflop(up, x)
    fold_upsampling(up)
    assert forward_tflop(up, x) == pytest.approx(8 / 27 * (17 / 16) ** 3 * written)


def test_training_still_reaches_the_weights():
    up = layer()
    fold_upsampling(up)
    with torch.no_grad():
        up.conv.weight.mul_(2.0)
    x = torch.randn(1, 6, 3, 3, 3)
    up(x).sum().backward()
    assert up.conv.weight.grad.abs().sum() > 0
    plain = layer()
    plain.load_state_dict(up.state_dict())
    assert torch.equal(up(x), plain(x)), "with gradients the present weights count"


def test_networks_give_the_same_and_files_do_not_change():
    torch.manual_seed(0)
    unet, vqgan = UNet3D(CONFIG), VQGAN(VQGANConfig(16, codebook_size=32))
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    names = list(unet.state_dict())
    inputs = torch.randn(2, 5, 8, 12, 4), torch.tensor([7, 400]), torch.randn(2, 3, 32)
    z = torch.randn(1, 4, 6, 5, 4)
    with torch.no_grad():
        expected = unet(*inputs), vqgan.decode(z)
        fold_upsampling(unet)
        fold_upsampling(vqgan)
        folded = unet(*inputs), vqgan.decode(z)
        assert not torch.equal(folded[0], expected[0]), "it was computed another way"
        for a, b in zip(folded, expected, strict=True):
            assert torch.allclose(a, b, atol=1e-4 * float(b.abs().max()))
        with as_written():
            assert torch.equal(unet(*inputs), expected[0])
        assert torch.equal(unet(*inputs), folded[0])
    assert list(unet.state_dict()) == names


def test_in_half_precision_the_sums_are_rounded_once():
    up = layer(32)
    fold_upsampling(up)
    exact = up.folded.clone()
    up.to(torch.bfloat16)
    assert torch.equal(up.folded, exact.to(torch.bfloat16))
