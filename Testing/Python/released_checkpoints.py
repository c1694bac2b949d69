"""Checkpoints of the released layout with random weights, for tests: small ones, and full-size ones from the record."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from LesionDiffusionLib.diffusion.schedule import NoiseSchedule
from LesionDiffusionLib.networks.text_tower import SPECIAL_TOKENS, TextTowerConfig, build_text_tower
from LesionDiffusionLib.networks.unet import UNet3D, UNetConfig
from LesionDiffusionLib.networks.vqgan import VQGAN, VQGANConfig
from LesionDiffusionLib.released.importer import Imported, ImportOptions, Sources, import_released
from LesionDiffusionLib.released.layout import ReleasedSizes

WORDS = ("liver", "cyst", "ct", "enhanced", ",")
BERT = {
    "vocab_size": len(SPECIAL_TOKENS) + len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}
TINY = ReleasedSizes(
    lmnet=UNetConfig(in_channels=4, out_channels=1, model_channels=8, context_dim=32),
    linet=UNetConfig(in_channels=5, out_channels=5, model_channels=8, context_dim=32),
    autoencoder=VQGANConfig(channels=16, codebook_size=8),
    text=TextTowerConfig(BERT, output_dim=32, context_length=16),
)

State = dict[str, Tensor]


SMALL = ImportOptions(lmnet_window=(16, 16, 16), linet_window=(16, 16, 16))


@functools.cache
def tiny_states() -> Mapping[str, State]:
    """State dicts of the three tiny checkpoints, by file stem. Copy one before changing it."""
    return {"lmnet": lmnet_state(), "linet": linet_state(), "vq": vq_state()}


def import_tiny(
    folder: Path,
    options: ImportOptions = SMALL,
    names: tuple[str, ...] = ("lmnet", "linet"),
    vocabulary: Path | None = None,
    **changed: State,
) -> Imported:
    """Save the named checkpoints in ``folder``, some of them changed, and import them as the bundle ``made``."""
    states = {**tiny_states(), **changed}
    paths = {name: save_checkpoint(folder / f"{name}.ckpt", states[name]) for name in names}
    return import_released(Sources(**paths, vocabulary=vocabulary), folder / "made", options, TINY)


def part(state: State, prefix: str) -> State:
    """The tensors behind a prefix, which is taken off."""
    return {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}


def without(state: State, prefix: str) -> State:
    """The tensors that have not this prefix."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}


def renamed(state: State, old: str, new: str) -> State:
    """The same tensors with another prefix."""
    return {new + name[len(old) :] if name.startswith(old) else name: tensor for name, tensor in state.items()}


def require_equal(tensors: State, expected: State) -> None:
    """The same names with the very same values."""
    assert set(tensors) == set(expected)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())


def schedule_buffers() -> State:
    """Two of the twelve; only the second is of interest."""
    table = NoiseSchedule.scaled_linear().alphas_cumprod
    return {"betas": torch.zeros(1000), "alphas_cumprod": table.float()}


def lmnet_state(sizes: ReleasedSizes = TINY) -> State:
    """All of LMNet.ckpt's state_dict, at the given sizes."""
    return schedule_buffers() | _unet(sizes.lmnet, seed=1) | _text(sizes)


def linet_state(sizes: ReleasedSizes = TINY) -> State:
    """All of LINet.ckpt's state_dict, at the given sizes."""
    autoencoder = {f"first_stage_model.{name}": tensor for name, tensor in vq_state(sizes).items()}
    return schedule_buffers() | _unet(sizes.linet, seed=2) | autoencoder | _text(sizes)


def vq_state(sizes: ReleasedSizes = TINY) -> State:
    """What inference needs of VQ.ckpt's state_dict, and one tensor that it does not."""
    return _random(VQGAN(sizes.autoencoder), seed=3) | {"loss.logvar": torch.zeros(1)}


def save_checkpoint(path: Path, state: Mapping[str, Tensor], **more: Any) -> Path:
    """A training checkpoint with what Lightning 1.7 adds to the weights."""
    content = {
        "epoch": 7,
        "global_step": 1234,
        "pytorch-lightning_version": "1.7.7",
        "state_dict": dict(state),
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.1), "dirpath": "checkpoints"}},
        "optimizer_states": [{"state": {0: {"step": 3}}, "param_groups": [{"lr": 1e-5}]}],
        "lr_schedulers": [],
    }
    torch.save(content | more, path)
    return path


def save_vocabulary(path: Path, words: tuple[str, ...] = WORDS, size: int = 0) -> Path:
    """A vocab.txt: special tokens, words, and unused entries up to ``size``."""
    lines = [*SPECIAL_TOKENS, *words]
    lines += [f"[unused{i}]" for i in range(size - len(lines))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def save_biomedclip(folder: Path, sizes: ReleasedSizes = TINY) -> Path:
    """A folder in the form of BiomedCLIP's hub page, with the text tower of the checkpoints."""
    folder.mkdir()
    text = {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 16}
    config = {"model_cfg": {"embed_dim": sizes.text.output_dim, "text_cfg": text}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({**BERT, "model_type": "bert"}))
    tower = {name.replace("cond_stage_model.model.", "text."): tensor for name, tensor in _text(sizes).items()}
    torch.save(tower, folder / "open_clip_pytorch_model.bin")
    save_vocabulary(folder / "vocab.txt")
    return folder


def full_size_state(record: Path, model: str, seed: int) -> State:
    """Random weights under every name of the recorded layout: VQ, LMNet or LINet."""
    generator = torch.Generator().manual_seed(seed)
    tensors = json.loads(record.read_text())["models"][model]["tensors"]
    state = {name: _noise(name, tuple(shape), generator) for name, (shape, *_) in tensors.items()}
    if model != "VQ":
        state |= schedule_buffers() | {"model_ema.num_updates": torch.tensor(1000, dtype=torch.int32)}
    return state


def _unet(config: UNetConfig, seed: int) -> State:
    """Raw weights and a moving average that differs from them."""
    raw, averaged = _random(UNet3D(config), seed), _random(UNet3D(config), seed + 100)
    counters = {"decay": torch.tensor(0.9999), "num_updates": torch.tensor(5000, dtype=torch.int32)}
    state = {f"model.{name}": tensor for name, tensor in raw.items()}
    state |= {f"model_ema.{name.replace('.', '')}": tensor for name, tensor in averaged.items()}
    return state | {f"model_ema.{name}": tensor for name, tensor in counters.items()}


def _text(sizes: ReleasedSizes) -> State:
    tower = _random(build_text_tower(sizes.text), seed=4)
    tower["transformer.embeddings.position_ids"] = torch.arange(16)[None]  # older transformers save it
    return {f"cond_stage_model.model.{name}": tensor for name, tensor in tower.items()}


def _random(module: nn.Module, seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {name: _noise(name, tuple(value.shape), generator) for name, value in module.state_dict().items()}


def _noise(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Small values; about one where a norm scales, so that signals pass."""
    center = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
    return torch.empty(shape).normal_(center, 0.05, generator=generator)
