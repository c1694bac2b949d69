"""Presets of the three trainings, configuration files and single settings.

Sources of the presets: LesionDiffusion paper, section 3 ("Implementation Details"); released-model 1, 3, 6 and 7.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from LesionDiffusionLib.errors import SettingsError
from LesionDiffusionLib.linet import LatentMask
from LesionDiffusionLib.networks.unet import UNetConfig
from LesionDiffusionLib.networks.vqgan import VQGANConfig
from LesionDiffusionLib.sampling import SamplingOptions
from LesionDiffusionLib.training.config import (
    LINetTraining,
    LMNetTraining,
    TextOptions,
    Training,
    VQGANLosses,
    VQGANTraining,
    config_from_json,
)
from LesionDiffusionLib.training.loop import LoopOptions
from LesionDiffusionLib.windowing import WindowRule

_MM = WindowRule((128, 128, 128), 1.0, 1.0)
_LMNET = UNetConfig(4, 1, 16, (1, 2, 4), 1, (4,), 32, 512)
_LINET = UNetConfig(5, 4, 128, (1, 2, 4), 2, (4,), 32, 512)
# The paper tells no number of steps. Taken from the released code: 2000 samples an epoch, on the paper's four GPUs.
_STEPS, _VQGAN_STEPS = 1000 * 2000 // 4, 60 * 2000 // 4
_PAPER = LoopOptions(  # its "momentum of 0.99" is read as AdamW's first beta
    _STEPS,
    1,
    1e-4,
    1,
    "constant",
    (0.99, 0.999),
    ema_decay=0.9999,
    report_every=10,
    checkpoint_every=1000,
    preview_every=5000,
)
_RELEASED = dataclasses.replace(_PAPER, betas=(0.9, 0.999), weight_decay=0.01, clip=1e9)
_DDIM200 = SamplingOptions("ddim", 200, 2.5)
_SMALL_LMNET = UNetConfig(4, 1, 16, (1, 2, 4), 1, (4,), 32, 128, norm_groups=8, context_in_embedding=True)
_SMALL = LoopOptions(3000, 2, 1e-3, ema_decay=0.998, seed=1, preview_every=500)
_SMALL_SAMPLING = SamplingOptions("dpmpp", 10, 2.0, lowest_timestep=300)
_SMALL_TEXT = TextOptions("vocabulary")
_NO_DROP = TextOptions("biomedclip", "released", 0.0, 0.0)

PRESETS: dict[str, dict[str, Training]] = {
    "paper": {
        "vqgan": VQGANTraining(
            VQGANConfig(),
            _MM,
            dataclasses.replace(_PAPER, steps=_VQGAN_STEPS, ema_decay=0.0),
            VQGANLosses(l2=1.0, codebook=1.0, adversarial="log"),
        ),
        "lmnet": LMNetTraining(_LMNET, _MM, _PAPER, _DDIM200, activation_checkpointing=True),
        "linet": LINetTraining(_LINET, _MM, _PAPER, _DDIM200, activation_checkpointing=True),
    },
    "released": {
        "vqgan": VQGANTraining(
            VQGANConfig(),
            _MM,
            dataclasses.replace(
                _RELEASED, steps=_VQGAN_STEPS, learning_rate=4e-4, betas=(0.5, 0.9), weight_decay=0.0, ema_decay=0.0
            ),
            VQGANLosses(l1=1.0, l2=0.0, lpips=1.0, adversarial="hinge", slices=True),
        ),
        "lmnet": LMNetTraining(
            _LMNET,
            WindowRule((64, 152, 152), 1.0, 1.0),
            dataclasses.replace(_RELEASED, learning_rate=8e-5),
            SamplingOptions("released", 200),
            _NO_DROP,
            "scaled_linear",
            loss="released",
            activation_checkpointing=True,
            threshold=None,
        ),
        "linet": LINetTraining(
            dataclasses.replace(_LINET, out_channels=5),
            _MM,
            dataclasses.replace(_RELEASED, learning_rate=8e-6),
            SamplingOptions("released", 200),
            _NO_DROP,
            "scaled_linear",
            loss="released",
            activation_checkpointing=True,
        ),
    },
    # For two CPU cores: the window's voxels scale with the lesion, and the clean tensor is predicted, because after so
    # short a training a predicted noise leaves some of the noise behind. Eight norm groups: by the released rule narrow
    # layers normalize each channel alone, which removes the timestep. Text also in the time embedding, and more of the
    # noisy timesteps: with transformers and uniform timesteps alone, the text had no effect after 2000 steps. The
    # autoencoder starts as a linear code: from random weights it stood at 28 dB after 2600 steps, seven below this one.
    "starter": {
        "vqgan": VQGANTraining(
            VQGANConfig(channels=16, channel_multipliers=(1, 2, 2), norm_groups=0, upsampling="transposed"),
            WindowRule((48, 48, 48), 0.5, 5.0, 24),
            LoopOptions(steps=700, batch=2, learning_rate=6e-4, preview_every=100),
            VQGANLosses(l1=1.0, l2=4.0),
            crop=32,
            whole_every=0,
            start="linear",
            codebook_start="kmeans",
        ),
        "lmnet": LMNetTraining(
            _SMALL_LMNET,
            WindowRule((32, 32, 32), 0.75, 7.5, 16),
            _SMALL,
            _SMALL_SAMPLING,
            _SMALL_TEXT,
            prediction="x0",
            noise_bias=2.0,
            loss="balanced",
            gamma=0.05,  # with 0.001 the region outside the box would stay untrained in so short a training
        ),
        "linet": LINetTraining(
            dataclasses.replace(
                _SMALL_LMNET, in_channels=5, out_channels=4, model_channels=32, embedding_modulates=True
            ),
            WindowRule((32, 32, 32), 0.5, 5.0, 24),
            dataclasses.replace(_SMALL, steps=3600, batch=4, seed=2),
            dataclasses.replace(_SMALL_SAMPLING, guidance=1.3),
            _SMALL_TEXT,
            prediction="x0",
            noise_bias=3.0,
            loss="masked_l2",
            latent_mask=LatentMask("mean", 1),
            normalize_latents=True,
            whitening=0.5,
        ),
    },
}


def load_config(network: str, preset: str, file: Path | None = None, settings: Iterable[str] = ()) -> Training:
    """The configuration of a network: a preset, changed by a TOML or JSON file, changed by "key=value" settings.

    Raises:
        SettingsError: the file cannot be read, or a name or a value does not exist; says which there are.
    """
    data = dataclasses.asdict(PRESETS[preset][network])
    for name, value in _flat(_read(file) if file else {}):
        _set(data, name, value, str(file))
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise SettingsError(f'expected --set KEY=VALUE such as loop.steps=1000, got "{setting}"')
        _set(data, name.strip(), _parsed(text), "--set")
    return config_from_json(network, json.loads(json.dumps(data)), "the training's settings")


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix.lower() == ".json":
            data = json.loads(path.read_text(encoding="utf-8"))
        else:
            import tomllib

            data = tomllib.loads(path.read_text(encoding="utf-8"))
    except ImportError:
        raise SettingsError(f"{path}: Python older than 3.11 reads no TOML; write the settings as .json") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"cannot read the configuration {path}: {error}; give a .toml or .json file") from error
    if not isinstance(data, dict):
        raise SettingsError(f"{path}: expected names and values, got {type(data).__name__}")
    return data


def _flat(data: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted names and values of nested tables."""
    pairs = []
    for name, value in data.items():
        pairs += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return pairs


def _set(data: dict[str, Any], name: str, value: Any, where: str) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        data = data.get(parent) if isinstance(data, dict) else None
    if not isinstance(data, dict) or last not in data or isinstance(data[last], dict):
        known = ", ".join(key for key, _ in _flat(data)) if isinstance(data, dict) else "loop.steps"
        raise SettingsError(f'{where}: no setting is called "{name}"; there are: {known}')
    data[last] = value


def _parsed(text: str) -> Any:
    """A JSON value where the text is one, else the text: 1e-4, true, null, [0.9, 0.99], bf16."""
    try:
        return json.loads(text)
    except ValueError:
        return text.strip()
