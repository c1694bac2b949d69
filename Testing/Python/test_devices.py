"""Devices and precisions."""

from __future__ import annotations

import pytest
import torch

from LesionDiffusionLib import devices
from LesionDiffusionLib.devices import describe_device, resolve_device, resolve_precision
from LesionDiffusionLib.errors import DeviceError

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
NO_KERNELS = "CUDA error: no kernel image is available for execution on the device"


@pytest.fixture(autouse=True)
def first_computation(monkeypatch):
    """What the first computation on a GPU raises; None of them is here, and by default they compute."""
    errors, real = [], torch.ones

    def ones(*size, device="cpu", **options):
        if torch.device(device).type == "cuda" and errors:
            raise errors[-1]
        return real(*size, **options)

    monkeypatch.setattr(torch, "ones", ones)
    return errors


@pytest.fixture
def one_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GeForce GTX 1080")


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


def test_a_gpu_that_torch_has_no_kernels_for_is_told(one_gpu, first_computation, monkeypatch):
    first_computation.append(RuntimeError(f"{NO_KERNELS}\nCompile with TORCH_USE_CUDA_DSA."))
    with pytest.warns(UserWarning, match=rf"cuda:0 \(GeForce GTX 1080\): {NO_KERNELS}; the CPU computes instead"):
        assert resolve_device("auto") == CPU
    assert resolve_device("cpu") == CPU
    for name in ("cuda", "cuda:0"):
        with pytest.raises(DeviceError, match=rf"cannot compute on cuda:0 .*{NO_KERNELS}; install .* --device cpu"):
            resolve_device(name)
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(DeviceError, match="cannot compute on cuda:0"):
        resolve_device("auto")


def test_a_full_gpu_is_no_reason_to_leave_it(one_gpu, first_computation):
    first_computation.append(RuntimeError("CUDA error: out of memory"))
    with pytest.raises(DeviceError, match="cuda:0 is out of memory"):
        resolve_device("auto")


def test_every_gpu_that_is_chosen_is_kept_off_main_memory(one_gpu, monkeypatch):
    kept = []
    monkeypatch.setattr(devices, "keep_off_main_memory", kept.append)
    resolve_device("auto")
    assert kept == [GPU]


def test_a_gpu_that_does_not_tell_its_name_is_described_all_the_same(monkeypatch):
    def broken(device):
        raise RuntimeError("CUDA unknown error")

    monkeypatch.setattr(torch.cuda, "get_device_name", broken)
    assert describe_device(GPU) == "cuda"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="SKIPPED, not passed: needs a CUDA device")
def test_the_gpu_here_computes(first_computation, monkeypatch):
    monkeypatch.undo()
    assert resolve_device("auto").type == "cuda"


def test_bf16_is_refused_where_it_is_emulated(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(DeviceError, match=r"expected fp32 on cuda:0.*capability 7\.5.*8\.0.*use --precision fp32"):
        resolve_precision("bf16", GPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert resolve_precision("bf16", GPU) == resolve_precision("bf16", CPU) == "bf16"


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_precision_is_half_on_gpus_that_compute_in_it(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", GPU) == expected
    assert resolve_precision("fp32", GPU) == "fp32"
    assert resolve_precision("auto", CPU) == "fp32"
    with pytest.raises(DeviceError, match="expected one of the precisions auto, fp32, bf16, got 'int8'"):
        resolve_precision("int8", CPU)
