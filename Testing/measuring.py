"""What the measuring scripts share: figures are printed, and kept with the weights that they are true of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from LesionDiffusionLib.models import Models


def keep(figures: Mapping, settings: Mapping, models: Models, out: Path | None) -> None:
    """Print ``figures`` with ``settings``, the bundle's name and its weights' hashes; write them to ``out``, too."""
    manifest = models.bundle.manifest
    weights = {name: sha for name, sha in manifest.files.items() if name.endswith(".safetensors")}
    told = {**figures, "settings": {"bundle": manifest.name, **settings, "weights": weights}}
    text = json.dumps(told, indent=2)
    print(text)
    if out is not None:
        out.write_text(text + "\n")
