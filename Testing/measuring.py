"""What the measuring scripts share: figures are printed, and kept with weights and scan that they are true of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from LesionDiffusionLib.models import Models

NETWORKS = ("linet", "lmnet", "autoencoder")


def keep(
    figures: Mapping, settings: Mapping, models: Models, out: Path | None, networks: Sequence[str] = NETWORKS
) -> None:
    """Print ``figures`` with ``settings``, the bundle's name and the hashes of the ``networks`` they depend on; write
    them to ``out``, too."""
    manifest = models.bundle.manifest
    weights = {file: manifest.files[file] for file in (getattr(manifest, name).file for name in networks)}
    told = {**figures, "settings": {"bundle": manifest.name, **settings, "weights": weights}}
    text = json.dumps(told, indent=2)
    print(text)
    if out is not None:
        out.write_text(text + "\n")


def scan(ct: Path | None) -> dict[str, str]:
    """The patient's name, for the settings."""
    return {"ct": "/".join(ct.parts[-2:]) if ct else "phantom"}
