"""A lesion without its CT: packing, unpacking, and back into the CT."""

from __future__ import annotations

import json

import numpy as np
import pytest
from patients import fake_models, make_patient
from test_synthesis import CYST

from LesionDiffusionLib.errors import VolumeError
from LesionDiffusionLib.histogram import BINS, lesion_histogram
from LesionDiffusionLib.lesion_patch import LesionPatch, pack, unpack
from LesionDiffusionLib.run import Settings
from LesionDiffusionLib.synthesis import synthesize
from LesionDiffusionLib.wish import Wish


@pytest.fixture(scope="module")
def patient():
    return make_patient(dtype=np.int16)


@pytest.fixture(scope="module")
def case(patient, tmp_path_factory):
    models = fake_models(tmp_path_factory.mktemp("models"))
    return synthesize(*patient, Wish(CYST), bundle=models, settings=Settings(seed=3))


@pytest.mark.parametrize("dtype", ["int16", "uint8", "float32", "float64", "bool", ">i2"])
def test_arrays_survive_as_text(generator, dtype):
    array = (generator.normal(size=(5, 3, 7)) * 100).astype(dtype)
    again = unpack(json.loads(json.dumps(pack(array))), array.shape)
    assert again.dtype == array.dtype
    assert np.array_equal(again, array)


@pytest.mark.parametrize(
    "damage",
    [{"data": "no base64!"}, {"data": "AAAA"}, {"dtype": "nonsense"}, {"dtype": "<i4"}],
    ids=["text", "compression", "type", "size"],
)
def test_damaged_arrays_are_refused(damage):
    packed = pack(np.ones((2, 2, 3), np.int16)) | damage
    with pytest.raises(VolumeError, match=r"shape \(2, 2, 3\), got damaged data"):
        unpack(packed, (2, 2, 3))


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(VolumeError, match="damaged"):
        unpack(pack(np.ones((2, 2, 2), bool)), (4, 4, 4))


def test_a_case_survives_the_way_through_json(case, patient):
    patch = LesionPatch.from_json(json.loads(json.dumps(LesionPatch.of(case).to_json())))
    again = patch.case(patient[0])
    assert np.array_equal(again.ct.array, case.ct.array)
    assert again.ct.array.dtype == np.int16
    assert np.array_equal(again.mask.array, case.mask.array)
    assert again.report == case.report
    assert again.measurements == case.measurements
    assert again.provenance == json.loads(json.dumps(case.provenance))
    assert (again.box, again.warnings) == (case.box, case.warnings)
    assert patch.share_fitting == case.share_fitting


def test_the_histogram_tells_lesion_from_organ(case, patient):
    told = lesion_histogram(case, patient[1].mask("liver"))
    assert len(told["edges_hu"]) == BINS + 1
    middles = np.add(told["edges_hu"][1:], told["edges_hu"][:-1]) / 2
    mean_hu = {name: np.dot(middles, told[name]) / sum(told[name]) for name in told if name != "edges_hu"}
    assert mean_hu["organ around"] == pytest.approx(60, abs=6)
    assert mean_hu["lesion before"] == pytest.approx(60, abs=6)
    assert mean_hu["lesion after"] < 45, "hypodense"
    assert json.dumps(told)


def test_the_histogram_of_a_lesion_outside_every_organ(case):
    told = lesion_histogram(case, np.zeros_like(case.mask.array))
    assert sum(told["organ around"]) == 0
