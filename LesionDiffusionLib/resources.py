"""Where the data files of the project lie, and where a user's own bundles are kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from LesionDiffusionLib.errors import LesionDiffusionError

PACKAGE = Path(__file__).resolve().parent


def resource_path(relative: str, package: Path = PACKAGE) -> Path:
    """Path of one file or folder of ``Resources/``, for example ``"Labels/totalseg_v1.json"``.

    Looked for inside the package (a wheel carries ``Resources`` there) and beside it (the source tree, and a Slicer
    installation, where ``LesionDiffusionLib`` and ``Resources`` share the module's folder).

    Raises LesionDiffusionError, naming the places, when it is in neither.
    """
    candidates = [package / "Resources" / relative, package.parent / "Resources" / relative]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    looked = " and ".join(str(candidate) for candidate in candidates)
    raise LesionDiffusionError(f'resource "{relative}" not found: looked at {looked}; reinstall LesionDiffusion')


def user_data_dir() -> Path:
    """The folder for a user's own bundles, by the platform's custom. Not created here."""
    home = Path.home()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = os.environ.get("XDG_DATA_HOME") or home / ".local" / "share"
    return Path(base) / "LesionDiffusion"
