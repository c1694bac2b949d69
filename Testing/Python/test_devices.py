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


def test_a_full_gpu_is_tried_once_more_in_half_precision(monkeypatch):
    """The first try fails; the second runs under autocast and a note says so."""
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    seen = []
    monkeypatch.setattr(torch, "autocast", lambda *args: seen.append(args) or torch.no_grad())
    tries = []

    def run():
        tries.append(1)
        if len(tries) == 1:
            raise torch.cuda.OutOfMemoryError("full")
        return "done"

    notes = []
    assert with_memory_fallback(run, GPU, notes) == "done"
    assert seen == [("cuda", torch.float16)]
    assert "half precision" in notes[0]


def test_a_gpu_full_twice_is_raised(monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch, "autocast", lambda *args: torch.no_grad())

    def run():
        raise torch.cuda.OutOfMemoryError("full")

    with pytest.raises(DeviceError, match="cuda:0 is out of memory"), clear_memory_errors(GPU):
        with_memory_fallback(run, GPU, [])


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
