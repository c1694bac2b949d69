"""Bundles: a folder with the networks of one model, `bundle.json`, safetensors files and a model card.

`bundle.json` says how every network is sized and used and holds the SHA-256 of every file, checked on load. Building
the networks is not done here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from LesionDiffusionLib.bundle_folders import MANIFEST, installed_bundles
from LesionDiffusionLib.dataclass_json import from_json
from LesionDiffusionLib.diffusion.denoiser import PREDICTIONS
from LesionDiffusionLib.errors import BundleError, OutputError
from LesionDiffusionLib.latent_change import LatentChange
from LesionDiffusionLib.linet import LatentMask, input_channels, require_one_knee
from LesionDiffusionLib.networks.unet import UNetConfig
from LesionDiffusionLib.networks.vqgan import VQGANConfig
from LesionDiffusionLib.sampling import SamplingOptions
from LesionDiffusionLib.windowing import WindowRule

FORMAT = 1


@dataclass(frozen=True)
class AutoencoderSpec:
    """The VQ-GAN. The diffusion runs on (latent - latent_shift) / latent_scale, one number per channel."""

    file: str
    config: VQGANConfig
    latent_shift: tuple[float, ...]
    latent_scale: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("latent_shift", "latent_scale"):
            values = getattr(self, name)
            if len(values) != self.config.z_channels:
                raise ValueError(f"{name} needs {self.config.z_channels} numbers, one a latent channel, got {values}")


@dataclass(frozen=True)
class LMNetSpec:
    """The mask network. Its file holds "unet.*", the table "alphas_cumprod" and, with a vocabulary encoder, "text.*".

    ``threshold`` binarizes its output; None stands for the released sweep against the box's volume.
    """

    file: str
    unet: UNetConfig
    prediction: str
    window: WindowRule
    sampling: SamplingOptions
    guidable: bool  # trained with an empty text, so that guidance means something
    threshold: float | None

    def __post_init__(self) -> None:
        _check_denoiser(self, voxels_per_step=1)


@dataclass(frozen=True)
class LINetSpec:
    """The inpainting network; its file holds the same as LMNet's. Without ``change`` it paints latents."""

    file: str
    unet: UNetConfig
    prediction: str
    window: WindowRule
    sampling: SamplingOptions
    guidable: bool
    latent_mask: LatentMask
    change: LatentChange | None = None

    def __post_init__(self) -> None:
        _check_denoiser(self, voxels_per_step=2)
        require_one_knee(self.unet, self.change)
        expected = input_channels(self.change)
        if self.unet.in_channels != expected:
            told = "without" if self.change is None else "with"
            raise ValueError(f"a LINet {told} change has {expected} input channels, got {self.unet.in_channels}")


@dataclass(frozen=True)
class TextSpec:
    """How a report becomes context.

    ``encoder``: "vocabulary" (``phrases``, trained with each network) or "biomedclip" (``file`` and ``vocabulary_file``
    in the bundle, else the user's own copy). ``spelling``: "report" (our canonical words) or "released".
    """

    encoder: str
    spelling: str
    phrases: tuple[str, ...] = ()
    file: str | None = None
    vocabulary_file: str | None = None

    def __post_init__(self) -> None:
        if self.encoder not in ("vocabulary", "biomedclip") or self.spelling not in ("report", "released"):
            raise ValueError(f"encoder is vocabulary or biomedclip, spelling report or released; got {self}")


@dataclass(frozen=True)
class Manifest:
    """All of bundle.json."""

    format: int
    name: str
    title: str
    license: str
    autoencoder: AutoencoderSpec
    lmnet: LMNetSpec
    linet: LINetSpec
    text: TextSpec
    files: Mapping[str, str]  # file name -> SHA-256
    made_by: Mapping[str, Any]  # how the bundle came to be: commands, seeds, versions, evidence


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk."""

    folder: Path
    manifest: Manifest

    def verify(self) -> None:
        """Check every file's hash. Raises BundleError naming the file that differs or is missing."""
        for name, expected in self.manifest.files.items():
            path = self.folder / name
            if not path.is_file():
                raise BundleError(f"bundle {self.manifest.name} lacks {path}; install the bundle again")
            found = sha256_of(path)
            if found != expected:
                raise BundleError(
                    f"{path} is damaged or was changed: its SHA-256 is {found[:12]}..., expected {expected[:12]}...; "
                    "install the bundle again"
                )

    def tensors(self, name: str) -> dict:
        """Tensors of one of the bundle's safetensors files. Raises BundleError for a damaged one."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.folder / name)
        except (SafetensorError, OSError) as error:
            raise BundleError(f"cannot read {self.folder / name}: {error}; install the bundle again") from error


def _check_denoiser(spec: LMNetSpec | LINetSpec, voxels_per_step: int) -> None:
    """ValueError for a prediction nobody knows, or a window that the U-Net cannot halve."""
    if spec.prediction not in PREDICTIONS:
        raise ValueError(f"prediction is one of {', '.join(PREDICTIONS)}, got {spec.prediction!r}")
    divisor = voxels_per_step * spec.unet.size_divisor
    if not spec.window.is_multiple_of(divisor):
        raise ValueError(f"the window's sizes must be multiples of {divisor}, got {spec.window.shape}")


def open_bundle(name_or_folder: str | os.PathLike) -> Bundle:
    """The bundle of a name ("starter", or one installed in the user's folder) or of a folder; hashes are checked.

    Raises:
        BundleError: no such bundle (lists those there are), bundle.json malformed, or a file that does not match.
    """
    folder = _find(name_or_folder)
    bundle = Bundle(folder, _read_manifest(folder / MANIFEST))
    bundle.verify()
    return bundle


def write_bundle(folder: Path, manifest: Manifest, tensors: Mapping[str, Mapping], texts: Mapping[str, str]) -> Bundle:
    """Write a bundle whole or not at all.

    Args:
        folder: must not exist.
        manifest: its ``files`` are filled in here.
        tensors: file name -> tensors, for the safetensors files.
        texts: file name -> text, such as the model card.

    Raises:
        BundleError: the folder exists.
        OutputError: it cannot be written, for instance because the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if folder.exists():
        raise BundleError(f"expected a new bundle folder, but {folder} exists; delete it or choose another name")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            inside = Path(temporary, folder.name)
            inside.mkdir()
            for name, content in tensors.items():
                save_file({key: value.contiguous() for key, value in content.items()}, inside / name)
            for name, text in texts.items():
                (inside / name).write_text(text, encoding="utf-8", newline="\n")
            manifest = dataclasses.replace(manifest, files={p.name: sha256_of(p) for p in sorted(inside.iterdir())})
            (inside / MANIFEST).write_text(json.dumps(dataclasses.asdict(manifest), indent=2) + "\n", encoding="utf-8")
            inside.rename(folder)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"could not write the bundle {folder}: {error}; nothing was kept") from error
    return Bundle(folder, manifest)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file) -> str:
    digest = hashlib.sha256()  # Python 3.10 has no file_digest
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _find(name_or_folder: str | os.PathLike) -> Path:
    installed = installed_bundles()
    if str(name_or_folder) in installed:
        return installed[str(name_or_folder)]
    folder = Path(name_or_folder)
    if (folder / MANIFEST).is_file():
        return folder
    raise BundleError(
        f"expected a bundle folder with {MANIFEST} or one of {', '.join(installed) or 'no installed bundle'}, "
        f"got {str(name_or_folder)!r}; see 'lesiondiffusion bundles'"
    )


def _read_manifest(path: Path) -> Manifest:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"cannot read {path}: {error}; install the bundle again") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise BundleError(f"expected bundle format {FORMAT} in {path}, got {found!r}; update LesionDiffusion")
    try:
        manifest = from_json(Manifest, data, str(path))
    except ValueError as error:
        raise BundleError(f"{error}; install the bundle again") from error
    unsafe = [name for name in manifest.files if Path(name).name != name]
    if unsafe:
        raise BundleError(f"{path} names files outside its folder: {', '.join(unsafe)}; do not use this bundle")
    text = manifest.text
    used = (manifest.autoencoder.file, manifest.lmnet.file, manifest.linet.file, text.file, text.vocabulary_file)
    unhashed = [name for name in used if name is not None and name not in manifest.files]
    if unhashed:
        raise BundleError(f"{path} gives no hash for {', '.join(unhashed)}; do not use this bundle")
    return manifest
