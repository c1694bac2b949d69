"""Single evaluations of LMNet and LINet: the operations they need, and how fast the device does them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from LesionDiffusionLib.benchmark.ceiling import fastest_seconds, forward_tflop
from LesionDiffusionLib.devices import repeatable
from LesionDiffusionLib.models import Models
from LesionDiffusionLib.networks.convolution import store_channels_last
from LesionDiffusionLib.run import Settings
from LesionDiffusionLib.sampling import SamplingOptions


class Forward(NamedTuple):
    """One evaluation of a network, for one sample, and the operations (10^12) it takes."""

    backbone: nn.Module
    inputs: tuple[Tensor, Tensor, Tensor]
    sampling: SamplingOptions
    tflop: float


def forwards(models: Models) -> dict[str, Forward]:
    """LMNet's and LINet's evaluations. Counting evaluates each once."""
    parts = {
        "LMNet": (models.lmnet, models.bundle.manifest.lmnet, 1),
        "LINet": (models.linet, models.bundle.manifest.linet, models.linet.codec.downsampling),
    }
    found = {}
    for name, (network, spec, divisor) in parts.items():
        edges = [n // divisor for n in network.window.shape]
        x = torch.zeros(1, spec.unet.in_channels, *edges, device=models.device)
        context = torch.zeros(1, 8, spec.unet.context_dim, device=models.device)
        inputs = (x, torch.zeros(1, dtype=torch.long, device=models.device), context)
        backbone = network.denoiser.backbone
        found[name] = Forward(backbone, inputs, spec.sampling, forward_tflop(backbone, *inputs))
    return found


def bare_forwards(found: Mapping[str, Forward], ceiling: float) -> dict[str, dict[str, float | None]]:
    """How near a single evaluation of each network comes to the ceiling (TFLOP/s), and how fast it were
    with the channels last in memory; None where they are (see `networks.convolution`)."""
    told = {}
    for name, one in found.items():
        tflops = one.tflop / _seconds(one)
        told[name] = {
            "tflop": one.tflop,
            "tflops": tflops,
            "share_of_ceiling": tflops / ceiling,
            "channels_last_tflops": _channels_last_tflops(one),
        }
    return told


def sampling_tflop(found: Mapping[str, Forward], settings: Settings) -> float:
    """Operations (10^12) of all evaluations of LMNet and LINet in one synthesis."""
    return sum(evaluations(settings.for_network(one.sampling)) * one.tflop for one in found.values())


def evaluations(options: SamplingOptions) -> int:
    """How often a single example passes the network (guidance without an interval takes two at every step)."""
    return options.steps * (1 if options.guidance == 1 else 2)


def _seconds(one: Forward) -> float:
    with torch.inference_mode(), repeatable():
        return fastest_seconds(lambda: one.backbone(*one.inputs), one.inputs[0].device)


def _channels_last_tflops(one: Forward) -> float | None:
    """With all weights stored with the channels last, which changes no value; None where they are already."""
    if store_channels_last(one.backbone):
        return None
    one.backbone.to(memory_format=torch.channels_last_3d)
    try:
        return one.tflop / _seconds(one)
    finally:
        one.backbone.to(memory_format=torch.contiguous_format)
