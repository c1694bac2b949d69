"""Saved cases: complete, atomic, in the input's form; and the preview hangs as in radiology."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import make_geometry
from patients import fake_models, make_patient
from PIL import Image

from LesionDiffusionLib import saved_case
from LesionDiffusionLib.errors import OutputError
from LesionDiffusionLib.io import read_ct, write_labels, write_like
from LesionDiffusionLib.preview import display_window, hung_slice, preview_image
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.saved_case import require_writable, save_case
from LesionDiffusionLib.synthesis import synthesize
from LesionDiffusionLib.wish import Wish

FILES = {"ct.nii.gz", "lesion.nii.gz", "report.json", "provenance.json", "preview.png"}


@pytest.fixture
def ct_file(tmp_path):
    ct, _ = make_patient()
    path = tmp_path / "input.nii.gz"
    write_labels(ct.array.astype(np.int16), ct.geometry, path)
    return read_ct(path)


@pytest.fixture
def case(ct_file, tmp_path):
    _, organs = make_patient()
    wish = Wish(LesionReport(lesion_type="liver cyst", size_mm=(24, 24, 24)))
    return synthesize(ct_file.volume, organs, wish, bundle=fake_models(tmp_path))


def test_a_saved_case_is_complete_and_in_the_inputs_form(case, ct_file, tmp_path):
    folder = save_case(case, ct_file, tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == FILES
    before, after = (sitk.ReadImage(str(p)) for p in (ct_file.source, folder / "ct.nii.gz"))
    lesion = sitk.ReadImage(str(folder / "lesion.nii.gz"))
    assert after.GetPixelID() == before.GetPixelID() == sitk.sitkInt16
    assert lesion.GetPixelID() == sitk.sitkUInt8
    for image in (after, lesion):
        np.testing.assert_allclose(image.GetOrigin(), before.GetOrigin())
        np.testing.assert_allclose(image.GetDirection(), before.GetDirection())
        np.testing.assert_allclose(image.GetSpacing(), before.GetSpacing())
    changed = sitk.GetArrayFromImage(after) != sitk.GetArrayFromImage(before)
    assert changed.sum() == case.provenance["voxels_changed"] > 0
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["synthetic"] is True
    assert provenance["max_abs_change_outside_hu"] == 0
    assert {m["attribute"] for m in provenance["measurements"]} >= {"size", "density", "shape"}
    assert LesionReport.from_json((folder / "report.json").read_text()) == case.report


def test_an_existing_case_needs_force_and_is_replaced_whole(case, ct_file, tmp_path):
    folder = save_case(case, ct_file, tmp_path / "out")
    with pytest.raises(OutputError, match="exists and is not empty"):
        save_case(case, ct_file, folder)
    (folder / "preview.png").unlink()
    save_case(case, ct_file, folder, force=True)
    assert {path.name for path in folder.iterdir()} == FILES
    assert sorted(p.name for p in tmp_path.iterdir()) == ["input.nii.gz", "out"], "no temporary folder stays"


def test_an_interrupt_between_the_renames_keeps_the_old_case(case, ct_file, tmp_path, monkeypatch):
    folder = save_case(case, ct_file, tmp_path / "out")
    (folder / "report.json").write_text("the old one")
    rename = Path.rename

    def interrupted(self, target):
        if not self.name.startswith(".") or Path(target) != folder:
            return rename(self, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_case(case, ct_file, folder, force=True)
    assert (folder / "report.json").read_text() == "the old one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["input.nii.gz", "out"]


def test_the_proof_is_measured_on_the_written_file(case, ct_file, tmp_path, monkeypatch):
    """A writer that spoils a voxel far from the lesion is found out."""

    def spoiling(file, ct_hu, path):
        spoiled = ct_hu.copy()
        spoiled[0, 0, 0] += 3
        write_like(file, spoiled, path)

    monkeypatch.setattr(saved_case, "write_like", spoiling)
    folder = save_case(case, ct_file, tmp_path / "out")
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["measured_on"] == "ct.nii.gz"
    assert (provenance["max_abs_change_outside_hu"], provenance["voxels_changed_outside"]) == (3, 1)


def test_a_folder_that_cannot_be_made(case, ct_file, tmp_path):
    with pytest.raises(OutputError, match="choose another --out"):
        save_case(case, ct_file, tmp_path / ("x" * 300))


def test_force_never_deletes_a_folder_that_is_not_a_case(case, ct_file, tmp_path):
    precious = tmp_path / "out"
    precious.mkdir()
    (precious / "thesis.doc").write_text("years of work")
    with pytest.raises(OutputError, match="holds other files than a saved case"):
        save_case(case, ct_file, precious, force=True)
    assert (precious / "thesis.doc").exists()


def test_force_never_deletes_a_scan_and_its_mask(case, ct_file, tmp_path):
    """They may well be called ct and lesion, as in a case."""
    patient = tmp_path / "patient"
    patient.mkdir()
    for name in ("ct.nii.gz", "lesion.nii.gz"):
        (patient / name).write_text("the only copy")
    with pytest.raises(OutputError, match=r"exists and is not empty; choose another --out$"):
        save_case(case, ct_file, patient)
    with pytest.raises(OutputError, match=r"holds no provenance\.json of a case and is not overwritten"):
        save_case(case, ct_file, patient, force=True)
    assert (patient / "ct.nii.gz").read_text() == "the only copy"


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        require_writable(tmp_path / "out")
    with pytest.raises(OutputError, match="cannot write to"):
        require_writable(tmp_path / "out" / "case")


@pytest.mark.parametrize("step", ["write_like", "write_labels", "preview_image"])
@pytest.mark.parametrize("force", [False, True])
def test_disk_full_leaves_nothing_and_loses_nothing(case, ct_file, tmp_path, monkeypatch, step, force):
    folder = tmp_path / "out"
    if force:
        save_case(case, ct_file, folder)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved_case, step, full)
    with pytest.raises(OutputError, match="No space left on device; nothing was kept"):
        save_case(case, ct_file, folder, force)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert folder.exists() == force
    if force:
        assert {path.name for path in folder.iterdir()} == FILES, "the earlier case is still there"


def test_interrupt_while_writing_leaves_nothing(case, ct_file, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(saved_case, "preview_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_case(case, ct_file, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["input.nii.gz"]


PERMUTED = [[0, 1.0, 0], [0, 0, -1.0], [1.0, 0, 0]], [[0, 0, -1.0], [1.0, 0, 0], [0, 1.0, 0]]


@pytest.mark.parametrize("axes", [np.diag([-1.0, -1.0, 1.0]), np.eye(3), *PERMUTED])
def test_slices_hang_as_in_radiology(axes):
    """Whatever the file's axes: patient's right on the left side, anterior on top, superior on top."""
    geometry = make_geometry((9, 10, 11), (1, 1, 1), axes)
    points = geometry.to_ras(np.stack(np.indices(geometry.shape), axis=-1))
    center = np.array([4, 5, 5])
    for plane, across, down in (("axial", 0, 1), ("coronal", 0, 2), ("sagittal", 1, 2)):
        right = hung_slice(points[..., across], geometry, plane, center)
        up = hung_slice(points[..., down], geometry, plane, center)
        assert (np.diff(right, axis=1) < 0).all(), "R to L, or A to P, from left to right"
        assert (np.diff(up, axis=0) < 0).all(), "A to P, or S to I, from top to bottom"
        assert (np.diff(right, axis=0) == 0).all()


def test_the_preview_shows_the_change_and_only_there(case):
    picture = np.asarray(preview_image(case)).astype(int)
    tile = 300
    before, after, outlined = (picture[-3 * tile :, n * tile : (n + 1) * tile] for n in range(3))
    assert before.shape == (900, 300, 3)
    middle = slice(tile // 2 - 10, tile // 2 + 10)
    assert np.abs(before - after)[middle, middle].mean() > 8
    corner = slice(20, 40)
    assert np.array_equal(before[corner, -20:], after[corner, -20:])
    yellow = (outlined == (255, 190, 40)).all(axis=2)
    assert 50 < yellow.sum() < 20_000
    assert isinstance(preview_image(case), Image.Image)


def test_the_display_window_fits_the_lesion():
    assert display_window(LesionReport(organ="left upper lung lobe"))[0] < -300
    assert display_window(LesionReport(organ="brain"))[1] < 150
    assert display_window(LesionReport(organ="liver", specific_features=("stone",)))[1] > 500
    assert display_window(LesionReport()) == (40.0, 400.0)
