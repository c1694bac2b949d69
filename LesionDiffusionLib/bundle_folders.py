"""Which bundles are installed, and what their `bundle.json` says in short. Needs no torch: a window lists them, too."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from LesionDiffusionLib.errors import BundleError, OutputError
from LesionDiffusionLib.resources import resource_path, user_data_dir
from LesionDiffusionLib.windowing import WindowRule, largest_in_all

MANIFEST = "bundle.json"


@dataclass(frozen=True)
class BundleSummary:
    """What a user wants to know before choosing a bundle.

    Attributes:
        largest_lesion_mm: the largest lesion (X, Y, Z) that both networks take.
        encoder: "vocabulary", or "biomedclip", which needs more Python packages.
        guidable: whether guidance other than 1 is possible.
    """

    name: str
    title: str
    license: str
    folder: Path
    largest_lesion_mm: tuple[float, float, float]
    encoder: str
    guidable: bool


def installed_bundles() -> dict[str, Path]:
    """Name -> folder of the shipped bundle and those in the user's folder."""
    folders = [resource_path("lesion_types.json").parent / "Models", user_bundles_dir()]
    return {path.parent.name: path.parent for folder in folders for path in sorted(folder.glob(f"*/{MANIFEST}"))}


def user_bundles_dir() -> Path:
    """Where a user's own bundles live."""
    return user_data_dir() / "bundles"


def delete_bundle(name: str) -> Path:
    """Delete a bundle of the user's folder; the shipped one stays, and so does what a link leads to.

    Returns its former folder. Raises BundleError for any other name, OutputError when it cannot be deleted.
    """
    folder = user_bundles_dir() / name
    if not (folder / MANIFEST).is_file() or folder.parent != user_bundles_dir():
        own = ", ".join(n for n, path in installed_bundles().items() if path.parent == user_bundles_dir()) or "none"
        raise BundleError(f"expected one of your own bundles ({own}), got {name!r}")
    try:
        if folder.is_symlink():
            folder.unlink()
        else:
            (folder / MANIFEST).unlink()  # first: what an error leaves behind is no bundle any more
            shutil.rmtree(folder)
    except OSError as error:
        raise OutputError(f"cannot delete {folder}: {error.strerror or error}; delete it by hand") from error
    return folder


def summarize(folder: Path) -> BundleSummary:
    """The summary of a bundle; its files are not checked. Raises BundleError when bundle.json cannot be read."""
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        networks = [data[name] for name in ("lmnet", "linet")]
        return BundleSummary(
            str(data["name"]),
            str(data["title"]),
            str(data["license"]),
            folder,
            largest_in_all(WindowRule(**network["window"]) for network in networks),
            str(data["text"]["encoder"]),
            all(network["guidable"] for network in networks),
        )
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise BundleError(f"cannot read {path}: {error}; install the bundle again") from error
