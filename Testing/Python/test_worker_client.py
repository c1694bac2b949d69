"""The window's end of the worker, with made-up processes: what it tells, and that nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from LesionDiffusionLib import worker_client
from LesionDiffusionLib.errors import VolumeError
from LesionDiffusionLib.shared_arrays import attach, share
from LesionDiffusionLib.worker_client import CANCEL_PATIENCE_S, Event, WorkerClient, _WholeSession, start_worker

PREAMBLE = """
import json, os, signal, sys, time

def say(**message):
    sys.stdout.write(json.dumps(message) + chr(10))
    sys.stdout.flush()

def requests():
    for line in sys.stdin:
        yield json.loads(line)
"""


def made_up(script: str):
    """Starts a process that runs a few lines instead of the worker."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    code = PREAMBLE + textwrap.dedent(script)
    return lambda: _WholeSession([sys.executable, "-u", "-c", code], start_new_session=True, **pipes)


@pytest.fixture
def clients():
    made = []

    def make(script, **kwargs):
        made.append(WorkerClient(made_up(script), **kwargs))
        return made[-1]

    yield make
    for client in made:
        client.stop()


def until(client: WorkerClient, wanted: str, within_s: float = 20.0) -> list[Event]:
    """Poll like the window's timer until an event comes."""
    events, end = [], time.monotonic() + within_s
    while time.monotonic() < end:
        events += client.poll()
        if any(event.name == wanted for event in events):
            return events
        time.sleep(0.01)
    raise AssertionError(f"no {wanted} within {within_s} s, only {events}")


def test_a_job(clients):
    client = clients(
        """
        say(event="ready", id=None, devices=[])
        for request in requests():
            say(event="progress", id=request["id"], stage=request["do"], step=1, total=1)
            say(event="result", id=request["id"], answer=request["x"] + 1)
        """
    )
    assert not client.running
    first, second = client.send("add", x=1), client.send("add", x=5)
    assert client.running
    assert client.busy
    heard = []
    assert client.wait(second, heard.append).content == {"answer": 6}
    assert [(e.name, e.id) for e in heard] == [
        ("ready", None), ("progress", first), ("result", first), ("progress", second), ("result", second)
    ]  # fmt: skip
    assert not client.busy


@pytest.mark.timeout(60)
def test_ends_that_are_heard_together_are_both_delivered(clients):
    client = clients(
        """
        asked = requests()
        ids = [next(asked)["id"], next(asked)["id"]]
        sys.stdout.write("".join(json.dumps({"event": "result", "id": n}) + chr(10) for n in ids))
        sys.stdout.flush()
        next(asked)
        """
    )
    first, second = client.send("a"), client.send("b")
    time.sleep(1.0)  # both lines are there before anybody listens
    assert client.wait(first).id == first
    assert client.wait(second).id == second


def test_garbage_on_both_pipes_is_log(clients):
    client = clients(
        r"""
        sys.stdout.buffer.write(b"Loading something...\n\xff\xfe\n{not json}\n[1]\n" + b"x" * 200_000 + b"\n")
        sys.stdout.flush()
        print("a warning", file=sys.stderr)
        for request in requests():
            sys.stdout.write('{"event": "res'); sys.stdout.flush()
            time.sleep(0.05)
            sys.stdout.write('ult", "id": %d}' % request["id"] + chr(10)); sys.stdout.flush()
        """
    )
    heard = []
    assert client.wait(client.send("anything"), heard.append).name == "result"
    heard += client.poll(0.3)
    log = [event.content["text"] for event in heard if event.name == "log"]
    assert {"Loading something...", "{not json}", "[1]", "a warning"} <= set(log)


def test_a_killed_worker_is_told_with_its_last_words_and_started_again(clients):
    client = clients(
        """
        for request in requests():
            if request["do"] == "die":
                print("allocating a lot", file=sys.stderr, flush=True)
                time.sleep(0.3)
                os.kill(os.getpid(), signal.SIGKILL)
            say(event="result", id=request["id"])
        """
    )
    block = share((4, 4, 4), np.int16)
    address = block.address
    number = client.send("die", [block])
    gone = client.wait(number)
    assert (gone.name, gone.id) == ("gone", number)
    assert "SIGKILL" in gone.content["message"]
    assert "ran out of memory" in gone.content["message"]
    assert gone.content["log"] == ["allocating a lot"]
    with pytest.raises(VolumeError, match="is gone"):
        attach(address)
    assert not client.running
    assert client.wait(client.send("live")).name == "result"


def test_a_worker_that_dies_between_jobs(clients):
    client = clients("time.sleep(0.2); sys.exit(7)")
    client._begin()
    (event,) = [e for e in until(client, "gone") if e.name == "gone"]
    assert event.id is None
    assert "exit code 7" in event.content["message"]
    assert not client.running


def test_a_missing_library_is_the_reason(clients):
    client = clients(
        """
        say(event="error", id=None, kind="MissingLibrary", message="a Python package is missing: No module named torch")
        sys.exit(3)
        """
    )
    gone = client.wait(client.send("synthesize"))
    assert gone.name == "gone"
    assert gone.content["message"] == "a Python package is missing: No module named torch"


def test_cancel_is_sent(clients):
    client = clients(
        """
        running = None
        for request in requests():
            if request["do"] == "cancel":
                say(event="cancelled", id=request["id"])
            else:
                say(event="progress", id=request["id"], stage="mask", step=1, total=9)
        """
    )
    number = client.send("synthesize")
    until(client, "progress")
    client.cancel(number)
    client.cancel(number)
    assert client.wait(number).name == "cancelled"
    assert client.running
    client.cancel(number)  # too late, and no harm
    assert not client.busy


def test_a_worker_that_does_not_stop_is_killed(clients):
    now = [0.0]
    client = clients(
        """
        for request in requests():
            say(event="progress", id=request["id"], stage="load", step=0, total=1)
            time.sleep(600)
        """,
        clock=lambda: now[0],
    )
    number = client.send("synthesize")
    until(client, "progress")
    client.cancel(number)
    now[0] += CANCEL_PATIENCE_S - 1
    assert client.poll() == []
    now[0] += 2
    assert client.wait(number).name == "cancelled", "it was asked for: that is no accident"
    assert not client.running


def test_patience_begins_when_a_job_s_turn_comes(clients):
    now = [0.0]
    client = clients(
        """
        waiting = []
        for request in requests():
            if request["do"] == "go on":
                say(event="result", id=waiting.pop(0))
                say(event="result", id=request["id"])
            elif request["do"] != "cancel":
                waiting.append(request["id"])
                say(event="progress", id=request["id"], stage="mask", step=1, total=9)
        """,
        clock=lambda: now[0],
    )
    first, second = client.send("long"), client.send("short")
    until(client, "progress")
    client.cancel(second)
    now[0] += CANCEL_PATIENCE_S + 1
    client.poll(0.3)
    assert client.running
    client.send("go on")
    client.wait(first)
    client.poll(0.3)
    assert client.running
    now[0] += CANCEL_PATIENCE_S + 1
    assert client.wait(second).name == "cancelled"
    assert not client.running


@pytest.mark.parametrize("manners", ["for request in requests(): pass", "time.sleep(600)"], ids=["polite", "deaf"])
def test_stop_leaves_nothing(clients, manners):
    client = clients(f"say(event='ready', id=None)\n{manners}")
    block = share((4, 4, 4), np.int16)
    address = block.address
    client.send("anything", [block])
    until(client, "ready")
    process = client._process
    client.stop()
    assert process.poll() is not None
    assert not client.running
    assert not client.busy
    assert client.poll() == []
    with pytest.raises(VolumeError, match="is gone"):
        attach(address)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
def test_the_python_below_a_launcher_is_killed_too(clients, tmp_path):
    told = tmp_path / "pid"
    client = clients(
        f"""
        import subprocess
        code = "import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
        sys.exit(subprocess.call([sys.executable, "-c", code]))
        """
    )
    number = client.send("anything")
    while not (told.exists() and told.read_text()):
        time.sleep(0.02)
    client.kill()
    assert client.wait(number).name == "gone"
    assert not runs(int(told.read_text()))


def runs(pid: int) -> bool:
    """Whether a process is still there after a moment."""
    for _ in range(100):
        status = Path(f"/proc/{pid}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return False
        time.sleep(0.02)
    return True


def test_memory_is_freed_when_nothing_can_be_started():
    def nothing():
        raise FileNotFoundError("no PythonSlicer")

    block = share((4, 4, 4), np.int16)
    address = block.address
    client = WorkerClient(nothing)
    with pytest.raises(FileNotFoundError, match="PythonSlicer"):
        client.send("anything", [block])
    with pytest.raises(VolumeError, match="is gone"):
        attach(address)
    assert not client.busy


def test_slicer_s_python_is_preferred(monkeypatch, tmp_path):
    assert worker_client.python_for_worker() == sys.executable
    monkeypatch.setattr(worker_client.shutil, "which", lambda name: f"/slicer/bin/{name}")
    assert worker_client.python_for_worker() == "/slicer/bin/PythonSlicer"


def test_a_python_without_torch_says_so(tmp_path):
    """The real worker, in a Python in which no import of torch can succeed."""
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')")

    def start():
        os.environ["PYTHONPATH"] = str(tmp_path)
        try:
            return start_worker(sys.executable)
        finally:
            del os.environ["PYTHONPATH"]

    client = WorkerClient(start)
    gone = client.wait(client.send("devices"))
    assert gone.content["message"].startswith("a Python package is missing")
    assert gone.content["code"] == 3
