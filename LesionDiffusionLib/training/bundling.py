"""Trained networks on disk, and bundles made of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from LesionDiffusionLib import __version__
from LesionDiffusionLib.bundles import (
    AutoencoderSpec,
    Bundle,
    LINetSpec,
    LMNetSpec,
    Manifest,
    TextSpec,
    open_bundle,
    write_bundle,
)
from LesionDiffusionLib.errors import OutputError, TrainingError
from LesionDiffusionLib.training.config import (
    LINetTraining,
    LMNetTraining,
    TextOptions,
    Training,
    VQGANTraining,
    config_from_json,
)
from LesionDiffusionLib.training.phrases import vocabulary_phrases
from LesionDiffusionLib.whole_file import whole_file
from LesionDiffusionLib.windowing import largest_in_all

RUN, WEIGHTS, CHECKPOINT = "run.json", "weights.safetensors", "checkpoint.pt"
TOLD = ("command", "data", "steps", "seed", "seconds", "history", "versions")  # of run.json, in the card
FILES = {"vqgan": "vqgan.safetensors", "lmnet": "lmnet.safetensors", "linet": "linet.safetensors"}


@dataclass(frozen=True, eq=False)
class Part:
    """One trained network of a bundle.

    Attributes:
        spec: what bundle.json says of it; of an autoencoder only its size.
        tensors: its weights.
        text: what a denoiser hears; None for the autoencoder.
        latents: of LINet, the autoencoder it was trained on: "fingerprint", "shift" and "scale".
        made_by: how it came to be.
    """

    spec: Any
    tensors: Mapping[str, Tensor]
    text: TextSpec | None = None
    latents: Mapping[str, Any] = field(default_factory=dict)
    made_by: Mapping[str, Any] = field(default_factory=dict)


def save_trained(folder: Path, network: str, training: Training, tensors: Mapping[str, Tensor], facts: Mapping) -> None:
    """Write the weights and what they are: `weights.safetensors` and `run.json`. Raises OutputError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    content = {"network": network, "training": dataclasses.asdict(training), "version": __version__, **facts}
    try:
        with whole_file(folder / WEIGHTS) as partial:
            save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial)
        with whole_file(folder / RUN) as partial:
            partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"could not write the weights to {folder}: {error}; make room and run the same command with --resume"
        ) from error


def parts_of(source: str) -> dict[str, Part]:
    """The networks of a training's folder (one) or of a bundle (three), by network.

    Raises:
        TrainingError: a training's folder that is unfinished or damaged.
        BundleError: neither a training's folder nor a bundle.
    """
    folder = Path(source)
    if (folder / RUN).is_file():
        return _trained(folder)
    if (folder / CHECKPOINT).is_file():
        raise TrainingError(f"the training in {folder} is not finished; continue it with --resume first")
    return _bundled(open_bundle(source))


def promised_part(training: Training, autoencoder: Part | None) -> Part:
    """What a training will make, without its weights: enough for `make_manifest` to say whether a bundle can follow."""
    latents = {}
    if autoencoder is not None:
        ones = (1.0,) * autoencoder.spec.z_channels
        latents = {"fingerprint": fingerprint(autoencoder.tensors), "shift": ones, "scale": ones}
    return _part(training, {}, latents, {})


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all names and numbers: equal for the same weights in any file."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def export_bundle(folder: Path, parts: Mapping[str, Part], license_text: str) -> Bundle:
    """A bundle of three networks, with hashes and a model card.

    Raises:
        TrainingError: a network is missing, LINet was trained on another autoencoder, or the two denoisers hear texts
            in different ways.
        BundleError: the folder exists.
        OutputError: it cannot be written.
    """
    manifest = make_manifest(folder.name, parts, license_text)
    tensors = {FILES[name]: part.tensors for name, part in parts.items()}
    return write_bundle(folder, manifest, tensors, {"README.md": model_card(manifest, tensors)})


def make_manifest(name: str, parts: Mapping[str, Part], license_text: str) -> Manifest:
    """bundle.json for these networks; see `export_bundle`."""
    missing = [network for network in FILES if network not in parts]
    if missing:
        raise TrainingError(
            f"a bundle needs vqgan, lmnet and linet, but {' and '.join(missing)} is missing; "
            "name a finished training or a bundle that has it with --with"
        )
    latents = parts["linet"].latents
    if fingerprint(parts["vqgan"].tensors) != latents["fingerprint"]:
        raise TrainingError(
            "this LINet was trained on the latents of another autoencoder; "
            "give that one with --with, or train LINet on the new one with --autoencoder"
        )
    if parts["lmnet"].text != parts["linet"].text:
        raise TrainingError(
            f"LMNet and LINet hear texts in different ways ({_told(parts['lmnet'])} and {_told(parts['linet'])}); "
            "train both with the same text.encoder and text.spelling"
        )
    return Manifest(
        format=1,
        name=name,
        title="Networks trained with LesionDiffusion",
        license=license_text,
        autoencoder=AutoencoderSpec(
            FILES["vqgan"], parts["vqgan"].spec, tuple(latents["shift"]), tuple(latents["scale"])
        ),
        lmnet=parts["lmnet"].spec,
        linet=parts["linet"].spec,
        text=parts["lmnet"].text,
        files={},
        made_by={network: dict(parts[network].made_by) for network in FILES},
    )


def model_card(manifest: Manifest, tensors: Mapping[str, Mapping[str, Tensor]]) -> str:
    """The card, written from the data that made the weights."""
    runs = "\n".join(f"## {name}\n\n{_run_told(made_by)}\n" for name, made_by in manifest.made_by.items())
    return f"""# {manifest.name}

{manifest.title}. License of the weights: {manifest.license}.

Research use only, not for diagnosis; everything made with these networks is synthetic.

{size_table(tensors)}

Lesions up to {largest_lesion(manifest)} mm. Text: {manifest.text.encoder} encoder, {manifest.text.spelling} spelling.

{runs}"""


def size_table(tensors: Mapping[str, Mapping[str, Tensor]]) -> str:
    """The card's table of how many numbers each file holds."""
    rows = (f"| {name} | {sum(t.numel() for t in part.values()):,} |" for name, part in tensors.items())
    return "\n".join(("| file | numbers |", "|---|---|", *rows))


def largest_lesion(manifest: Manifest) -> str:
    """The largest lesion in mm that both networks take, as the card says it."""
    return "x".join(f"{v:.0f}" for v in largest_in_all((manifest.lmnet.window, manifest.linet.window)))


def lmnet_spec(training: LMNetTraining) -> LMNetSpec:
    """What bundle.json says of an LMNet trained like this."""
    t = training
    return LMNetSpec(FILES["lmnet"], t.network, t.prediction, t.window, t.sampling, t.text.guidable, t.threshold)


def linet_spec(training: LINetTraining) -> LINetSpec:
    """What bundle.json says of a LINet trained like this."""
    t = training
    spec = (FILES["linet"], t.network, t.prediction, t.window, t.sampling, t.text.guidable, t.latent_mask, t.change)
    return LINetSpec(*spec)


def text_spec(text: TextOptions) -> TextSpec:
    """What bundle.json says of the texts."""
    return TextSpec(text.encoder, text.spelling, tuple(vocabulary_phrases()) if text.encoder == "vocabulary" else ())


def _trained(folder: Path) -> dict[str, Part]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        content = json.loads((folder / RUN).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
        network, training = content["network"], content["training"]
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise TrainingError(f"cannot read the training in {folder}: {error}; train it again") from error
    config = config_from_json(network, training, str(folder / RUN))
    made_by = {name: content.get(name) for name in TOLD}
    return {network: _part(config, tensors, content.get("latents", {}), made_by)}


def _part(config: Training, tensors: Mapping[str, Tensor], latents: Mapping[str, Any], made_by: Mapping) -> Part:
    if isinstance(config, VQGANTraining):
        return Part(config.network, tensors, made_by=made_by)
    spec = lmnet_spec(config) if isinstance(config, LMNetTraining) else linet_spec(config)
    return Part(spec, tensors, text_spec(config.text), latents, made_by)


def _bundled(bundle: Bundle) -> dict[str, Part]:
    manifest = bundle.manifest
    specs = {"vqgan": manifest.autoencoder, "lmnet": manifest.lmnet, "linet": manifest.linet}
    tensors = {network: bundle.tensors(spec.file) for network, spec in specs.items()}
    autoencoder, origin = manifest.autoencoder, {"bundle": manifest.name, "license": manifest.license}
    latents = {
        "fingerprint": fingerprint(tensors["vqgan"]),
        "shift": autoencoder.latent_shift,
        "scale": autoencoder.latent_scale,
    }
    renamed = {name: dataclasses.replace(specs[name], file=FILES[name]) for name in ("lmnet", "linet")}
    return {
        "vqgan": Part(autoencoder.config, tensors["vqgan"], made_by=origin),
        "lmnet": Part(renamed["lmnet"], tensors["lmnet"], manifest.text, made_by=origin),
        "linet": Part(renamed["linet"], tensors["linet"], manifest.text, latents, origin),
    }


def _told(part: Part) -> str:
    return f"{part.text.encoder}, {part.text.spelling} spelling, {len(part.text.phrases)} phrases"


def _run_told(made_by: Mapping[str, Any]) -> str:
    lines: Iterable[str] = (f"- {name}: {value}" for name, value in made_by.items() if value is not None)
    return "\n".join(lines)
