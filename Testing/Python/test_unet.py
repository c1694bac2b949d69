"""The U-Net: released names and numbers, odd configurations, and what a config refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from LesionDiffusionLib.networks.blocks import ResBlock, group_norm, timestep_embedding
from LesionDiffusionLib.networks.unet import UNet3D, UNetConfig

TINY = UNetConfig(in_channels=3, out_channels=2, model_channels=8, context_dim=16, norm_groups=4)


def random_unet(config: UNetConfig, **options) -> UNet3D:
    """A network none of whose convolutions is zero, so that everything acts on the output."""
    torch.manual_seed(0)
    network = UNet3D(config, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.1)
    return network


@pytest.mark.shared
@pytest.mark.parametrize(
    ("model", "config"),
    [("LMNet", UNetConfig(4, 1, 16)), ("LINet", UNetConfig(5, 5, 128, num_res_blocks=2))],
)
def test_names_and_shapes_are_the_released_ones(shared, model, config):
    released = json.loads((shared / "reference/released-state-dict.json").read_text())["models"][model]["tensors"]
    expected = {name.removeprefix("model."): spec[0] for name, spec in released.items() if name.startswith("model.")}
    with torch.device("meta"):
        network = UNet3D(config)
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == expected


def test_output_keeps_the_spatial_size_and_every_gradient_is_finite():
    network = random_unet(TINY)
    x_BCDHW = torch.randn(2, 3, 4, 12, 8, requires_grad=True)
    y_BCDHW = network(x_BCDHW, torch.tensor([0, 999]), torch.randn(2, 5, 16))
    assert y_BCDHW.shape == (2, 2, 4, 12, 8)
    y_BCDHW.square().sum().backward()
    gradients = [x_BCDHW.grad, *(parameter.grad for parameter in network.parameters())]
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in gradients)


def test_context_and_timestep_act_and_the_batch_does_not():
    network = random_unet(TINY)
    x, t, context = torch.randn(2, 3, 4, 8, 4), torch.tensor([3, 700]), torch.randn(2, 5, 16)
    y = network(x, t, context)
    assert (network(x, t, context + 1) - y).abs().max() > 1e-3
    assert (network(x, t.flip(0), context) - y).abs().max() > 1e-3
    alone = network(x[1:], t[1:], context[1:])
    torch.testing.assert_close(alone, y[1:], atol=1e-5, rtol=1e-5)


def test_timestep_is_lost_where_every_group_is_one_channel():
    """The released rule gives channels below 64 a group each, and the norm behind the embedding removes it again."""
    network = random_unet(replace(TINY, norm_groups=32))
    x, context = torch.randn(1, 3, 4, 8, 4), torch.randn(1, 5, 16)
    early, late = network(x, torch.tensor([3]), context), network(x, torch.tensor([700]), context)
    torch.testing.assert_close(early, late, atol=1e-5, rtol=1e-5)


def test_a_modulating_embedding_survives_every_norm():
    network = random_unet(replace(TINY, norm_groups=32, embedding_modulates=True))
    x, context = torch.randn(1, 3, 4, 8, 4), torch.randn(1, 5, 16)
    early, late = network(x, torch.tensor([3]), context), network(x, torch.tensor([700]), context)
    assert (early - late).abs().max() > 1e-3


def test_a_modulating_embedding_scales_and_shifts_after_the_second_norm():
    block = ResBlock(4, 6, 8, norm_groups=2, modulated=True)
    scale, shift = torch.randn(6), torch.randn(6)
    with torch.no_grad():
        block.emb_layers[1].weight.zero_()
        block.emb_layers[1].bias.copy_(torch.cat([scale, shift]))
        block.out_layers[3].weight.normal_()
    x = torch.randn(2, 4, 3, 5, 4)
    norm, conv = block.out_layers[0], block.out_layers[3]
    per_channel = (slice(None), None, None, None)
    h = norm(block.in_layers(x)) * (1 + scale[per_channel]) + shift[per_channel]
    expected = block.skip_connection(x) + conv(torch.nn.functional.silu(h))
    torch.testing.assert_close(block(x, torch.randn(2, 8)), expected)


def test_context_entries_have_no_order():
    network = random_unet(TINY)
    x, t, context = torch.randn(1, 3, 4, 8, 4), torch.tensor([10]), torch.randn(1, 6, 16)
    torch.testing.assert_close(network(x, t, context), network(x, t, context.flip(1)), atol=1e-5, rtol=1e-5)


def test_context_in_the_embedding_is_heard_where_transformers_are_silent():
    network = random_unet(replace(TINY, context_in_embedding=True))
    for name, parameter in network.named_parameters():
        if "transformer_blocks" in name or "proj_out" in name:
            torch.nn.init.zeros_(parameter)
    x, t, context = torch.randn(2, 3, 4, 8, 4), torch.tensor([3, 700]), torch.randn(2, 5, 16)
    y = network(x, t, context)
    other = context.clone()
    other[0] += 1
    changed = (network(x, t, other) - y).abs().amax(dim=(1, 2, 3, 4))
    assert changed[0] > 1e-3
    assert changed[1] == 0
    torch.testing.assert_close(network(x, t, context.flip(1)), y, atol=1e-5, rtol=1e-5)


def test_context_in_the_embedding_needs_a_context():
    config = UNetConfig(1, 1, 8, context_dim=32, context_in_embedding=True)
    with pytest.raises(ValueError, match="needs a context"):
        UNet3D(config)(torch.randn(1, 1, 4, 8, 4), torch.tensor([10]))


def test_skipped_context_equals_none_and_ignores_the_text():
    config = {"in_channels": 1, "out_channels": 1, "model_channels": 8, "context_dim": 32}
    skipping = random_unet(UNetConfig(**config, skip_context=True))
    plain = UNet3D(UNetConfig(**config))
    plain.load_state_dict(skipping.state_dict())
    x, t, context = torch.randn(1, 1, 4, 8, 4), torch.tensor([10]), torch.randn(1, 6, 32)
    assert torch.equal(skipping(x, t, context), skipping(x, t, context.neg()))
    assert torch.equal(skipping(x, t, context), plain(x, t, None))
    assert not torch.equal(plain(x, t, context), plain(x, t, None))


def test_checkpointing_changes_memory_only():
    stored = random_unet(TINY)
    recomputed = random_unet(TINY, use_checkpoint=True)
    x, t, context = torch.randn(1, 3, 4, 8, 4), torch.tensor([10]), torch.randn(1, 2, 16)
    for network in (stored, recomputed):
        network(x, t, context).sum().backward()
    for a, b in zip(stored.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_fresh_network_predicts_zero():
    network = UNet3D(TINY)
    y = network(torch.randn(1, 3, 4, 8, 4), torch.tensor([10]), torch.randn(1, 2, 16))
    assert torch.equal(y, torch.zeros_like(y))


def test_what_is_shown_is_replaced_as_the_last_outputs_say():
    """Fresh, it says nothing but its biases: (1, -2) come, and of the last two channels goes what the third allows."""
    network = UNet3D(replace(TINY, in_channels=5, replaces_shown=True))
    x = torch.randn(2, 5, 4, 8, 4)
    with torch.no_grad():
        network.out[-1].bias.copy_(torch.tensor([1.0, -2.0, 0.5, -0.5]))
        y = network(x, torch.tensor([3, 700]), torch.randn(2, 5, 16))
        said = torch.tensor([1.0, -2.0, 0.5, -0.5]).reshape(1, 4, 1, 1, 1).expand(2, 4, 4, 8, 4)
        torch.testing.assert_close(y, network.replacement(said, x[:, 2:3], x[:, 3:]))
    assert y.std() > 0.1


@pytest.mark.parametrize("config", [TINY, replace(TINY, in_channels=5, replaces_shown=True)])
def test_in_half_precision_it_says_nearly_the_same_and_in_float32(config):
    network = random_unet(config)
    inputs = torch.randn(1, config.in_channels, 4, 8, 4), torch.tensor([10]), torch.randn(1, 2, 16)
    exact = network(*inputs)
    rough = network.in_precision(torch.bfloat16)(*inputs)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.03 * exact.abs().max()


def test_timestep_embedding_is_cosine_first():
    embedding = timestep_embedding(torch.tensor([0, 7]), 6)
    frequencies = torch.tensor([1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3)])
    torch.testing.assert_close(embedding[0], torch.tensor([1.0, 1, 1, 0, 0, 0]))
    torch.testing.assert_close(embedding[1], torch.cat([(7 * frequencies).cos(), (7 * frequencies).sin()]))


@pytest.mark.parametrize(("channels", "groups"), [(16, 16), (32, 32), (48, 48), (96, 32), (768, 32)])
def test_group_norm_rule(channels, groups):
    assert group_norm(channels).num_groups == groups


def test_config_keeps_lists_as_tuples():
    config = UNetConfig(1, 1, 8, channel_mult=[1, 4], attention_resolutions=[2])
    assert config.channel_mult == (1, 4)
    assert config.attention_resolutions == (2,)
    assert config.size_divisor == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 0}, "in_channels must be at least 1"),
        ({"num_res_blocks": 0}, "num_res_blocks must be at least 1"),
        ({"channel_mult": ()}, "needs at least one level"),
        ({"channel_mult": (1, 0)}, r"channel_mult\[1\] must be at least 1"),
        ({"model_channels": 7}, "model_channels must be even"),
        ({"model_channels": 10}, "divisible by norm_groups 32 and by head_channels 32, got 40"),
        ({"replaces_shown": True}, "replaces_shown needs 3 input channels, got 1"),
        ({"change_knee": 0.0}, "change_knee must be positive"),
        ({"skip_context": True}, "as wide as context_dim 512, got 32"),
    ],
)
def test_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        UNetConfig(**{"in_channels": 1, "out_channels": 1, "model_channels": 8, **changes})


@pytest.mark.parametrize(
    ("x_shape", "context_shape", "message"),
    [
        ((1, 2, 4, 4, 4), (1, 2, 16), r"expects \(B, 3, D, H, W\), got \(1, 2, 4, 4, 4\)"),
        ((3, 4, 4, 4), (1, 2, 16), r"expects \(B, 3, D, H, W\)"),
        ((1, 3, 4, 6, 4), (1, 2, 16), r"divisible by 4, got \(4, 6, 4\); pad the input"),
        ((1, 3, 4, 4, 4), None, r"needs a context \(1, N, 16\), got None"),
        ((1, 3, 4, 4, 4), (1, 2, 17), r"expects a context \(1, N, 16\), got \(1, 2, 17\)"),
        ((2, 3, 4, 4, 4), (1, 2, 16), r"expects a context \(2, N, 16\), got \(1, 2, 16\)"),
    ],
)
def test_forward_refuses(x_shape, context_shape, message):
    context = None if context_shape is None else torch.zeros(context_shape)
    with pytest.raises(ValueError, match=message):
        UNet3D(TINY)(torch.zeros(x_shape), torch.zeros(x_shape[0], dtype=torch.long), context)
