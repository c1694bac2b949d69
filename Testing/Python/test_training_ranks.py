"""Several processes train like one: two with one sample each as one with two, on the CPU over gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn
from training_cases import prepared_dataset

from LesionDiffusionLib.errors import TrainingError
from LesionDiffusionLib.training import ranks

SCRIPT = Path(__file__).with_name("rank_training.py")


def trained(data: Path, out: Path, processes: int, batch: int) -> dict:
    """The losses of a training on this many processes."""
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *start, str(SCRIPT), str(data), str(out), str(batch)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(out.read_text())


# The adversarial loss is a mean of signed verdicts of about 1: its rounding is of their size, not of the mean's.
ROUNDING = 5e-5


def test_two_processes_train_like_one_with_twice_the_batch(tmp_path):
    data = prepared_dataset(tmp_path)
    one, two = (trained(data, tmp_path / f"{n}.json", n, batch) for n, batch in ((1, 2), (2, 1)))
    assert (one["world"], two["world"]) == (1, 2)
    assert {"adversarial", "judges"} <= set(one["losses"]["vqgan"][-1])
    for network, steps in one["losses"].items():
        for step, losses in enumerate(steps):
            for name, value in losses.items():
                close = pytest.approx(value, rel=2e-4, abs=ROUNDING if name == "adversarial" else 1e-6)
                assert two["losses"][network][step][name] == close, (network, step, name)
            assert two["losses"][network][step].keys() == losses.keys()
    first, last = one["losses"]["lmnet"][0], one["losses"]["lmnet"][-1]
    assert first != last, "the check can fail: the losses change from step to step"


def test_a_single_process_computes_everything():
    assert (ranks.rank(), ranks.world_size()) == (0, 1)
    assert list(range(6))[ranks.share(6)] == list(range(6))
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    assert torch.equal(ranks.mean(value), value.detach())
    assert ranks.gathered(value) is value
    layer = nn.Linear(2, 1)
    layer(torch.ones(1, 2)).sum().backward()
    before = layer.weight.grad.clone()
    ranks.average_gradients(layer.parameters())
    assert torch.equal(layer.weight.grad, before)


@pytest.mark.parametrize(
    ("has_nccl", "device", "message"),
    [
        (False, "cuda:1", "expected NCCL for 2 processes on GPUs"),
        (True, "cuda:0", "got cuda:0 for number 1; leave --device at auto"),
    ],
)
def test_processes_that_cannot_have_gpus_of_their_own_are_told(has_nccl, device, message, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(ranks.dist, "is_nccl_available", lambda: has_nccl)
    with pytest.raises(TrainingError, match=message), ranks.joined_ranks(torch.device(device)):
        pass


@pytest.mark.parametrize("fails", [False, True])
def test_only_a_training_that_succeeds_waits_for_the_others(fails, monkeypatch):
    """They wait for a process that failed in their turn: its error must end it, and `torchrun` then ends them."""
    calls = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(ranks.dist, "init_process_group", lambda backend: calls.append(backend))
    monkeypatch.setattr(ranks.dist, "destroy_process_group", lambda: calls.append("destroyed"))
    with pytest.raises(TrainingError) if fails else nullcontext(), ranks.joined_ranks(torch.device("cpu")):
        if fails:
            raise TrainingError("the loss is no longer a number")
    assert calls == (["gloo"] if fails else ["gloo", "destroyed"])
