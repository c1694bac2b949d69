"""Memory: a full one, a limited one, and what was taken."""

from __future__ import annotations

import builtins
import weakref
from types import SimpleNamespace

import pytest
import torch

from LesionDiffusionLib import memory
from LesionDiffusionLib.errors import DeviceError
from LesionDiffusionLib.memory import (
    clear_memory_errors,
    gpu_memory,
    keep_off_main_memory,
    limit_gpu_memory,
    peak_memory_mib,
    with_memory_fallback,
)
from LesionDiffusionLib.run import Run
from LesionDiffusionLib.scripts.cli import main

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


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


def test_networks_that_are_halved_already_are_not_tried_in_half_precision(half):
    idle, notes = Moved(), []
    with pytest.raises(torch.cuda.OutOfMemoryError):
        with_memory_fallback(Full(3), GPU, notes, [idle], halvable=False)
    assert (half, notes, idle.places) == ([], [], ["cpu", "cuda"])


def test_what_a_failed_try_held_is_gone_before_the_networks_come_back(half):
    class Activations:
        pass

    alive, on_return = [], []

    class Returning(Moved):
        def to(self, device):
            on_return.extend(reference() for reference in alive if torch.device(device).type == "cuda")
            return super().to(device)

    def run():
        activations = Activations()
        alive.append(weakref.ref(activations))
        raise torch.cuda.OutOfMemoryError("full")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        with_memory_fallback(run, GPU, [], [Returning()])
    assert on_return == [None, None, None]


class Homeless(Moved):
    """A network that finds no room to come back."""

    def to(self, device):
        if torch.device(device).type == "cuda":
            raise torch.cuda.OutOfMemoryError("full")
        return super().to(device)


def test_networks_without_room_to_come_back_do_not_cost_the_result(half):
    comes_back = Moved()
    assert with_memory_fallback(Full(2), GPU, [], [Homeless(), comes_back]) == "done"
    assert comes_back.places == ["cpu", "cuda"]


def test_a_network_is_brought_home_before_it_works(half):
    """Left in main memory by an earlier lesion, it makes the others wait if it does not fit beside them."""

    class LeftOut(Moved):
        def to(self, device):
            super().to(device)
            if "cpu" not in idle.places:
                raise torch.cuda.OutOfMemoryError("full")

    idle, working = Moved(), LeftOut()
    models = SimpleNamespace(device=GPU, idle_beside=lambda network: [idle])
    run = Run(None, None, None, models, None, None, None)
    assert run.guarded(lambda: working.places[-1], working) == "cuda"
    assert idle.places == ["cpu", "cuda"]
    assert len(run.notes) == 1


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "GET was unable to find an engine to execute this computation",
    ],
)
def test_a_full_gpu_has_many_names(half, message):
    tries = []

    def run():
        tries.append(message)
        if len(tries) == 1:
            raise RuntimeError(message)
        return "done"

    assert with_memory_fallback(run, GPU, [], [Moved()]) == "done"
    with pytest.raises(DeviceError, match="out of memory"), clear_memory_errors(GPU):
        raise RuntimeError(message)


def test_another_error_is_not_tried_again(half):
    tries = []

    def run():
        tries.append(1)
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        with_memory_fallback(run, GPU, [], [Moved()])
    assert len(tries) == 1


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
    assert memory.peak_memory_mib(CPU) == {}


def test_a_budget_is_asked_of_the_gpu_and_set_before_anything_runs(monkeypatch):
    limits = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (6000 * memory.MIB, 8000 * memory.MIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *args: limits.append(args))
    limit_gpu_memory(GPU, None)
    limit_gpu_memory(CPU, None)
    assert limits == []
    limit_gpu_memory(GPU, 4000)
    assert limits == [(0.5, GPU)]
    for budget_mib in (0, -1, 6001):
        with pytest.raises(DeviceError, match=rf"1 to 6000 MiB, which are free on cuda:0, got {budget_mib}"):
            limit_gpu_memory(GPU, budget_mib)
    assert len(limits) == 1


def test_on_windows_what_is_free_is_the_limit(monkeypatch):
    """What torch holds already is its own; elsewhere a full GPU says so itself."""
    limits = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5000 * memory.MIB, 8000 * memory.MIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 1000 * memory.MIB)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *args: limits.append(args))
    keep_off_main_memory(GPU)
    monkeypatch.setattr(memory.sys, "platform", "win32")
    keep_off_main_memory(CPU)
    assert limits == []
    keep_off_main_memory(GPU)
    assert limits == [(0.75, GPU)]


def test_memory_that_the_driver_does_not_tell_is_unknown(monkeypatch):
    def broken(device):
        raise RuntimeError("CUDA error: unknown error")

    monkeypatch.setattr(torch.cuda, "mem_get_info", broken)
    assert gpu_memory(GPU) is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1, 2))
    assert (gpu_memory(GPU), gpu_memory(CPU)) == ((1, 2), None)


def test_a_budget_without_a_gpu_is_told(tmp_path, capsys):
    arguments = ["demo", "--out", str(tmp_path / "out"), "--device", "cpu", "--gpu-memory", "4000"]
    assert main(arguments) == 2
    assert "a GPU memory budget needs a GPU, got cpu; leave --gpu-memory out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
