"""Devices: choosing one, its precision, and repeatability."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator

import torch

from LesionDiffusionLib.errors import DeviceError, SettingsError
from LesionDiffusionLib.memory import clear_memory_errors, keep_off_main_memory

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
BF16_CAPABILITY = (8, 0)  # of GPUs that compute in it; older ones emulate it


def resolve_device(name: str = "auto") -> torch.device:
    """The device of "auto" (a CUDA GPU if torch computes on one, else the CPU), "cpu", "cuda", "cuda:N" or "mps".

    Of several GPUs, "auto" and "cuda" are the first, or this process's own where `torchrun` started several. A GPU is
    tried, and ready when this returns; on Windows this process takes no more of it than is free.

    Raises:
        DeviceError: no such device (says which there are), or a GPU that is full or that torch cannot compute on.
    """
    device = _named(name)
    trouble = _trouble(device)
    if trouble is None:
        keep_off_main_memory(device)
        return device
    told = f"torch {torch.__version__} cannot compute on {device} ({describe_device(device)}): {trouble}"
    if name != "auto" or "LOCAL_RANK" in os.environ:  # of several processes none may go its own way
        raise DeviceError(f"{told}; install a torch that is made for it and its driver, or use --device cpu")
    warnings.warn(f"{told}; the CPU computes instead", stacklevel=2)
    return torch.device("cpu")


def _named(name: str) -> torch.device:
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


def _trouble(device: torch.device) -> str | None:
    """Why a GPU does not compute, in one line: torch also sees those it has no kernels for. None if it does.

    Raises DeviceError when it is full.
    """
    if device.type != "cuda":
        return None
    try:
        with clear_memory_errors(device):
            torch.ones(1, device=device).add_(1).item()
    except RuntimeError as error:
        return str(error).strip().split("\n")[0]
    return None


def use_threads(count: int | None) -> None:
    """Let torch compute with so many CPU threads; None leaves torch's own number. Raises SettingsError below 1."""
    if count is None:
        return
    if count < 1:
        raise SettingsError(f"expected at least 1 thread, got {count}; leave --threads out for torch's own number")
    torch.set_num_threads(count)


def resolve_precision(name: str, device: torch.device) -> str:
    """One of PRECISIONS for its name or "auto": bf16 on GPUs that compute in it, else fp32.

    A CPU without bfloat16 instructions emulates them, many times slower than float32.

    Raises:
        DeviceError: no such precision, or not on this GPU.
    """
    if name not in ("auto", *PRECISIONS):
        raise DeviceError(f"expected one of the precisions auto, {', '.join(PRECISIONS)}, got {name!r}")
    if name == "fp32" or device.type != "cuda":
        return "fp32" if name == "auto" else name
    capability = torch.cuda.get_device_capability(device)
    if capability >= BF16_CAPABILITY:
        return "bf16"
    if name == "bf16":
        raise DeviceError(
            f"expected fp32 on {device}, which does not compute in bf16 (compute capability {_dotted(capability)}, "
            f"bf16 needs {_dotted(BF16_CAPABILITY)}), got bf16; use --precision fp32 or auto"
        )
    return "fp32"


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def available_devices() -> list[str]:
    """Names of the devices torch can use here."""
    gpus = [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def describe_device(device: torch.device) -> str:
    """Name for provenance and messages; the kind alone where the driver does not tell."""
    if device.type == "cuda":
        with contextlib.suppress(RuntimeError, AssertionError):
            return torch.cuda.get_device_name(device)
    return device.type


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
