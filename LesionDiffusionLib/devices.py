"""Devices: choosing one, its memory, repeatability, and what to do when memory runs out."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import nn

from LesionDiffusionLib.errors import DeviceError

Result = TypeVar("Result")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
MIB = 2**20


def resolve_device(name: str = "auto") -> torch.device:
    """The device of "auto" (a CUDA GPU if torch sees one, else the CPU), "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        DeviceError: no such device; says which there are.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    known = available_devices()
    device = "cuda:0" if name == "cuda" else name
    if device not in known:
        raise DeviceError(
            f"expected one of the devices {', '.join(known)}, got {name!r}; "
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


def peak_memory_mib(device: torch.device) -> dict[str, int]:
    """Peak resident memory of this process (not told on Windows) and, on a GPU, peak memory allocated there."""
    peak = {}
    with contextlib.suppress(ImportError):  # Windows has no such module
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
        peak["process"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB)
    if device.type == "cuda":
        peak["gpu"] = round(torch.cuda.max_memory_allocated(device) / MIB)
    return peak


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """The same seed gives the same numbers on the same device: deterministic convolutions, no TF32.

    TF32 would also make GPU and CPU results differ visibly (released-model 9.2).
    """
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


@contextlib.contextmanager
def clear_memory_errors(device: torch.device) -> Iterator[None]:
    """Turns a full device, or a full main memory, into a DeviceError that says need and have."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceError(_full(device)) from error


def with_memory_fallback(
    run: Callable[[], Result], device: torch.device, notes: list[str], idle: Sequence[nn.Module] = ()
) -> Result:
    """``run()``; on a full GPU again without the networks that are idle, and at last in half precision.

    Idle networks wait in main memory and come back afterwards: that costs time and changes no value, so it is tried
    first. ``notes`` receives a sentence for what was done. What fails three times is raised.
    """
    if device.type != "cuda":
        return run()
    with contextlib.suppress(torch.cuda.OutOfMemoryError):
        return run()
    try:
        for network in idle:
            network.to("cpu")
        torch.cuda.empty_cache()
        with contextlib.suppress(torch.cuda.OutOfMemoryError):
            result = run()
            notes.append("the GPU's memory was full; idle networks waited in main memory")
            return result
        torch.cuda.empty_cache()
        with torch.autocast(device.type, torch.float16):
            result = run()
        notes.append("the GPU's memory was full in single precision; the networks ran in half precision")
        return result
    finally:
        for network in idle:
            network.to(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means a full memory; torch's CPU allocator raises a plain RuntimeError."""
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _full(device: torch.device) -> str:
    have = ""
    if device.type == "cuda":
        with contextlib.suppress(RuntimeError, ValueError, AssertionError):
            free, total = torch.cuda.mem_get_info(device)
            need = torch.cuda.max_memory_allocated(device)
            have = f" ({free / MIB:.0f} of {total / MIB:.0f} MiB free, more than {need / MIB:.0f} MiB needed)"
    return f"{device} is out of memory{have}; close other programs, use a smaller bundle or another --device"
