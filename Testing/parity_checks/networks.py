"""Checkers of single networks: U-Net, VQ autoencoder, text tower, tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from LesionDiffusionLib.networks.text_tower import TextTowerConfig, load_text_tower, wordpiece_tokenizer
from LesionDiffusionLib.networks.unet import UNet3D, UNetConfig
from LesionDiffusionLib.networks.vqgan import VQGAN, VQGANConfig
from parity_checks.record import Check, ParityError, Tensors, compare, compare_scalar, compare_scaled

HOOKED = {"context_projected": "context_linear_projection"}  # recorded name -> module, where they differ


def unet(spec: dict[str, Any], state_dict: dict[str, Tensor]) -> UNet3D:
    """Our U-Net for the reference's constructor names."""
    config = UNetConfig(
        in_channels=spec["in_channels"],
        out_channels=spec["out_channels"],
        model_channels=spec["model_channels"],
        channel_mult=spec["channel_mult"],
        num_res_blocks=spec["num_res_blocks"],
        attention_resolutions=spec["attention_resolutions"],
        head_channels=spec["num_head_channels"],
        context_dim=spec["context_dim"],
        skip_context=spec.get("skip_context", False),
    )
    network = UNet3D(config)
    network.load_state_dict(state_dict)
    return network


def vqgan(spec: dict[str, Any], state_dict: dict[str, Tensor]) -> VQGAN:
    """Our autoencoder for the reference's constructor names."""
    sizes = spec["ddconfig"]
    config = VQGANConfig(
        channels=sizes["ch"],
        channel_multipliers=sizes["ch_mult"],
        sample_depth=sizes["sample_depth"],
        num_res_blocks=sizes["num_res_blocks"],
        z_channels=sizes["z_channels"],
        codebook_size=spec["n_embed"],
        in_channels=sizes["in_channels"],
        out_channels=sizes["out_ch"],
    )
    network = VQGAN(config)
    network.load_state_dict(state_dict)
    return network


def check_unet(spec: dict[str, Any], tensors: Tensors) -> Iterator[Check]:
    network = unet(spec["unet"], tensors.state_dict())
    x, timesteps, context = tensors["in/x"], tensors["in/timesteps"], tensors["in/context"]
    recorded = tensors.keys("mid/")
    with activations(network, recorded) as seen:
        y = network(x, timesteps, context)
    main = "out/y_with_context" if "out/y_with_context" in tensors else "out/y"
    yield compare(main, y, tensors[main])
    for key in recorded:
        expected = tensors[key]
        yield compare_scaled(key, seen[key][: len(expected)], expected)  # some records hold the first sample only
    if "in/context_short" in tensors or "out/y_short" in tensors:
        short = tensors["in/context_short"]
        y_short = network(x[: len(short)], timesteps[: len(short)], short)
        yield compare("out/y_short", y_short, tensors["out/y_short"])
    if "unet_skip" in spec or "out/y_skip_context" in tensors:
        skipping = unet(spec["unet_skip"], tensors.state_dict())
        yield compare("out/y_skip_context", skipping(x, timesteps, context), tensors["out/y_skip_context"])


@contextmanager
def activations(network: nn.Module, keys: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Outputs of the modules that ``keys`` ("mid/NAME") name, from their last call inside the block."""
    seen: dict[str, Tensor] = {}
    handles = []
    for key in keys:
        name = key.removeprefix("mid/")
        try:
            module = network.get_submodule(HOOKED.get(name, name))
        except AttributeError as error:
            raise ParityError(f"the network has no module for {key}") from error
        handles.append(module.register_forward_hook(lambda _, inputs, output, key=key: seen.update({key: output})))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def check_vq(spec: dict[str, Any], tensors: Tensors) -> Iterator[Check]:
    network = vqgan(spec["vq"], tensors.state_dict())
    for ending in (key.removeprefix("in/x") for key in tensors.keys("in/x")):
        z = network.encode(tensors[f"in/x{ending}"])
        latent, indices, codebook_loss = network.quantize(z)
        results = {
            "prequant": z,
            "quantised": latent,
            "decoded": network.decode(z),
            "decoded_noquant": network.decode(z, quantize=False),
        }
        for name, result in results.items():
            yield compare(f"out/{name}{ending}", result, tensors[f"out/{name}{ending}"])
        yield compare(f"out/indices{ending}", indices, tensors[f"out/indices{ending}"], exact=True)
        yield compare_scalar(f"out/codebook_loss{ending}", codebook_loss, tensors[f"out/codebook_loss{ending}"])
        if f"out/margin_min{ending}" in tensors:
            margin = smallest_margin(network, z)
            yield compare_scalar(f"out/margin_min{ending}", margin, tensors[f"out/margin_min{ending}"])
        if f"out/perplexity{ending}" in tensors:
            perplexity = codebook_perplexity(indices, network.config.codebook_size)
            yield compare_scalar(f"out/perplexity{ending}", perplexity, tensors[f"out/perplexity{ending}"])


def smallest_margin(network: VQGAN, z: Tensor) -> Tensor:
    """Least difference between the squared distances to the second nearest and to the nearest codeword."""
    rows = z.movedim(1, -1).reshape(-1, z.shape[1]).double()
    nearest = torch.cdist(rows, network.quantize.embedding.weight.double()).square().topk(2, largest=False).values
    return (nearest[:, 1] - nearest[:, 0]).min()


def codebook_perplexity(indices: Tensor, codebook_size: int) -> Tensor:
    share = torch.bincount(indices.flatten(), minlength=codebook_size) / indices.numel()
    return (-(share * (share + 1e-10).log()).sum()).exp()


def check_text_tower(spec: dict[str, Any], tensors: Tensors) -> Iterator[Check]:
    tower = load_text_tower(TextTowerConfig(spec["bert"], spec["output_dim"]), tensors.state_dict())
    yield compare("out/embedding", tower(tensors["in/input_ids"]), tensors["out/embedding"])


def check_tokens(spec: dict[str, Any], vocabulary: Path) -> Iterator[Check]:
    tokenize = wordpiece_tokenizer(vocabulary, spec["context_length"])
    for string, recorded in spec["tokens"].items():
        yield compare(f"token ids of {string!r}", tokenize(string), torch.tensor(recorded), exact=True)
