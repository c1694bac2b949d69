"""The real worker process with a bundle of tiny random networks: a job, a cancel, a full memory, a dead window."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from patients import make_patient, tiny_bundle
from test_synthesis import CYST
from worker_requests import patient_request

from LesionDiffusionLib.lesion_patch import LesionPatch
from LesionDiffusionLib.run import Settings
from LesionDiffusionLib.synthesis import synthesize
from LesionDiffusionLib.wish import Wish
from LesionDiffusionLib.worker_client import WorkerClient
from LesionDiffusionLib.worker_protocol import Order


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> str:
    return str(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny").folder)


@pytest.fixture(scope="module")
def client():
    client = WorkerClient()
    yield client
    client.stop()


def order(bundle, **settings) -> Order:
    return Order(CYST, settings={"seed": 2, **settings}, bundle=bundle, device="cpu")


def ask(client, patient, wanted: Order) -> int:
    blocks, content = patient_request(*patient, wanted)
    return client.send("synthesize", blocks, **content)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_lesion_made_by_the_worker_is_bit_identical(client, bundle, dtype):
    patient, heard = make_patient(dtype=dtype), []
    result = client.wait(ask(client, patient, order(bundle)), heard.append)
    assert result.name == "result", result
    (patch,) = [LesionPatch.from_json(e.content["patch"]) for e in heard if e.name == "preview"]
    expected = synthesize(*patient, Wish(CYST), bundle=bundle, settings=Settings(seed=2), device="cpu")
    assert np.array_equal(patch.case(patient[0]).ct.array, expected.ct.array)
    steps = [e.content["step"] for e in heard if e.name == "progress" and e.content["stage"] == "inpaint"]
    assert steps == [0, 1, 2, 3]


def test_it_says_what_it_is(bundle):
    client, heard = WorkerClient(), []
    try:
        client.wait(client.send("devices"), heard.append)
    finally:
        client.stop()
    ready = heard[0]
    assert ready.name == "ready"
    assert ready.content["devices"][0]["name"] == "cpu"
    assert ready.content["version"]


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        ({"bundle": "no such"}, "BundleError", "no such"),
        ({"device": "cuda:17"}, "DeviceError", "cuda:17"),
        ({"settings": {"steps": -1}}, "SettingsError", "steps"),
        ({"settings": {"nonsense": 1}}, "bug", "nonsense"),
    ],
)
def test_errors_are_told_in_one_line(client, bundle, spoil, kind, message):
    blocks, content = patient_request(*make_patient(), order(bundle))
    content["order"] |= spoil
    event = client.wait(client.send("synthesize", blocks, **content))
    assert (event.name, event.content["kind"]) == ("error", kind)
    assert message in event.content["message"]
    assert "\n" not in event.content["message"]
    assert ("Traceback" in event.content.get("trace", "")) == (kind == "bug")


def test_an_unknown_job_is_an_error(client):
    event = client.wait(client.send("make coffee"))
    assert event.content["kind"] == "bug"
    assert "make coffee" in event.content["message"]


@pytest.mark.parametrize("stage", ["plan", "mask", "encode", "inpaint", "decode", "measure"])
def test_cancel_at_each_stage(client, bundle, stage):
    number = ask(client, make_patient(), order(bundle, steps=20))

    def told(event):
        if event.name == "progress" and event.content["stage"] == stage:
            client.cancel(number)

    event = client.wait(number, told)
    # Nothing is asked any more once the last stage has begun: the job is done before a cancel can arrive.
    assert event.name == "cancelled" or (stage in ("decode", "measure") and event.name == "result")
    assert client.running, "a cancel is no kill"


def test_cancel_within_one_step(client, bundle):
    number, heard = ask(client, make_patient(), order(bundle, steps=400, sampler="ddim")), []

    def told(event):
        heard.append((event, time.monotonic()))
        if event.name == "progress" and event.content == {"stage": "mask", "step": 10, "total": 400}:
            client.cancel(number)

    assert client.wait(number, told).name == "cancelled"
    steps = [e.content["step"] for e, _ in heard if e.name == "progress" and e.content["stage"] == "mask"]
    seconds_a_step = (heard[-1][1] - heard[0][1]) / len(steps)
    assert steps[-1] <= 12 + 1.0 / max(seconds_a_step, 1e-3), "the way of the message, and one step"


def test_what_libraries_print_is_log(tmp_path, bundle):
    """Also what C libraries and child processes print to descriptor 1."""
    script = (
        "import os, sys; from LesionDiffusionLib import worker, worker_jobs\n"
        "real = worker_jobs.Jobs.devices\n"
        "def noisy(self, *args):\n"
        "    print('from python'); os.write(1, b'from C\\n'); os.system('echo from a child'); os.read(0, 1)\n"
        "    return real(self, *args)\n"
        "worker_jobs.Jobs.devices = noisy\n"
        "sys.exit(worker.main())"
    )
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    client, heard = WorkerClient(lambda: subprocess.Popen([sys.executable, "-u", "-c", script], **pipes)), []
    assert client.wait(client.send("devices"), heard.append).name == "result"
    heard += client.poll(0.5)
    client.stop()
    log = {event.content["text"] for event in heard if event.name == "log"}
    assert {"from python", "from C", "from a child"} <= log


def test_full_memory_is_told_and_the_worker_lives(bundle):
    script = (
        "import sys, torch; from LesionDiffusionLib import worker, worker_jobs\n"
        "from LesionDiffusionLib.networks.unet import UNet3D\n"
        "real, calls = UNet3D.forward, []\n"
        "def full(self, *args, **kwargs):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 3: raise torch.OutOfMemoryError('CUDA out of memory')\n"
        "    return real(self, *args, **kwargs)\n"
        "UNet3D.forward = full\n"
        "sys.exit(worker.main())"
    )
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    client = WorkerClient(lambda: subprocess.Popen([sys.executable, "-u", "-c", script], **pipes))
    try:
        event = client.wait(ask(client, make_patient(), order(bundle)))
        assert (event.name, event.content["kind"]) == ("error", "DeviceError")
        assert "out of memory" in event.content["message"]
        heard = []
        assert client.wait(ask(client, make_patient(), order(bundle)), heard.append).name == "result"
        assert "load" in [e.content.get("stage") for e in heard], "the networks were let go, to free memory"
    finally:
        client.stop()


WINDOW = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import patients, worker_requests
from LesionDiffusionLib.worker_client import WorkerClient
from LesionDiffusionLib.worker_protocol import Order
from test_synthesis import CYST
client = WorkerClient()
order = Order(CYST, settings={"steps": 900, "sampler": "ddim"}, bundle=sys.argv[2], device="cpu")
blocks, content = worker_requests.patient_request(*patients.make_patient(), order)
client.send("synthesize", blocks, **content)
while True:
    for event in client.poll(0.1):
        if event.name == "progress" and event.content["stage"] == "mask" and event.content["step"] > 2:
            print(json.dumps([client._process.pid, blocks[0].address.name]), flush=True)
            time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
def test_a_killed_window_leaves_no_worker(bundle):
    here = str(Path(__file__).parent)
    window = subprocess.Popen([sys.executable, "-c", WINDOW, here, bundle], stdout=subprocess.PIPE)
    worker, name = json.loads(window.stdout.readline())
    assert Path(f"/proc/{worker}").exists()
    window.send_signal(signal.SIGKILL)
    window.wait()
    end = time.monotonic() + 20
    while _runs(worker):
        assert time.monotonic() < end, "the worker outlived its window"
        time.sleep(0.05)
    assert not os.path.exists(name), "its memory is free"


def _runs(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_two_requests_wait_for_each_other(client, bundle):
    numbers = [ask(client, make_patient(), order(bundle, seed=seed)) for seed in (1, 2)]
    client.cancel(numbers[1])
    assert client.wait(numbers[0]).name == "result"
    assert client.wait(numbers[1]).name == "cancelled"


def test_a_shared_volume_that_is_gone(client, bundle):
    blocks, content = patient_request(*make_patient(), order(bundle))
    for block in blocks:
        block.close()
    event = client.wait(client.send("synthesize", (), **content))
    assert event.content["kind"] == "VolumeError"
