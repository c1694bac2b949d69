"""The perceptual distance of two slices (Zhang et al. 2018) on VGG16 features. Its weights are the user's to give."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from LesionDiffusionLib.errors import BundleError

PREFIX = "loss.perceptual_loss."  # in the released VQ.ckpt

# VGG16's convolutions by their index in its feature stack; every stage but the first begins with a pooling.
STAGES = ({0: (3, 64), 2: (64, 64)}, {5: (64, 128), 7: (128, 128)}, {10: (128, 256), 12: (256, 256), 14: (256, 256)})
STAGES += ({17: (256, 512), 19: (512, 512), 21: (512, 512)}, {24: (512, 512), 26: (512, 512), 28: (512, 512)})
EPSILON = 1e-10


class LPIPS(nn.Module):
    """Images (B, 1 or 3, H, W) in [0, 1] -> distance (B, 1, 1, 1).

    Parameter names and shapes are those behind ``loss.perceptual_loss.`` in the released VQ.ckpt, and those of the
    LPIPS package with ``slice``, ``lin`` and ``scaling_layer``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scaling_layer = nn.Module()
        self.scaling_layer.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1))
        self.scaling_layer.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1))
        self.net = nn.Module()
        for n, convolutions in enumerate(STAGES, start=1):
            layers = {str(index): nn.Conv2d(a, b, 3, padding=1) for index, (a, b) in convolutions.items()}
            setattr(self.net, f"slice{n}", nn.ModuleDict(layers))
            head = nn.Module()
            head.model = nn.ModuleDict({"1": nn.Conv2d(list(convolutions.values())[-1][1], 1, 1, bias=False)})
            setattr(self, f"lin{n - 1}", head)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        pairs = zip(self._features(a), self._features(b), strict=True)
        heads = (getattr(self, f"lin{n}").model["1"] for n in range(len(STAGES)))
        return sum(
            head((_unit(x) - _unit(y)).square()).mean(dim=(2, 3), keepdim=True)
            for head, (x, y) in zip(heads, pairs, strict=True)
        )

    def _features(self, image: Tensor) -> list[Tensor]:
        h = (2 * image.expand(-1, 3, -1, -1) - 1 - self.scaling_layer.shift) / self.scaling_layer.scale
        features = []
        for n in range(1, len(STAGES) + 1):
            h = nn.functional.max_pool2d(h, 2) if n > 1 else h
            for convolution in getattr(self.net, f"slice{n}").values():
                h = convolution(h).relu()
            features.append(h)
        return features


def _unit(features: Tensor) -> Tensor:
    """Features of length 1 at every position."""
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + EPSILON)


def load_lpips(path: Path) -> LPIPS:
    """The metric, frozen, with weights from a safetensors file or a plain checkpoint, such as the released VQ.ckpt.

    Raises:
        BundleError: the file cannot be read or holds other tensors.
    """
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
            tensors = content.get("state_dict", content)
        own = {name.removeprefix(PREFIX): value for name, value in tensors.items()}
        model = LPIPS()
        model.load_state_dict({name: own[name].float() for name in model.state_dict()})
    except (OSError, RuntimeError, LookupError, AttributeError, EOFError, UnpicklingError, SafetensorError) as error:
        raise BundleError(
            f"{path} holds no weights of the LPIPS metric on VGG16: {str(error).splitlines()[0]:.200}; "
            "give those of VQ.ckpt or of the LPIPS package with its VGG16"
        ) from error
    return model.eval().requires_grad_(False)
