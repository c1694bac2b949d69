"""The VQ autoencoder: released names, sizes, the quantizer's rules."""

from __future__ import annotations

import json
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from LesionDiffusionLib.networks import vqgan
from LesionDiffusionLib.networks.convolution import as_written
from LesionDiffusionLib.networks.upsampling import fold_upsampling
from LesionDiffusionLib.networks.vqgan import VQGAN, Quantizer, VQGANConfig

TINY = VQGANConfig(channels=8, norm_groups=4, codebook_size=32, z_channels=3)


@pytest.mark.shared
def test_names_and_shapes_are_the_released_ones(shared):
    released = json.loads((shared / "reference/released-state-dict.json").read_text())["models"]["VQ"]["tensors"]
    expected = {name: spec[0] for name, spec in released.items() if not name.startswith("loss.")}
    with torch.device("meta"):
        network = VQGAN(VQGANConfig())
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == expected


@pytest.mark.parametrize("size", [(4, 6, 8), (5, 6, 7), (15, 2, 3)])
def test_sizes_halve_and_odd_ones_lose_a_voxel(size):
    network = VQGAN(TINY)
    z = network.encode(torch.randn(1, 1, *size))
    assert z.shape == (1, 3, *(n // 2 for n in size))
    assert network.decode(z).shape == (1, 1, *(n // 2 * 2 for n in size))


def test_two_changes_of_size_and_growing_widths():
    config = VQGANConfig(channels=8, channel_multipliers=[1, 2, 4], sample_depth=[0, 1], norm_groups=4, out_channels=2)
    network = VQGAN(config)
    assert config.downsampling == 4
    assert network.encode(torch.randn(1, 1, 8, 4, 12)).shape == (1, 4, 2, 1, 3)
    assert network.decode(torch.randn(1, 4, 2, 1, 3)).shape == (1, 2, 8, 4, 12)


def test_padding_is_at_the_high_side():
    down = vqgan.Downsample(1)
    with torch.no_grad():
        down.conv.weight.fill_(1)
        down.conv.bias.zero_()
    ones = torch.ones(1, 1, 4, 4, 4)
    # A kernel reaching beyond the high face sees one zero plane there; at the low face it sees none.
    assert torch.equal(down(ones)[0, 0, :, 0, 0], torch.tensor([27.0, 18.0]))


def test_a_transposed_voxel_paints_its_own_block_alone():
    up = vqgan.TransposedUpsample(1)
    with torch.no_grad():
        up.conv.bias.zero_()
    z = torch.zeros(1, 1, 2, 3, 2)
    z[0, 0, 1, 1, 0] = 2
    painted = up(z)[0, 0]
    assert painted.shape == (4, 6, 4)
    torch.testing.assert_close(painted[2:, 2:4, :2], 2 * up.conv.weight[0, 0])
    painted[2:, 2:4, :2] = 0
    assert not painted.any()


def test_quantizer_finds_the_nearest_codeword_whatever_the_pieces(monkeypatch):
    torch.manual_seed(0)
    quantizer = Quantizer(32, 3)
    with torch.no_grad():
        quantizer.embedding.weight.normal_()
    z = torch.randn(2, 3, 4, 5, 6)
    brute = (z.movedim(1, -1)[..., None, :] - quantizer.embedding.weight).square().sum(-1).argmin(-1)
    quantized = quantizer(z)
    assert torch.equal(quantized.indices, brute)
    torch.testing.assert_close(quantized.latent.movedim(1, -1), quantizer.embedding.weight[brute])
    monkeypatch.setattr(vqgan, "SEARCH_ROWS", 7)
    assert torch.equal(quantizer(z).indices, brute)


def test_search_stays_in_float32_under_autocast_and_half():
    quantizer = Quantizer(2, 1)
    with torch.no_grad():
        quantizer.embedding.weight.copy_(torch.tensor([[100.0], [100.5]]))
    z = torch.full((1, 1, 1, 1, 1), 100.375)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert quantizer(z).indices.item() == 1
    assert quantizer.bfloat16()(z.half()).indices.item() == 1


def test_first_codeword_wins_a_tie():
    quantizer = Quantizer(3, 1)
    with torch.no_grad():
        quantizer.embedding.weight.copy_(torch.tensor([[5.0], [1.0], [-1.0]]))
    assert quantizer(torch.zeros(1, 1, 1, 1, 1)).indices.item() == 1


def test_gradient_goes_straight_through_and_the_loss_has_the_released_weights():
    quantizer = Quantizer(4, 2)
    z = torch.randn(1, 2, 2, 2, 2, requires_grad=True)
    seeds = torch.randn(1, 2, 2, 2, 2)
    (quantizer(z).latent * seeds).sum().backward()
    torch.testing.assert_close(z.grad, seeds)

    z.grad = None
    quantized = quantizer(z)
    codes = quantizer.embedding.weight[quantized.indices].movedim(-1, 1)
    torch.testing.assert_close(quantized.codebook_loss, 1.25 * (codes - z).square().mean())
    quantized.codebook_loss.backward()
    torch.testing.assert_close(z.grad, 2 * (z - codes).detach() / z.numel())  # commitment: weight 1
    expected = torch.zeros(4, 2).index_add_(
        0, quantized.indices.flatten(), (codes - z).detach().movedim(1, -1).reshape(-1, 2)
    )
    torch.testing.assert_close(quantizer.embedding.weight.grad, 0.25 * 2 * expected / z.numel())  # codebook: 0.25


def test_decode_quantizes_unless_told_not_to():
    network = VQGAN(TINY)
    z = torch.randn(1, 3, 2, 2, 2)
    codes = network.quantize(z).latent
    assert torch.equal(network.decode(z), network.decode(codes, quantize=False))
    assert not torch.equal(network.decode(z), network.decode(z, quantize=False))


def test_training_forward_reaches_every_parameter():
    network = VQGAN(TINY)
    reconstruction, codebook_loss = network(torch.randn(1, 1, 4, 4, 4))
    (reconstruction.square().mean() + codebook_loss).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_multipliers": ()}, "channel_multipliers must be positive"),
        ({"channel_multipliers": (1, 0, 1)}, "channel_multipliers must be positive"),
        ({"sample_depth": (2,)}, r"sample_depth must lie in 0..1, got \(2,\)"),
        ({"channels": 90}, "divisible by norm_groups 16, got 90"),
        ({"norm_groups": -1}, "divisible by norm_groups -1"),
        ({"upsampling": "cubic"}, "upsampling is one of nearest, transposed, got 'cubic'"),
        ({"codebook_size": 0}, "codebook_size must be at least 1, got 0"),
    ],
)
def test_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        VQGANConfig(**changes)


@pytest.mark.parametrize("shape", [(1, 2, 4, 4, 4), (1, 4, 4, 4), (1, 1, 1, 4, 4)])
def test_encode_refuses(shape):
    with pytest.raises(ValueError, match=r"expects \(B, 1, D, H, W\) with sizes >= 2, got"):
        VQGAN(TINY).encode(torch.zeros(shape))


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive, and remembers the most."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}  # storage -> tensors on it
        self.bytes = self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor) and not any(tensor is given for given in args):
                self._count(tensor)
        return out

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        self.alive[key] = self.alive.get(key, 0) + 1
        if self.alive[key] == 1:
            self.bytes += size
            self.most = max(self.most, self.bytes)
        weakref.finalize(tensor, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.alive[key] -= 1
        if self.alive[key] == 0:
            self.bytes -= size


@pytest.mark.parametrize("folded", [False, True])
def test_encoding_and_decoding_hold_three_full_tensors_at_most(folded):
    """At the released size one is 768 MiB, and a GPU of 4 GB has the other networks to hold besides."""
    network, size = VQGAN(VQGANConfig(channels=32, codebook_size=8)), 32
    if folded:
        fold_upsampling(network)
    full = 32 * size**3 * 4
    with torch.no_grad(), PeakBytes() as peak:
        z = network.encode(torch.randn(1, 1, size, size, size))
    assert 2 * full < peak.most < 3.2 * full
    with torch.no_grad(), PeakBytes() as peak:
        network.decode(z)
    assert 2 * full < peak.most < 3.2 * full


def test_without_gradients_the_same_comes_out():
    for groups in (4, 0):  # without norms nothing may be changed in place
        network, x = VQGAN(VQGANConfig(channels=8, norm_groups=groups)), torch.randn(1, 1, 8, 8, 8)
        kept = x.clone()
        with torch.no_grad():
            z = network.encode(x)
            decoded = network.decode(z)
        assert torch.equal(x, kept)
        with torch.no_grad(), as_written():
            expected = network.encode(x), network.decode(z.clone())
        assert torch.allclose(z, expected[0], atol=1e-5)
        assert torch.allclose(decoded, expected[1], atol=1e-5)
        assert torch.equal(network.encode(x), expected[0]), "in place or not"
        assert torch.equal(network.decode(z.clone()), expected[1])
