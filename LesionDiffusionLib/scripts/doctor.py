"""Say what is installed, which devices there are, and whether the bundles are whole."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: the library is two folders up, and this folder's names must hide nothing
    _HERE = Path(__file__).resolve().parent
    sys.path[:] = [str(_HERE.parents[1]), *(path for path in sys.path if Path(path).resolve() != _HERE)]
    from LesionDiffusionLib.scripts.headless import run_as_script

    run_as_script("doctor")

from LesionDiffusionLib import __version__
from LesionDiffusionLib.errors import LesionDiffusionError

LIBRARIES = ("torch", "numpy", "scipy", "SimpleITK", "safetensors", "open_clip_torch", "transformers", "Pillow", "tqdm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`lesiondiffusion doctor` has no arguments."""


def run(_: argparse.Namespace) -> int:
    """Print the diagnosis; the exit code is 2 when something is wrong."""
    print(f"LesionDiffusion {__version__}, Python {platform.python_version()}, {platform.platform()}")
    missing = _libraries()
    problems = [f"{name} is not installed: pip install {name}" for name in missing]
    if "torch" not in missing:
        _devices()
        problems += _bundles()
    problems += _folders()
    for problem in problems:
        print(f"PROBLEM: {problem}", file=sys.stderr)
    print("all well" if not problems else f"{len(problems)} problems")
    return 2 if problems else 0


def _libraries() -> list[str]:
    """Print versions; returns what is missing."""
    missing = []
    for name in LIBRARIES:
        try:
            print(f"  {name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    return missing


def _devices() -> None:
    import torch

    from LesionDiffusionLib.devices import available_devices, describe_device
    from LesionDiffusionLib.memory import gpu_memory

    for name in available_devices():
        device = torch.device(name)
        memory = ""
        if (told := gpu_memory(device)) is not None:
            free, total = told
            memory = f", {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        threads = f", {torch.get_num_threads()} threads" if name == "cpu" else ""
        print(f"  device {name}: {describe_device(device)}{memory}{threads}")


def _bundles() -> list[str]:
    from LesionDiffusionLib.bundle_folders import installed_bundles
    from LesionDiffusionLib.bundles import open_bundle

    problems = []
    for name, folder in installed_bundles().items():
        try:
            open_bundle(folder)
            print(f"  bundle {name}: whole ({folder})")
        except LesionDiffusionError as error:
            problems.append(str(error))
    if not installed_bundles():
        problems.append("no model bundle is installed, not even the starter: reinstall LesionDiffusion")
    return problems


def _folders() -> list[str]:
    from LesionDiffusionLib.resources import user_data_dir

    folder = user_data_dir()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    print(f"  own data in {folder}, {shutil.disk_usage(existing).free / 2**30:.0f} GiB free")
    return [] if os.access(existing, os.W_OK) else [f"{existing} cannot be written: your own bundles have no place"]
