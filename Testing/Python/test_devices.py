"""Devices and memory."""

from __future__ import annotations

import builtins

import pytest
import torch

from LesionDiffusionLib import devices
from LesionDiffusionLib.devices import (
    clear_memory_errors,
    peak_memory_mib,
    resolve_device,
    resolve_precision,
    with_memory_fallback,
)
from LesionDiffusionLib.errors import DeviceError

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


def test_auto_is_a_gpu_only_if_torch_sees_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == GPU


def test_an_absent_device_lists_those_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda") == GPU
    assert resolve_device("cuda:1").index == 1
    with pytest.raises(DeviceError, match=r"cpu, cuda:0, cuda:1.*got 'cuda:2'"):
        resolve_device("cuda:2")


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_precision_is_half_on_gpus_that_compute_in_it(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", GPU) == expected
    assert resolve_precision("fp32", GPU) == "fp32"
    assert resolve_precision("auto", CPU) == "fp32"
    with pytest.raises(DeviceError, match="expected one of the precisions auto, fp32, bf16, got 'int8'"):
        resolve_precision("int8", CPU)


class Full:
    """A computation on a GPU that has room only from the given try on."""

    def __init__(self, tries: int) -> None:
        self.left = tries

    def __call__(self) -> str:
        self.left -= 1
        if self.left > 0:
            raise torch.cuda.OutOfMemoryError("full")
        return "done"


class Moved(torch.nn.Module):
    """A network that tells where it was moved."""

    def __init__(self) -> None:
        super().__init__()
        self.places = []

    def to(self, device):
        self.places.append(torch.device(device).type)
        return self


@pytest.fixture
def half(monkeypatch):
    """No GPU is here: its cache is not emptied, and autocast is only noted."""
    noted = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch, "autocast", lambda *args: noted.append(args) or torch.no_grad())
    return noted


def test_a_gpu_with_room_is_left_alone(half):
    idle, notes = Moved(), []
    assert with_memory_fallback(Full(1), GPU, notes, [idle]) == "done"
    assert (idle.places, half, notes) == ([], [], [])


def test_on_a_full_gpu_idle_networks_make_room_first(half):
    idle, notes = Moved(), []
    assert with_memory_fallback(Full(2), GPU, notes, [idle]) == "done"
    assert idle.places == ["cpu", "cuda"], "and come back"
    assert half == [], "which changes no value"
    assert "idle networks waited in main memory" in notes[0]


def test_then_it_is_tried_in_half_precision(half):
    idle, notes = Moved(), []
    assert with_memory_fallback(Full(3), GPU, notes, [idle]) == "done"
    assert half == [("cuda", torch.float16)]
    assert idle.places == ["cpu", "cuda"]
    assert len(notes) == 1
    assert "half precision" in notes[0]


def test_a_gpu_that_stays_full_is_told_and_the_networks_come_back(half):
    idle = Moved()
    with pytest.raises(DeviceError, match="cuda:0 is out of memory"), clear_memory_errors(GPU):
        with_memory_fallback(Full(4), GPU, [], [idle])
    assert idle.places == ["cpu", "cuda"]


def test_main_memory_has_no_fallback():
    computation = Full(2)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        with_memory_fallback(computation, CPU, [])
    assert computation.left == 1


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")],
)
def test_a_full_main_memory_is_told(error):
    with pytest.raises(DeviceError, match="cpu is out of memory; close other programs"), clear_memory_errors(CPU):
        raise error


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"), clear_memory_errors(CPU):
        raise RuntimeError("shapes do not match")


def test_peak_memory_is_left_out_where_it_cannot_be_told(monkeypatch):
    assert peak_memory_mib(CPU)["process"] > 10
    real = builtins.__import__

    def without_resource(name, *args, **kwargs):
        if name == "resource":
            raise ImportError
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_resource)
    assert devices.peak_memory_mib(CPU) == {}
