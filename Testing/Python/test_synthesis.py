"""The main job with fake networks: geometry, seams, seeds, cancel, errors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import make_geometry
from patients import LIVER_HU, fake_models, make_patient
from scipy.spatial import cKDTree

from LesionDiffusionLib.errors import Cancelled, DeviceError, GeometryError, PlacementError, ReportError, VolumeError
from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.labels import OrganMap
from LesionDiffusionLib.measured_report import measured_enhancement
from LesionDiffusionLib.meters import median_hu
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.run import Progress, Settings
from LesionDiffusionLib.synthesis import synthesize
from LesionDiffusionLib.volume import Volume
from LesionDiffusionLib.wish import Wish

CYST = LesionReport(lesion_type="liver cyst", size_mm=(24.0, 24.0, 24.0), density="hypodense lesion")
GRIDS = {
    "LPS": make_geometry((48, 44, 40), (2.0, 2.2, 2.5), np.diag([-1.0, -1.0, 1.0])),
    "flipped and permuted, odd sizes": make_geometry(
        (41, 47, 45), (2.5, 2.0, 2.2), [[0, 1.0, 0], [0, 0, -1.0], [1.0, 0, 0]], origin_ras=(40, -80, 900)
    ),
    "oblique": make_geometry((48, 44, 40), (2.0, 2.2, 2.5), np.diag([-1.0, -1.0, 1.0]), degrees_xyz=(12, -8, 15)),
    "thick slices": make_geometry((60, 60, 17), (1.5, 1.5, 6.0), np.diag([-1.0, -1.0, 1.0])),
    "1 mm": make_geometry((70, 64, 60), (1.0, 1.0, 1.0)),
}


@pytest.fixture
def models(tmp_path):
    return fake_models(tmp_path)


def distance_mm(mask, spacing_mm, points):
    """Distance of voxels ``points`` (N, 3) to the nearest voxel of ``mask``, without a distance transform."""
    return cKDTree(np.argwhere(mask) * spacing_mm).query(points * np.asarray(spacing_mm))[0]


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_only_the_lesions_neighborhood_changes(models, grid, dtype):
    ct, organs = make_patient(grid, dtype=dtype)
    before = ct.array.copy()
    case = synthesize(ct, organs, Wish(CYST), bundle=models, settings=Settings(seed=1))
    assert np.array_equal(ct.array, before), "the input is never written"
    assert case.ct.array.dtype == dtype
    assert case.ct.geometry is ct.geometry
    mask = case.mask.array
    assert organs.mask("liver")[mask].all(), "inside its region"
    assert Box.bounding(mask).size_mm(grid) == pytest.approx((24, 24, 24), abs=2 * max(grid.spacing_mm))
    changed = np.argwhere(case.ct.array != before)
    assert distance_mm(mask, grid.spacing_mm, changed).max() < case.provenance["neighborhood_mm"]
    assert len(changed) == case.provenance["voxels_changed"] >= mask.sum() / 2
    assert case.provenance["max_abs_change_outside_hu"] == 0
    assert case.provenance["voxels_changed_outside"] == 0
    lesion_hu, organ_hu = median_hu(case.ct.array, mask), median_hu(before, organs.mask("liver"))
    assert lesion_hu == pytest.approx(organ_hu - 40, abs=8), "0.53 in network units is 20 HU"
    assert case.ct.array[mask].std() > 4, "the scan's noise stays on top of the lesion"


def test_same_seed_same_case_other_seed_other_case(models):
    ct, organs = make_patient()
    cases = [synthesize(ct, organs, Wish(CYST), bundle=models, settings=Settings(seed=s)) for s in (5, 5, 6)]
    assert np.array_equal(cases[0].ct.array, cases[1].ct.array)
    assert np.array_equal(cases[0].mask.array, cases[1].mask.array)
    assert cases[0].report == cases[1].report
    assert not np.array_equal(cases[0].mask.array, cases[2].mask.array)


def test_a_word_changes_the_density_and_not_the_place(models):
    ct, organs = make_patient()
    densities = ("hypodense lesion", "isodense lesion", "hyperdense lesion")
    cases = [
        synthesize(ct, organs, Wish(dataclasses.replace(CYST, density=d)), bundle=models, settings=Settings(seed=2))
        for d in densities
    ]
    assert len({case.box for case in cases}) == 1
    assert all(np.array_equal(case.mask.array, cases[0].mask.array) for case in cases)
    values = [median_hu(case.ct.array, case.mask.array) for case in cases]
    assert values[0] < values[1] - 20 < values[2] - 40
    fits = {m.attribute: m.fits for m in cases[0].measurements}
    assert fits["density"] is True
    assert fits["size"] is True


def test_a_mask_given_by_hand_is_used_as_it_is(models):
    ct, organs = make_patient()
    mask = np.zeros(ct.array.shape, bool)
    mask[20:28, 18:26, 26:32] = True
    mask[20, 18, 26] = False
    case = synthesize(ct, organs, Wish(CYST_ANY_SIZE, mask=mask), bundle=models)
    assert np.array_equal(case.mask.array, mask)
    assert case.box == Box.bounding(mask)
    assert "mask" not in case.provenance["seconds"], "LMNet was not asked"


CYST_ANY_SIZE = LesionReport(lesion_type="liver cyst")


def test_a_users_box_and_center_win(models):
    ct, organs = make_patient()
    box = Box((18, 16, 24), (28, 24, 32))
    case = synthesize(ct, organs, Wish(CYST_ANY_SIZE, box=box), bundle=models)
    assert case.box == box
    assert box.contains(Box.bounding(case.mask.array))
    center = ct.geometry.to_ras((24, 22, 27))
    case = synthesize(ct, organs, Wish(CYST, center_ras_mm=tuple(center)), bundle=models)
    assert np.all(np.abs(np.subtract(case.box.center_vox, (24, 22, 27))) <= 0.5)


def test_a_box_off_the_organ_warns_but_is_not_refused(models):
    ct, organs = make_patient()
    box = Box((18, 16, 10), (30, 28, 22))
    case = synthesize(ct, organs, Wish(CYST_ANY_SIZE, box=box), bundle=models)
    assert any("inside the organ" in warning for warning in case.warnings)


def test_several_candidates_and_the_best_is_returned(models):
    ct, organs = make_patient()
    seen = []
    settings = Settings(seed=3, candidates=3)
    case = synthesize(ct, organs, Wish(CYST), bundle=models, settings=settings, progress=seen.append)
    assert sum(p == Progress("measure", 0, 1) for p in seen) == 3
    assert case.provenance["settings"]["candidates"] == 3
    assert 0 <= case.provenance["settings"]["candidate"] < 3


def test_progress_counts_every_step_and_cancel_stops_within_one(models):
    ct, organs = make_patient()
    seen = []
    synthesize(ct, organs, Wish(CYST), bundle=models, progress=seen.append)
    for stage in ("mask", "inpaint"):
        assert [p.step for p in seen if p.stage == stage] == [0, 1, 2, 3]
    for stop_at in range(len(seen)):
        asked = []

        def should_stop(asked=asked, stop_at=stop_at):
            return len(asked) >= stop_at

        with pytest.raises(Cancelled):
            synthesize(ct, organs, Wish(CYST), bundle=models, progress=asked.append, should_stop=should_stop)
        assert len(asked) <= stop_at + 1


@pytest.mark.parametrize(
    ("wish", "error", "message"),
    [
        (Wish(LesionReport(lesion_type="kidney cyst")), ReportError, "organ"),
        (Wish(dataclasses.replace(CYST, size_mm=(300.0, 30.0, 30.0))), PlacementError, "at most"),
        (Wish(CYST, box=Box((0, 0, 0), (80, 9, 9))), PlacementError, "box inside the CT"),
        (Wish(CYST, center_ras_mm=(1e4, 0, 0)), PlacementError, "center inside the CT"),
        (Wish(CYST, mask=np.zeros((48, 44, 40), bool)), VolumeError, "at least one voxel"),
        (Wish(CYST, mask=np.ones((4, 4, 4), bool)), VolumeError, "shape"),
        (Wish(CYST, box=Box((0, 0, 0), (2, 2, 2)), center_ras_mm=(0, 0, 0)), PlacementError, "at most one of"),
    ],
)
def test_bad_wishes(models, wish, error, message):
    ct, organs = make_patient()
    with pytest.raises(error, match=message):
        synthesize(ct, organs, wish, bundle=models)


def test_a_lesion_larger_than_the_window_names_the_limit(models):
    ct, organs = make_patient(make_geometry((48, 44, 40), (5.0, 5.0, 5.0)))
    box = Box((10, 10, 10), (34, 34, 34))
    with pytest.raises(PlacementError, match="at most 64x64x64 mm"):
        synthesize(ct, organs, Wish(CYST_ANY_SIZE, box=box), bundle=models)


def test_organ_map_on_another_grid(models):
    ct, organs = make_patient()
    other = make_geometry((48, 44, 40), (2.0, 2.2, 2.5), np.diag([-1.0, -1.0, 1.0]), origin_ras=(9, 0, 0))
    with pytest.raises(GeometryError, match="origins 9 mm apart"):
        synthesize(ct, OrganMap(Volume(organs.volume.array, other), organs.table), Wish(CYST), bundle=models)


def test_impossible_settings():
    with pytest.raises(ValueError, match="candidates"):
        Settings(candidates=0)
    with pytest.raises(ValueError, match="seed"):
        Settings(seed=-1)


def test_a_full_device_is_reported_and_nothing_else_breaks(models, monkeypatch):
    import torch

    def full(*args):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(type(models.lmnet.denoiser.backbone), "forward", full)
    ct, organs = make_patient()
    with pytest.raises(DeviceError, match="out of memory"):
        synthesize(ct, organs, Wish(CYST), bundle=models)


def test_enhancement_is_measured_on_the_vessels():
    ct, organs = make_patient()
    labels = organs.volume.array.copy()
    assert measured_enhancement(ct, organs) is None
    labels[:6, :6] = 7  # aorta
    vessel = OrganMap(Volume(labels, ct.geometry), organs.table)
    assert measured_enhancement(ct, vessel) == "non-contrast CT"
    bright = ct.array.copy()
    bright[:6, :6] = 150
    assert measured_enhancement(Volume(bright, ct.geometry), vessel) == "enhanced CT"


def test_the_liver_of_the_patient_is_what_the_tests_think_it_is():
    ct, organs = make_patient()
    assert median_hu(ct.array, organs.mask("liver")) == pytest.approx(LIVER_HU, abs=1)
