"""Devices: choosing one, its precision, and repeatability."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from LesionDiffusionLib.errors import DeviceError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def resolve_device(name: str = "auto") -> torch.device:
    """The device of "auto" (a CUDA GPU if torch sees one, else the CPU), "cpu", "cuda", "cuda:N" or "mps".

    Of several GPUs, "auto" and "cuda" are the first, or this process's own where `torchrun` started several.

    Raises:
        DeviceError: no such device; says which there are.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    known = available_devices()
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" else name
    if device not in known:
        raise DeviceError(
            f"expected one of the devices {', '.join(known)}, got {device!r}; "
            "if a GPU is built in, torch cannot see it: check its driver and that torch was installed with CUDA"
        )
    return torch.device(device)


def resolve_precision(name: str, device: torch.device) -> str:
    """One of PRECISIONS for its name or "auto": bf16 on GPUs that compute in it, else fp32.

    A CPU without bfloat16 instructions emulates them, many times slower than float32.

    Raises:
        DeviceError: no such precision.
    """
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return "bf16" if fast else "fp32"
    if name not in PRECISIONS:
        raise DeviceError(f"expected one of the precisions auto, {', '.join(PRECISIONS)}, got {name!r}")
    return name


def available_devices() -> list[str]:
    """Names of the devices torch can use here."""
    gpus = [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def describe_device(device: torch.device) -> str:
    """Name for provenance and messages."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """The same seed gives the same numbers on the same device: deterministic convolutions, no TF32.

    TF32 would also make GPU and CPU results differ visibly (released-model 9.2).
    """
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
