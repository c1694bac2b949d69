"""Devices: choosing one, its memory, and what to do when that runs out."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Callable
from typing import TypeVar

import torch

from LesionDiffusionLib.errors import DeviceError

Result = TypeVar("Result")
MIB = 2**20


def resolve_device(name: str = "auto") -> torch.device:
    """The device of "auto" (a CUDA GPU if torch sees one, else the CPU), "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        DeviceError: no such device; says which there are.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known = available_devices()
    device = "cuda:0" if name == "cuda" else name
    if device not in known:
        raise DeviceError(
            f"expected one of the devices {', '.join(known)}, got {name!r}; "
            "if a GPU is built in, torch cannot see it: check its driver and that torch was installed with CUDA"
        )
    return torch.device(device)


def available_devices() -> list[str]:
    """Names of the devices torch can use here."""
    gpus = [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def describe_device(device: torch.device) -> str:
    """Name for provenance and messages."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_memory_mib(device: torch.device) -> dict[str, float]:
    """Peak resident memory of this process and, on a GPU, peak memory allocated there."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    peak = {"process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB)}
    if device.type == "cuda":
        peak["gpu"] = round(torch.cuda.max_memory_allocated(device) / MIB)
    return peak


def with_memory_fallback(run: Callable[[], Result], device: torch.device, notes: list[str]) -> Result:
    """``run()``; on a full GPU once more in half precision; then a DeviceError that says need and have.

    ``notes`` receives a sentence when the fallback was used.
    """
    try:
        return run()
    except torch.OutOfMemoryError:
        if device.type != "cuda":
            raise DeviceError(_full(device)) from None
    torch.cuda.empty_cache()
    try:
        with torch.autocast(device.type, torch.float16):
            result = run()
    except torch.OutOfMemoryError:
        raise DeviceError(_full(device)) from None
    notes.append("the GPU's memory was full in single precision; the networks ran in half precision")
    return result


def _full(device: torch.device) -> str:
    have = "unknown"
    with contextlib.suppress(RuntimeError, ValueError):
        free, total = torch.cuda.mem_get_info(device)
        need = torch.cuda.max_memory_allocated(device)
        have = f"{free / MIB:.0f} of {total / MIB:.0f} MiB free, more than {need / MIB:.0f} MiB needed"
    return f"{device} is out of memory ({have}); close other programs on it, use a smaller bundle or --device cpu"
