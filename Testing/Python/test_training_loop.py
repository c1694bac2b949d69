"""The training loop: learning rate, averages, NaN, and runs that survive a kill and a full disk."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from LesionDiffusionLib.errors import DatasetError, OutputError, SettingsError, TrainingError
from LesionDiffusionLib.training import loop, monitor, ranks
from LesionDiffusionLib.training.checkpoint import Checkpoint
from LesionDiffusionLib.training.loop import Ema, LoopOptions, Objective, optimize


def silent(_: object) -> None:
    """A report that goes nowhere."""


def test_learning_rate_warms_up_and_falls():
    options = LoopOptions(steps=1000, batch=1, learning_rate=1e-3, warmup=100)
    rates = [options.rate_at(step) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-5)
    assert max(rates) == pytest.approx(1e-3)
    assert np.all(np.diff(rates[100:]) < 0)
    assert rates[-1] < 3e-5


def test_ema_follows_the_closed_form():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(0.0)
    ema = Ema(layer, decay=0.9)
    layer.weight.data.fill_(1.0)
    wanted = 0.0
    for n in range(1, 40):
        ema.update(layer)
        factor = min(0.9, (1 + n) / (10 + n))
        wanted = factor * wanted + (1 - factor)
        assert ema.shadow["weight"].item() == pytest.approx(wanted, abs=1e-6)


def line_objective(width: int = 1) -> Objective:
    """A layer that fits a line through noisy points drawn at every step."""
    torch.manual_seed(0)
    layer = nn.Linear(width, 1)

    def draw(step: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(16, width, generator=generator)

    def losses(step: int, x: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        bent = torch.rand((), generator=generator)  # chance that is taken while the step is computed
        return {"fit": (layer(x) - 3 * x[:, :1] - 1).square().mean() + 1e-3 * bent * layer.weight.square().mean()}

    return Objective(layer, losses, draw)


def options(steps: int = 40, **changes) -> LoopOptions:
    return LoopOptions(
        **{"steps": steps, "batch": 1, "learning_rate": 0.05, "warmup": 5, "ema_decay": 0.9, "clip": 10.0, **changes}
    )


def test_the_loop_minimizes():
    seen = []
    state = optimize(line_objective(), options(400, report_every=50), seen.append)
    assert state["weight"].item() == pytest.approx(3, abs=0.05)
    assert state["bias"].item() == pytest.approx(1, abs=0.05)
    assert [report.done for report in seen] == list(range(50, 401, 50))
    assert "step 400/400" in str(seen[-1])
    assert "min left" in str(seen[-1])


def test_draws_ahead_change_no_bit():
    found = [optimize(line_objective(), options(20, workers=n), silent) for n in (0, 1, 3)]
    assert all(torch.equal(found[0][name], other[name]) for other in found[1:] for name in other)


def test_what_cannot_be_drawn_stops_the_training_at_its_step():
    objective, seen = line_objective(), []

    def draw(step, generator):
        if step == 7:
            raise DatasetError("cannot read the prepared case 7")
        return objective.draw(step, generator)

    with pytest.raises(DatasetError, match="prepared case 7"):
        optimize(dataclasses.replace(objective, draw=draw), options(report_every=1), seen.append)
    assert [report.done for report in seen] == list(range(1, 8))


def test_a_broken_loss_stops_and_names_the_last_good_checkpoint(tmp_path):
    layer = nn.Linear(1, 1)

    def losses(step, drawn, generator):
        return {"fit": layer.weight.square().sum() * (math.nan if step == 7 else 1.0)}

    with pytest.raises(TrainingError, match=r"nan at step 7; continue with --resume and a lower loop\.learning_rate"):
        optimize(Objective(layer, losses), options(), silent)
    checkpoint = Checkpoint(tmp_path / "c.pt")
    with pytest.raises(TrainingError, match=r"nan at step 7; the last good checkpoint is .*c\.pt \(step 6\)"):
        optimize(Objective(layer, losses), options(checkpoint_every=3), silent, checkpoint)
    with pytest.raises(TrainingError, match="no checkpoint had been written yet"):
        optimize(Objective(layer, losses), options(checkpoint_every=30), silent, Checkpoint(tmp_path / "d.pt"))


def test_a_broken_gradient_never_reaches_the_weights(tmp_path):
    """sqrt has an infinite slope at 0: the loss is finite, its gradient is not."""
    layer = nn.Linear(1, 1)
    with pytest.raises(TrainingError, match=r"the gradient became (nan|inf) at step 0"):
        optimize(Objective(layer, lambda s, d, g: {"x": (layer.weight * 0).abs().sqrt().sum()}), options(), silent)
    assert torch.isfinite(layer.weight).all()


def test_a_continued_training_ends_with_the_same_bits(tmp_path):
    whole = optimize(line_objective(), options(30, report_every=1), (seen := []).append)
    checkpoint = Checkpoint(tmp_path / "c.pt", {"a": 1})

    class Killed(Exception):  # noqa: N818
        pass

    def stop_at_17(report):
        if report.done == 17:
            raise Killed

    with pytest.raises(Killed):
        optimize(line_objective(), options(30, report_every=1, checkpoint_every=5), stop_at_17, checkpoint)
    assert checkpoint.load()["done"] == 15
    again = []
    state = optimize(line_objective(), options(30, report_every=1, checkpoint_every=5), again.append, checkpoint)
    assert [report.done for report in again] == list(range(16, 31))
    assert [report.losses for report in again] == [report.losses for report in seen[15:]]
    assert all(torch.equal(whole[name], state[name]) for name in whole)


def test_a_finished_training_is_not_trained_again(tmp_path):
    checkpoint = Checkpoint(tmp_path / "c.pt")
    first = optimize(line_objective(), options(6), silent, checkpoint)
    seen = []
    second = optimize(line_objective(), options(6), seen.append, checkpoint)
    assert not seen
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_continued_training_tells_the_time_of_all_its_sessions(tmp_path):
    checkpoint = Checkpoint(tmp_path / "c.pt")
    optimize(line_objective(), options(6), silent, checkpoint)
    assert 0 < checkpoint.load()["seconds"] < 1000
    checkpoint.save(checkpoint.load() | {"done": 3, "seconds": 1000.0})
    optimize(line_objective(), options(6), silent, checkpoint)
    assert 1000 < checkpoint.load()["seconds"] < 2000


def test_whoever_was_stopped_goes_on_with_a_lower_rate_and_it_is_remembered(tmp_path):
    checkpoint = Checkpoint(tmp_path / "c.pt")

    def fails_at_7(report):
        if report.done == 7:
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        optimize(line_objective(), options(12, report_every=1, checkpoint_every=3), fails_at_7, checkpoint)
    seen = []
    optimize(line_objective(), options(12, learning_rate=0.01, report_every=1), seen.append, checkpoint)
    assert [report.done for report in seen] == list(range(7, 13))
    assert max(report.learning_rate for report in seen) <= 0.01
    told = loop.history_told(checkpoint.load())["history"]
    assert [(entry["from_step"], entry["learning_rate"]) for entry in told] == [(0, 0.05), (6, 0.01)]
    optimize(line_objective(), options(6), silent, same := Checkpoint(tmp_path / "d.pt"))
    assert "history" not in loop.history_told(same.load()), "nothing changed"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate, warmup, weight_decay, preview_every and workers are not negative"),
        ({"warmup": -1}, "are not negative"),
        ({"workers": -1}, "are not negative"),
        ({"betas": (0.9, 1.0)}, r"betas and ema_decay lie in 0..1"),
        ({"ema_decay": 1.5}, r"betas and ema_decay lie in 0..1"),
    ],
)
def test_numbers_that_cannot_train_are_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        options(**changes)


def test_a_gradient_that_stays_nan_in_half_precision_stops_the_training(monkeypatch):
    """The scaler leaves out steps whose gradient overflowed; one that never does not overflow is a NaN."""
    layer, steps = torch.nn.Linear(1, 1), []

    def losses(step, drawn, generator):
        steps.append(step)
        return {"root": (0 * layer.weight).sum().sqrt()}  # 0, whose slope is 0 times infinity

    training = loop._Training(Objective(layer, losses), options(100))
    training.scaler = torch.amp.GradScaler("cpu")
    monkeypatch.setattr(loop, "_Training", lambda objective, options: training)
    with pytest.raises(TrainingError, match=r"the gradient stays infinite or NaN .* at step \d+; continue"):
        optimize(Objective(layer, losses), options(100), silent)
    assert 20 < len(steps) < 40, "an overflow is given its chance"


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    optimize(line_objective(), options(6), silent, Checkpoint(tmp_path / "c.pt", {"loop": {"seed": 1}}))
    with pytest.raises(TrainingError, match=r"other settings: loop\.seed was 1, is 2; continue"):
        optimize(line_objective(), options(6), silent, Checkpoint(tmp_path / "c.pt", {"loop": {"seed": 2}}))


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "c.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(TrainingError, match=r"cannot read the checkpoint .*c\.pt"):
        Checkpoint(tmp_path / "c.pt").load()
    assert "the last checkpoint is" in Checkpoint(tmp_path / "c.pt").last()
    (tmp_path / "c.pt").write_bytes(b"")
    with pytest.raises(TrainingError, match=r"cannot read the checkpoint .*c\.pt: EOFError; delete it"):
        Checkpoint(tmp_path / "c.pt").load()
    assert "the last checkpoint is" in Checkpoint(tmp_path / "c.pt").last()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decay": "linear"}, "decay is cosine or constant"),
        ({"precision": "fp8"}, "precision fp32, bf16, fp16"),
        ({"batch": 0}, "at least 1"),
        ({"clip": 0.0}, "clip above 0"),
    ],
)
def test_impossible_options_are_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        options(**changes)


def test_half_precision_needs_a_gpu():
    with pytest.raises(SettingsError, match="precision bf16 needs a GPU, got cpu; use precision=fp32"):
        optimize(line_objective(), options(precision="bf16"), silent)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="SKIPPED, not passed: needs a CUDA device")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_on_a_gpu(precision, tmp_path):
    objective = line_objective()
    layer = objective.module.to("cuda")

    def losses(step, drawn, generator):
        x = torch.randn(16, 1, generator=generator).to("cuda")
        return {"fit": (layer(x).float() - 3 * x - 1).square().mean()}

    checkpoint = Checkpoint(tmp_path / "c.pt")
    optimize(Objective(layer, losses), options(200, precision=precision), silent, checkpoint)
    state = optimize(Objective(layer, losses), options(300, precision=precision), silent, checkpoint)
    assert state["weight"].item() == pytest.approx(3, abs=0.1)


def test_previews_see_the_averaged_weights_and_change_nothing():
    objective, seen = line_objective(), []
    shown = dataclasses.replace(objective, preview=lambda step: seen.append((step, objective.module.weight.item())))
    state = optimize(shown, options(9, preview_every=3), silent)
    assert [step for step, _ in seen] == [3, 6, 9]
    assert seen[-1][1] == state["weight"].item()
    assert objective.module.weight.item() != state["weight"].item(), "the averaged weights lag behind"
    plain = optimize(line_objective(), options(9), silent)
    assert torch.equal(plain["weight"], state["weight"])


CHILD = """
import sys
import torch
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_training_loop import line_objective, options
from LesionDiffusionLib.training import monitor, ranks
from LesionDiffusionLib.training.checkpoint import Checkpoint
from LesionDiffusionLib.training.loop import optimize
torch.set_num_threads(1)
steps, path = int(sys.argv[2]), Path(sys.argv[3])
state = optimize(
    line_objective(2000), options(steps, checkpoint_every=1, report_every=1), lambda r: print(r.done, flush=True),
    Checkpoint(path),
)
torch.save(state, path.with_name("result.pt"))
"""


def child(steps: int, path: Path, before: str = "") -> subprocess.Popen:
    command = [sys.executable, "-c", before + CHILD, str(Path(__file__).parent), str(steps), str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="SKIPPED, not passed: needs POSIX signals")
def test_kill_9_at_any_moment_loses_at_most_the_steps_since_the_checkpoint(tmp_path):
    """Killed several times at random moments, writing a checkpoint at every step, then left to end: the same bits."""
    steps, chance = 60, np.random.default_rng(3)
    wanted = optimize(line_objective(2000), options(steps), silent)
    for _ in range(3):
        process = child(steps, tmp_path / "c.pt")
        process.stdout.readline()  # the first step is done
        time.sleep(chance.uniform(0, 0.08))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert Checkpoint(tmp_path / "c.pt").load()["done"] < steps, "was killed before the end"
    process = child(steps, tmp_path / "c.pt")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    state = torch.load(tmp_path / "result.pt", weights_only=True)
    assert all(torch.equal(wanted[name], state[name]) for name in wanted)


@pytest.mark.skipif(os.name == "nt", reason="SKIPPED, not passed: needs POSIX resource limits")
def test_a_full_disk_keeps_the_last_checkpoint(tmp_path):
    """The process may write no file larger than a few kB, which is what a full disk feels like to it."""
    optimize(line_objective(2000), options(5), silent, Checkpoint(tmp_path / "c.pt"))
    kept = (tmp_path / "c.pt").read_bytes()
    limit = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    )
    process = child(10, tmp_path / "c.pt", limit)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "OutputError: could not write the checkpoint of step 6" in errors
    assert f"the last good checkpoint is {tmp_path / 'c.pt'} (step 5); make room" in errors
    assert (tmp_path / "c.pt").read_bytes() == kept
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"], "nothing half-written stays"


def test_a_disk_that_fills_up_while_events_are_written_is_told(tmp_path, monkeypatch):
    class Full:
        def add_scalar(self, *_):
            raise OSError(errno.ENOSPC, "No space left on device")

        close = add_scalar

    monkeypatch.setattr(monitor, "_summary_writer", lambda *_: Full())
    told = "could not write TensorBoard events .*No space left on device; make room"
    with pytest.raises(OutputError, match=told), monitor.Monitor(tmp_path, 10) as watching:
        optimize(line_objective(), options(10), watching)
    with pytest.raises(KeyError), monitor.Monitor(tmp_path, 10):
        raise KeyError("and why a training stopped is not hidden")


def test_processes_at_different_steps_do_not_train_on(monkeypatch):
    monkeypatch.setattr(ranks, "gathered", lambda step: torch.cat([step, step + 5]))
    with pytest.raises(TrainingError, match="different steps: 0, 5; expected one --out that all of them see"):
        optimize(line_objective(), options(10), silent)


def test_a_checkpoint_folder_that_is_gone_is_told(tmp_path):
    with pytest.raises(OutputError, match="could not write the checkpoint of step 5"):
        optimize(line_objective(), options(5), silent, Checkpoint(tmp_path / "gone" / "c.pt"))
