"""The worker's jobs, called directly with fake networks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import make_geometry
from patients import fake_models, make_patient
from test_synthesis import CYST
from worker_requests import lend, patient_request

from LesionDiffusionLib import worker_jobs
from LesionDiffusionLib.errors import Cancelled, OutputError, SettingsError
from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.io import read_ct, read_mask, write_labels
from LesionDiffusionLib.lesion_patch import LesionPatch
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.run import Settings
from LesionDiffusionLib.synthesis import synthesize
from LesionDiffusionLib.wish import Wish
from LesionDiffusionLib.worker_jobs import JOBS, Jobs
from LesionDiffusionLib.worker_protocol import Order


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    loaded = []

    def load(bundle, device):
        loaded.append((bundle, str(device)))
        return fake_models(tmp_path)

    monkeypatch.setattr(worker_jobs, "open_bundle", lambda name: name)
    monkeypatch.setattr(worker_jobs, "load_models", load)
    jobs = Jobs()
    jobs.loaded = loaded
    return jobs


class Heard:
    """What a job says."""

    def __init__(self):
        self.events = []

    def __call__(self, event, **content):
        self.events.append((event, json.loads(json.dumps(content))))

    def all(self, event):
        return [content for name, content in self.events if name == event]


def never():
    return False


def run(jobs, name, patient, order, say=None, should_stop=never):
    blocks, content = patient_request(*patient, order)
    try:
        return getattr(jobs, name)(content, say or Heard(), should_stop)
    finally:
        for block in blocks:
            block.close()


def test_every_job_exists(jobs):
    assert all(callable(getattr(jobs, name)) for name in JOBS)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_the_same_lesion_as_without_a_worker(jobs, tmp_path, dtype):
    patient, heard = make_patient(dtype=dtype), Heard()
    settings = {"seed": 4, "candidates": 2}
    result = run(jobs, "synthesize", patient, Order(CYST, settings=settings), heard)
    expected = synthesize(*patient, Wish(CYST), bundle=fake_models(tmp_path), settings=Settings(**settings))
    patches = [LesionPatch.from_json(told["patch"]) for told in heard.all("preview")]
    assert len(patches) == result["candidates"] == 2
    case = patches[result["best"]].case(patient[0])
    assert np.array_equal(case.ct.array, expected.ct.array)
    assert np.array_equal(case.mask.array, expected.mask.array)
    assert case.report == expected.report
    assert heard.all("preview")[0]["histogram"]["edges_hu"]
    stages = [told["stage"] for told in heard.all("progress")]
    assert list(dict.fromkeys(stages)) == [
        "load", "plan", "mask", "encode", "inpaint", "decode", "blend", "measure"
    ]  # fmt: skip


def test_networks_are_kept_until_others_are_asked_for(jobs):
    patient = make_patient()
    for bundle, device in [("a", "cpu"), ("a", "auto"), ("b", "cpu"), ("b", "cpu")]:
        run(jobs, "synthesize", patient, Order(CYST, bundle=bundle, device=device))
    assert jobs.loaded == [("a", "cpu"), ("b", "cpu")]
    jobs.forget_models()
    run(jobs, "synthesize", patient, Order(CYST, bundle="b"))
    assert len(jobs.loaded) == 3


def test_the_place_that_is_shown_is_the_place_that_is_used(jobs):
    patient, heard = make_patient(), Heard()
    order = Order(LesionReport(lesion_type="liver cyst"), settings={"seed": 11})
    place = run(jobs, "place", patient, order)
    run(jobs, "synthesize", patient, order, heard)
    patch = LesionPatch.from_json(heard.all("preview")[0]["patch"])
    assert str(patch.box) == place["box"]
    assert patch.report == LesionReport.from_json(place["report"])


def test_a_mask_drawn_by_hand(jobs):
    ct, organs = make_patient()
    heard = Heard()
    box = Box((18, 20, 20), (30, 30, 28))
    lesion = np.ones(box.shape, bool)
    lesion[0, 0] = False
    run(jobs, "synthesize", (ct, organs), Order(CYST, lesion=(box, lesion)), heard)
    patch = LesionPatch.from_json(heard.all("preview")[0]["patch"])
    assert patch.lesion_box == box
    assert np.array_equal(patch.lesion, lesion)


def test_the_ct_of_the_window_is_never_written(jobs):
    ct, organs = make_patient(dtype=np.int16)
    blocks, content = patient_request(ct, organs, Order(CYST))
    jobs.synthesize(content, Heard(), never)
    assert np.array_equal(blocks[0].array, ct.array)
    for block in blocks:
        block.close()


def test_a_cancel_is_heard_at_every_stage(jobs):
    patient, order, heard = make_patient(), Order(CYST, settings={"steps": 4}), Heard()
    run(jobs, "synthesize", patient, order, heard)
    measured = [told.get("stage") for _, told in heard.events].index("measure")
    assert measured > 12
    for moment in range(measured):
        jobs.forget_models()
        heard = Heard()
        with pytest.raises(Cancelled):
            run(jobs, "synthesize", patient, order, heard, lambda h=heard, m=moment: len(h.events) > m)
        assert len(heard.events) <= moment + 2, "at most one more step"
        assert not heard.all("preview")


def test_impossible_settings(jobs):
    with pytest.raises(SettingsError, match="steps must lie"):
        run(jobs, "synthesize", make_patient(), Order(CYST, settings={"steps": 0}))


@pytest.fixture
def patch(jobs):
    heard = Heard()
    run(jobs, "synthesize", make_patient(dtype=np.int16), Order(CYST), heard)
    return heard.all("preview")[0]["patch"]


def save(jobs, ct, patch, folder, source="", force=False):
    block, told = lend(ct)
    content = {"before": told, "patch": patch, "source": str(source), "folder": str(folder), "force": force}
    with block:
        return jobs.save(content, Heard(), never)


def test_a_case_is_saved_as_by_the_command_line(jobs, patch, tmp_path):
    ct, _ = make_patient(dtype=np.int16)
    save(jobs, ct, patch, tmp_path / "case")
    assert {p.name for p in (tmp_path / "case").iterdir()} == {
        "ct.nii.gz", "lesion.nii.gz", "report.json", "provenance.json", "preview.png"
    }  # fmt: skip
    expected = LesionPatch.from_json(patch).case(ct)
    written = read_ct(tmp_path / "case" / "ct.nii.gz")
    assert written.dtype == np.int16
    assert np.array_equal(written.volume.array, expected.ct.array)
    assert np.array_equal(read_mask(tmp_path / "case" / "lesion.nii.gz").array, expected.mask.array)
    provenance = json.loads((tmp_path / "case" / "provenance.json").read_text())
    assert provenance["synthetic"]
    assert provenance["voxels_changed_outside"] == 0
    with pytest.raises(OutputError, match="not empty"):
        save(jobs, ct, patch, tmp_path / "case")
    save(jobs, ct, patch, tmp_path / "case", force=True)


@pytest.mark.parametrize("state", ["unchanged", "changed", "moved", "unreadable", "gone"])
def test_the_user_s_own_header_is_kept_while_the_file_is_the_same(jobs, patch, tmp_path, state):
    ct, _ = make_patient(dtype=np.int16)
    source = tmp_path / "scan.nii"
    on_disk, grid = ct.array.copy(), ct.geometry
    if state == "changed":
        on_disk[0, 0, 0] += 1
    if state == "moved":
        grid = make_geometry(ct.array.shape, (2, 2, 2))
    write_labels(on_disk, grid, source)
    if state == "unreadable":
        source.write_bytes(b"something else")
    if state == "gone":
        source.unlink()
    save(jobs, ct, patch, tmp_path / "case", source)
    names = {p.name for p in (tmp_path / "case").iterdir()}
    assert ("ct.nii" in names) == (state == "unchanged")


def test_devices_are_told(jobs):
    told = jobs.devices({}, Heard(), never)["devices"]
    assert told[0]["name"] == "cpu"
    assert set(told[0]) == {"name", "description", "free_mib", "total_mib"}


def test_the_memory_of_gpus_is_asked_for_only_when_somebody_wants_it(jobs, monkeypatch):
    """A GPU whose driver fails is told like the others; asking any takes memory of it."""
    asked = []

    def broken(device):
        asked.append(device)
        raise RuntimeError("CUDA error: unknown error")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", broken)
    expected = {"name": "cuda:0", "description": "a GPU", "free_mib": None, "total_mib": None}
    assert worker_jobs.devices(ask_memory=False)[1] == expected
    assert asked == []
    assert jobs.devices({}, Heard(), never)["devices"][1] == expected
    assert len(asked) == 1
