"""What a report of a problem needs: versions, devices, models, the last error. No patient data, no keys."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import slicer

from LesionDiffusionLib import __version__
from LesionDiffusionLib.bundle_folders import installed_bundles
from LesionDiffusionLib.worker_client import python_for_worker

PACKAGES = ("torch", "numpy", "scipy", "SimpleITK", "safetensors", "open_clip_torch", "transformers")
LOG_LINES = 40


def diagnostics(devices: Sequence[Mapping[str, Any]], last_failure: str, log: Sequence[str]) -> str:
    """A text for the clipboard.

    Args:
        devices: as the worker told them; empty when it has not run.
        last_failure: the last error in full.
        log: lines of the log; the last ones are taken.
    """
    application = getattr(slicer, "app", None)
    lines = [
        f"LesionDiffusion {__version__}",
        f"Slicer {getattr(application, 'applicationVersion', 'unknown')}",
        f"{platform.platform()}, Python {platform.python_version()}, worker: {python_for_worker()}",
        *(f"{name} {_version(name)}" for name in PACKAGES),
        f"models: {', '.join(installed_bundles()) or 'none'}",
        *(f"device {d['name']}: {d['description']}{_memory(d)}" for d in devices),
        "last error:",
        last_failure or "none",
        "log:",
        *log[-LOG_LINES:],
    ]
    return "\n".join(lines) + "\n"


def _memory(device: Mapping[str, Any]) -> str:
    free_mib = device["free_mib"]
    return "" if free_mib is None else f", {free_mib} of {device['total_mib']} MiB free"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
