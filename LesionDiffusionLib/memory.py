"""Memory: how much was taken, how much may be, and what to do when it runs out."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import nn

from LesionDiffusionLib.errors import DeviceError, release_frames

Result = TypeVar("Result")
MIB = 2**20
SIGNS = ("can't allocate memory", "CUDA error: out of memory")
SIGNS += ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
SIGNS += ("CUBLAS_STATUS_NOT_INITIALIZED", "CUDNN_STATUS_NOT_INITIALIZED")  # no room even for their handles
SIGNS += ("unable to find an engine to execute",)  # of cuDNN, when no convolution's workspace fits


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


def gpu_memory(device: torch.device) -> tuple[int, int] | None:
    """Free and total bytes of a GPU; None for other devices, and where the driver does not tell.

    Asking opens a context on the GPU, which takes some hundred MiB of it until the process ends.
    """
    if device.type != "cuda":
        return None
    try:
        return torch.cuda.mem_get_info(device)
    except RuntimeError:
        return None


def keep_off_main_memory(device: torch.device) -> None:
    """On Windows, let torch allocate no more of a GPU than is free now.

    Beyond that the driver goes on in main memory, many times slower, and torch never learns that the GPU is full.
    """
    memory = gpu_memory(device) if sys.platform == "win32" else None
    if memory is not None:
        free, total = memory
        own = torch.cuda.memory_reserved(device)
        torch.cuda.set_per_process_memory_fraction(min(1.0, (free + own) / total), device)


def limit_gpu_memory(device: torch.device, budget_mib: int | None) -> None:
    """Let torch allocate at most ``budget_mib`` of a GPU from now on; what does not fit falls back as on a full one.

    The driver's own share (some hundred MiB a process) comes on top. None: as it is.

    Raises:
        DeviceError: the device is no GPU, or has less memory free.
    """
    if budget_mib is None:
        return
    if device.type != "cuda":
        raise DeviceError(f"a GPU memory budget needs a GPU, got {device}; leave --gpu-memory out or name a --device")
    free, total = torch.cuda.mem_get_info(device)
    if not 0 < budget_mib * MIB <= free:
        raise DeviceError(
            f"expected a GPU memory budget of 1 to {free // MIB} MiB, which are free on {device}, got {budget_mib}; "
            "close other programs or choose another"
        )
    torch.cuda.set_per_process_memory_fraction(budget_mib * MIB / total, device)


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
    run: Callable[[], Result],
    device: torch.device,
    notes: list[str],
    idle: Sequence[nn.Module] = (),
    halvable: bool = True,
) -> Result:
    """``run()``; on a full GPU again without the networks that are idle, and at last in half precision.

    Idle networks wait in main memory and come back afterwards, as far as there is room: that costs time and changes no
    value, so it is tried first. ``notes`` receives a sentence for what was done. What fails every time is raised. Half
    precision helps only networks in single precision (``halvable``): others it would make larger.
    """
    if device.type != "cuda":
        return run()
    with passing_full_memory():
        return run()
    try:
        for network in idle:
            network.to("cpu")
        torch.cuda.empty_cache()
        with passing_full_memory() if halvable else contextlib.nullcontext():
            result = run()
            notes.append("the GPU's memory was full; idle networks waited in main memory")
            return result
        torch.cuda.empty_cache()
        with torch.autocast(device.type, torch.float16):
            result = run()
        notes.append("the GPU's memory was full in single precision; the networks ran in half precision")
        return result
    except BaseException as error:
        release_frames(error)  # the networks need the room that the failed try still holds
        raise
    finally:
        torch.cuda.empty_cache()
        for network in idle:
            with passing_full_memory():  # who needs it next brings it back
                network.to(device)


@contextlib.contextmanager
def passing_full_memory() -> Iterator[None]:
    """Let a full memory pass, and with it all that the error holds."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means a full memory; most of torch's libraries raise a plain RuntimeError."""
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or any(sign in str(error) for sign in SIGNS)


def _full(device: torch.device) -> str:
    have = ""
    if device.type == "cuda":
        with contextlib.suppress(RuntimeError, ValueError, AssertionError):
            free, total = torch.cuda.mem_get_info(device)
            need = torch.cuda.max_memory_allocated(device)
            have = f" ({free / MIB:.0f} of {total / MIB:.0f} MiB free, more than {need / MIB:.0f} MiB needed)"
    return f"{device} is out of memory{have}; close other programs, use a smaller bundle or another --device"
