"""Convolutions of a single sample: the same values as PyTorch's own, by another way, and only where it pays."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from LesionDiffusionLib.benchmark.ceiling import forward_tflop
from LesionDiffusionLib.networks import convolution
from LesionDiffusionLib.networks.convolution import HALF, Conv3d, as_written, conv3d, store_channels_last
from LesionDiffusionLib.networks.unet import UNet3D, UNetConfig
from LesionDiffusionLib.networks.upsampling import fold_upsampling

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="SKIPPED, not passed: this PyTorch has no oneDNN"
)


@pytest.fixture
def asked(monkeypatch):
    """How often oneDNN is asked for by name."""
    calls, compute = [], torch.mkldnn_convolution
    monkeypatch.setattr(torch, "mkldnn_convolution", lambda *args: calls.append(1) or compute(*args))
    return calls


@needs_onednn
@pytest.mark.parametrize("kernel", [(3, 1, 1), (3, 2, 1), (3, 2, 0), (1, 1, 0), (2, 1, 0)])
@pytest.mark.parametrize("size", [(4, 4, 4), (5, 7, 3)])
def test_one_sample_has_the_values_of_pytorch(kernel, size, asked):
    width, stride, padding = kernel
    layer = Conv3d(5, 7, width, stride=stride, padding=padding)
    x = torch.randn(1, 5, *size)
    with torch.no_grad():
        found = layer(x)
        expected = nn.functional.conv3d(x.double(), layer.weight.double(), layer.bias.double(), stride, padding)
    assert len(asked) == 1
    assert found.shape == expected.shape
    assert torch.allclose(found.double(), expected, atol=1e-5)


@needs_onednn
def test_without_bias_and_of_a_view(asked):
    layer = Conv3d(3, 4, 3, padding=1, bias=False)
    x = torch.randn(3, 1, 6, 5, 4).transpose(0, 1)
    with torch.inference_mode():
        assert torch.allclose(layer(x), nn.functional.conv3d(x, layer.weight, None, padding=1), atol=1e-5)
    assert len(asked) == 1


@pytest.mark.parametrize("why", ["gradients", "several", "half precision", "as written", "no oneDNN"])
def test_otherwise_pytorch_decides(why, asked, monkeypatch):
    layer, x = Conv3d(2, 3, 3, padding=1), torch.randn(1, 2, 4, 4, 4)
    if why == "gradients":
        layer(x).sum().backward()
        assert layer.weight.grad is not None
    elif why == "as written":
        with torch.no_grad(), as_written():
            assert torch.equal(layer(x), nn.functional.conv3d(x, layer.weight, layer.bias, padding=1))
        assert not convolution._WRITTEN.get()
    elif why == "no oneDNN":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        with torch.no_grad():
            layer(x)
    else:
        with torch.no_grad():
            layer, x = (layer, x.repeat(2, 1, 1, 1, 1)) if why == "several" else (layer.bfloat16(), x.bfloat16())
            layer(x)
    assert not asked


def test_its_operations_are_counted():
    layer = Conv3d(3, 5, 3, padding=1)
    expected = 2 * 5 * 3 * 27 * 4 * 6 * 8 / 1e12
    assert forward_tflop(layer, torch.zeros(1, 3, 4, 6, 8)) == pytest.approx(expected)
    assert forward_tflop(layer, torch.zeros(2, 3, 4, 6, 8)) == pytest.approx(2 * expected)


def is_channels_last(weight):
    """As PyTorch's choice of a library sees it: not so by chance, as one channel or a kernel of 1 in any order are."""
    return weight.stride(1) == 1 and weight.stride(4) == weight.shape[1]


@pytest.mark.parametrize(
    ("dtype", "autocast", "kernel", "expected"),
    [
        (torch.bfloat16, False, 3, True),
        (torch.float16, False, 2, True),
        (torch.float32, True, 3, True),
        (torch.bfloat16, False, 1, False),
        (torch.float32, False, 3, False),
    ],
)
@pytest.mark.parametrize("channels", [1, 4])
def test_in_half_precision_a_gpu_gets_the_channels_last(dtype, autocast, kernel, expected, channels, monkeypatch):
    """On tensors without content, which need no GPU."""
    given, compute = [], functional.conv3d
    monkeypatch.setattr(functional, "conv3d", lambda *args: given.append(args[1]) or compute(*args))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda: autocast)  # without a GPU it cannot be switched on
    with FakeTensorMode():
        x = torch.zeros(1, channels, 4, 4, 4, dtype=dtype, device="cuda")
        weight = torch.zeros(8, channels, *[kernel] * 3, dtype=dtype, device="cuda")
        conv3d(x, weight, None)
        assert is_channels_last(given[-1]) if expected else given[-1] is weight
        stored = weight.to(memory_format=torch.channels_last_3d)
        conv3d(x, stored, None)
        assert given[-1] is stored, "and nothing is reordered twice"


def test_halved_weights_are_stored_as_they_are_used(monkeypatch):
    """A CPU in a GPU's place: all 5-D weights but those of the last layers, and no value changes."""
    monkeypatch.setattr(convolution, "_halved_on_gpu", lambda x: x.dtype in HALF)
    unet = UNet3D(UNetConfig(4, 1, 16, (1, 2), 1, (2,), 32, 32, norm_groups=8)).eval().requires_grad_(False)
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.1)
    fold_upsampling(unet)
    assert not store_channels_last(unet), "in single precision all stays as it is"
    assert all(p.is_contiguous() for p in unet.parameters())
    unet.in_precision(torch.bfloat16)
    inputs = torch.randn(1, 4, 8, 8, 8), torch.zeros(1), torch.randn(1, 3, 32)
    before = unet(*inputs)
    assert store_channels_last(unet)
    kernels = [t for t in (*unet.parameters(), *unet.buffers()) if t.dim() == 5]
    assert [is_channels_last(k) for k in kernels].count(False) == 1
    assert unet.out[2].weight.is_contiguous()
    assert torch.allclose(unet(*inputs), before, atol=0.03 * before.abs().max().item())
    assert not store_channels_last(nn.Conv2d(3, 4, 3).bfloat16()), "2-D convolutions are none of these"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="SKIPPED, not passed: needs a CUDA device")
@pytest.mark.parametrize("autocast", [False, True])
def test_on_a_gpu_half_precision_does_not_unfold_the_input(autocast):
    x, weight = torch.randn(1, 32, 48, 48, 48, device="cuda"), torch.randn(32, 32, 3, 3, 3, device="cuda") / 30
    expected = functional.conv3d(x.double(), weight.double(), padding=1)
    if not autocast:
        x, weight = x.bfloat16(), weight.bfloat16()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        found = conv3d(x, weight, None, padding=(1, 1, 1))
    unfolded = 27 * 2 * x.numel()
    assert torch.cuda.max_memory_allocated() - before < unfolded
    assert torch.allclose(found.double(), expected, atol=0.05 * expected.abs().max().item())
