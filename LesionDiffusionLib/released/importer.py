"""Make a bundle from the authors' published checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from LesionDiffusionLib import __version__
from LesionDiffusionLib.bundles import (
    FORMAT,
    AutoencoderSpec,
    Bundle,
    LINetSpec,
    LMNetSpec,
    Manifest,
    TextSpec,
    sha256_of,
    write_bundle,
)
from LesionDiffusionLib.errors import BundleError
from LesionDiffusionLib.linet import LatentMask
from LesionDiffusionLib.networks.text_tower import VOCABULARY_FILE, wordpiece_tokenizer
from LesionDiffusionLib.released.checkpoint import read_checkpoint
from LesionDiffusionLib.released.evidence import (
    TEXT_CHOICES,
    Findings,
    first_of,
    linet_hears_text,
    noise_schedule,
    note_weights,
)
from LesionDiffusionLib.released.layout import RELEASED, ReleasedFile, ReleasedSizes, UNetWeights
from LesionDiffusionLib.released.model_card import LICENSE, TITLE, model_card
from LesionDiffusionLib.sampling import SamplingOptions
from LesionDiffusionLib.windowing import WindowRule

LMNET_FILE, LINET_FILE, VQGAN_FILE, TEXT_FILE = (
    f"{network}.safetensors" for network in ("lmnet", "linet", "vqgan", "text")
)
RELEASED_SAMPLING = SamplingOptions("released", steps=200, guidance=1.0)
BIOMEDCLIP_VOCABULARY_SHA256 = "7b36651908a88bc38bda41b728b2a598191e0d3b553cbacf7b1e5f026d5b5b9f"
EMBEDDINGS = "transformer.embeddings.word_embeddings.weight"


@dataclass(frozen=True)
class Sources:
    """The user's files. VQ.ckpt may be absent when LINet.ckpt holds the autoencoder.

    With BiomedCLIP's ``vocabulary`` (vocab.txt) the bundle gets the text encoder; without it, the user's own copy of
    BiomedCLIP is needed at synthesis.
    """

    lmnet: Path
    linet: Path
    vq: Path | None = None
    vocabulary: Path | None = None


@dataclass(frozen=True)
class ImportOptions:
    """
    Attributes:
        linet_text: "auto" (by the evidence in the file), "use" or "skip".
        lmnet_window, linet_window: voxels of 1 mm (D, H, W) along superior, anterior, left.
    """

    linet_text: str = "auto"
    lmnet_window: tuple[int, int, int] = (64, 152, 152)
    linet_window: tuple[int, int, int] = (128, 128, 128)

    def __post_init__(self) -> None:
        if self.linet_text not in TEXT_CHOICES:
            raise ValueError(f"linet_text must be one of {', '.join(TEXT_CHOICES)}, got {self.linet_text!r}")


@dataclass(frozen=True, eq=False)
class Imported:
    """The new bundle, what was found out about the files, and what the user should know."""

    bundle: Bundle
    evidence: tuple[str, ...]
    warnings: tuple[str, ...]


def import_released(
    sources: Sources, folder: Path, options: ImportOptions | None = None, sizes: ReleasedSizes = RELEASED
) -> Imported:
    """Convert the published checkpoints into a bundle (released-model 2 and 10).

    Weights are the moving averages, the noise schedules those in the files; both are kept in the files' precision.
    Nothing in the files is run, and the bundle is written whole or not at all.

    Args:
        sources: the files.
        folder: of the new bundle, named as it; must not exist.
        options: LINet's text mode and the windows.
        sizes: of the networks in the files.

    Raises:
        BundleError: the folder exists, a window does not fit the networks, or a file is missing, damaged, unsafe or
            of another architecture.
        OutputError: the bundle cannot be written, as on a full disk.
    """
    options = options or ImportOptions()
    if folder.exists():  # write_bundle says so too, but only after minutes of reading
        raise BundleError(f"expected a new bundle folder, but {folder} exists; delete it or choose another name")
    windows = _windows(options, sizes)
    files, findings = _read(sources, sizes), Findings()
    lmnet, linet = files["LMNet.ckpt"].unet(), files["LINet.ckpt"].unet()
    tensors = {
        LMNET_FILE: _denoiser(files["LMNet.ckpt"], lmnet, findings),
        LINET_FILE: _denoiser(files["LINet.ckpt"], linet, findings),
        VQGAN_FILE: _autoencoder(files, findings),
    }
    hears_text = linet_hears_text(linet, options.linet_text, findings)
    texts = {}
    if sources.vocabulary is not None:
        tensors[TEXT_FILE] = _text_tower(files, findings)
        texts[VOCABULARY_FILE] = _vocabulary(sources.vocabulary, tensors[TEXT_FILE], findings)
    else:
        findings.evidence.append("text encoder: left out for want of a vocabulary; synthesis needs BiomedCLIP")
    sizes = dataclasses.replace(sizes, linet=dataclasses.replace(sizes.linet, skip_context=not hears_text))
    manifest = _manifest(folder.name, sizes, windows, TEXT_FILE in tensors, _made_by(files, findings))
    texts["README.md"] = model_card(manifest)
    bundle = write_bundle(folder, manifest, tensors, texts)
    return Imported(bundle, tuple(findings.evidence), tuple(findings.warnings))


def _windows(options: ImportOptions, sizes: ReleasedSizes) -> tuple[WindowRule, WindowRule]:
    """The two networks' windows of 1 mm voxels; raises BundleError where a network cannot work on one."""
    needs = (
        ("LMNet", options.lmnet_window, sizes.lmnet.size_divisor),
        ("LINet", options.linet_window, sizes.linet.size_divisor * sizes.autoencoder.downsampling),
    )
    for network, shape, multiple in needs:
        if len(shape) != 3 or any(n < multiple or n % multiple for n in shape):
            raise BundleError(
                f"expected a window D,H,W of three multiples of {multiple} for {network}, "
                f"got {','.join(map(str, shape))}; round them up"
            )
    return tuple(WindowRule(shape, 1.0, 1.0) for _, shape, _ in needs)


def _read(sources: Sources, sizes: ReleasedSizes) -> dict[str, ReleasedFile]:
    paths = {"LMNet.ckpt": sources.lmnet, "LINet.ckpt": sources.linet, "VQ.ckpt": sources.vq}
    return {name: ReleasedFile(name, read_checkpoint(path), sizes) for name, path in paths.items() if path is not None}


def _denoiser(file: ReleasedFile, weights: UNetWeights, findings: Findings) -> dict[str, Tensor]:
    note_weights(file, weights, findings)
    tensors = {f"unet.{name}": tensor for name, tensor in weights.used.items()}
    return tensors | {"alphas_cumprod": noise_schedule(file, findings)}


def _autoencoder(files: Mapping[str, ReleasedFile], findings: Findings) -> Mapping[str, Tensor]:
    """LINet.ckpt's own comes first: it is the one LINet was trained on."""
    holders = [file for name, file in files.items() if name == "VQ.ckpt" or file.has_autoencoder()]
    if not holders:
        raise BundleError(
            f"{files['LINet.ckpt'].checkpoint.path} holds no autoencoder (no tensor below first_stage_model.); "
            "give the published VQ.ckpt as well"
        )
    return first_of("autoencoder", [(file.name, file.autoencoder()) for file in holders], findings)


def _text_tower(files: Mapping[str, ReleasedFile], findings: Findings) -> Mapping[str, Tensor]:
    """LMNet.ckpt's comes first: LMNet always hears the text."""
    holders = [file for file in files.values() if file.has_text_tower()]
    if not holders:
        raise BundleError(
            "neither LMNet.ckpt nor LINet.ckpt holds the text encoder (no tensor below cond_stage_model.model.); "
            "import them without a vocabulary and give synthesis a copy of BiomedCLIP"
        )
    return first_of("text encoder", [(file.name, file.text_tower()) for file in holders], findings)


def _vocabulary(path: Path, tower: Mapping[str, Tensor], findings: Findings) -> str:
    """The content of vocab.txt; raises BundleError when it does not belong to the tower."""
    wordpiece_tokenizer(path)  # refuses what is no vocabulary of this kind
    text = path.read_text(encoding="utf-8")
    words, rows = len(text.rstrip("\n").split("\n")), tower[EMBEDDINGS].shape[0]
    if words != rows:
        raise BundleError(
            f"expected the {rows} lines of the text encoder's vocabulary in {path}, got {words}; "
            "take BiomedCLIP's own vocab.txt"
        )
    if sha256_of(path) == BIOMEDCLIP_VOCABULARY_SHA256:
        findings.evidence.append("vocabulary: BiomedCLIP's own, by its hash")
    else:
        findings.warnings.append(
            f"the vocabulary {path.name} is not BiomedCLIP's own, by its hash: text may be misread"
        )
    return text


def _made_by(files: Mapping[str, ReleasedFile], findings: Findings) -> dict[str, Any]:
    return {
        "command": "bundles import-released",
        "software": {"LesionDiffusion": __version__, "torch": torch.__version__},
        "sources": {name: sha256_of(file.checkpoint.path) for name, file in files.items()},
        "evidence": list(findings.evidence),
        "warnings": list(findings.warnings),
    }


def _manifest(
    name: str, sizes: ReleasedSizes, windows: tuple[WindowRule, WindowRule], with_text: bool, made_by: dict[str, Any]
) -> Manifest:
    """How the released networks are used (released-model 3, 4 and 6)."""
    channels = sizes.autoencoder.z_channels
    files = {"file": TEXT_FILE, "vocabulary_file": VOCABULARY_FILE} if with_text else {}
    common = {"prediction": "epsilon", "sampling": RELEASED_SAMPLING, "guidable": False}
    return Manifest(
        format=FORMAT,
        name=name,
        title=TITLE,
        license=LICENSE,
        autoencoder=AutoencoderSpec(VQGAN_FILE, sizes.autoencoder, (0.0,) * channels, (1.0,) * channels),
        lmnet=LMNetSpec(LMNET_FILE, sizes.lmnet, window=windows[0], threshold=None, **common),
        linet=LINetSpec(LINET_FILE, sizes.linet, window=windows[1], latent_mask=LatentMask("nearest", 0), **common),
        text=TextSpec(encoder="biomedclip", spelling="released", **files),
        files={},
        made_by=made_by,
    )
