"""Convolutions of a single sample: the same values as PyTorch's own, by another way, and only where it pays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from LesionDiffusionLib.benchmark.ceiling import forward_tflop
from LesionDiffusionLib.networks import convolution
from LesionDiffusionLib.networks.convolution import Conv3d, as_written

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
