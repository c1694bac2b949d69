"""Devices and precisions."""

from __future__ import annotations

import pytest
import torch

from LesionDiffusionLib.devices import resolve_device, resolve_precision
from LesionDiffusionLib.errors import DeviceError

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


def test_auto_is_a_gpu_only_if_torch_sees_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("auto") == GPU


def test_an_absent_device_lists_those_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda") == GPU
    assert resolve_device("cuda:1").index == 1
    with pytest.raises(DeviceError, match=r"cpu, cuda:0, cuda:1.*got 'cuda:2'"):
        resolve_device("cuda:2")


def test_processes_of_torchrun_have_a_gpu_each(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda:1")
    assert resolve_device("cuda:0") == GPU
    assert resolve_device("cpu") == CPU
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(DeviceError, match=r"cpu, cuda:0, cuda:1.*got 'cuda:2'"):
        resolve_device("auto")


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_precision_is_half_on_gpus_that_compute_in_it(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", GPU) == expected
    assert resolve_precision("fp32", GPU) == "fp32"
    assert resolve_precision("auto", CPU) == "fp32"
    with pytest.raises(DeviceError, match="expected one of the precisions auto, fp32, bf16, got 'int8'"):
        resolve_precision("int8", CPU)
