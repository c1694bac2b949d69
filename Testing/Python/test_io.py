"""CTs in and out: what was not changed comes back byte for byte."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from itk_files import AWKWARD, CTS, NEITHER, QFORM_ONLY, SFORM_ONLY, hu, itk_file, patched, plain_bytes

from LesionDiffusionLib.errors import VolumeError
from LesionDiffusionLib.io import read_ct, write_labels, write_like


@pytest.fixture(params=CTS)
def ct_path(request, tmp_path) -> Path:
    return CTS[request.param](tmp_path / request.param)


def test_a_ct_has_the_values_and_the_grid_that_itk_reads(ct_path):
    ct_file = read_ct(ct_path)
    image = (
        sitk.Extract(sitk.ReadImage(str(ct_path)), AWKWARD.shape)
        if "4d" in ct_path.name
        else sitk.ReadImage(str(ct_path))
    )
    assert ct_file.volume.array.dtype == np.float32
    assert np.array_equal(ct_file.volume.array, sitk.GetArrayFromImage(image).T.astype(np.float32))
    assert ct_file.volume.geometry.difference(AWKWARD) is None
    assert ct_file.source == ct_path
    assert ct_path.name.endswith(ct_file.suffix)


def test_an_unchanged_ct_is_rewritten_byte_for_byte(ct_path, tmp_path):
    ct_file = read_ct(ct_path)
    out = tmp_path / f"out{ct_file.suffix}"
    write_like(ct_file, ct_file.volume.array.copy(), out)
    if "zlib" in ct_path.name or "gzip" in ct_path.name:  # the compressed bytes may differ, the content may not
        before, after = read_ct(ct_path).file, read_ct(out).file
        assert without_packed_size(before.head) == without_packed_size(after.head)
        assert before.stored.tobytes() == after.stored.tobytes()
        assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(out))).T, before.stored)
    else:
        assert plain_bytes(out) == plain_bytes(ct_path)


def without_packed_size(head: bytes) -> list[bytes]:
    return [line for line in head.splitlines() if not line.startswith(b"CompressedDataSize")]


def test_changed_voxels_are_rounded_and_all_others_keep_their_stored_bits(ct_path, tmp_path):
    ct_file = read_ct(ct_path)
    ct_hu = ct_file.volume.array.copy()
    ct_hu[1:3, 2:5, 1:4] = -87.7
    ct_hu[6, 0, 0] = 1e6  # more than the integers can store
    out = tmp_path / f"out{ct_file.suffix}"
    write_like(ct_file, ct_hu, out)
    again = read_ct(out)

    changed = np.zeros(ct_hu.shape, bool)
    changed[1:3, 2:5, 1:4] = changed[6, 0, 0] = True
    assert again.dtype == ct_file.dtype
    assert np.array_equal(again.file.stored[~changed], ct_file.file.stored[~changed])
    step = 0.5 if "scaled" in out.name or "scaled" in ct_path.name else 1.0
    expected = -87.7 if ct_file.dtype.kind == "f" else step * round(-87.7 / step)
    assert again.volume.array[1:3, 2:5, 1:4] == pytest.approx(expected, abs=1e-4)
    limit = 1e6
    if ct_file.dtype.kind != "f":
        limit = min(limit, np.iinfo(ct_file.dtype).max * ct_file.file.slope + ct_file.file.intercept)
    assert again.volume.array[6, 0, 0] == pytest.approx(limit)
    assert again.volume.geometry.difference(ct_file.volume.geometry, tolerance_vox=1e-9) is None


def test_equal_voxels_give_equal_bytes_at_any_time_under_any_name(ct_path, tmp_path, monkeypatch):
    ct_file = read_ct(ct_path)
    outs = [tmp_path / f"{name}{ct_file.suffix}" for name in ("one", "another")]
    for seconds, out in enumerate(outs):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: 1.7e9 + seconds)
        write_like(ct_file, ct_file.volume.array, out)
    assert outs[0].read_bytes() == outs[1].read_bytes()


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_the_hu_that_changes_are_compared_with_cannot_be_written_over(dtype, tmp_path):
    ct_file = read_ct(itk_file(tmp_path / "ct.nii", hu(dtype)))
    with pytest.raises(ValueError, match="read-only"):
        ct_file.volume.array[0, 0, 0] = 5


def test_any_ct_can_be_written_as_nifti(ct_path, tmp_path):
    ct_file = read_ct(ct_path)
    for suffix in (".nii", ".nii.gz"):
        write_like(ct_file, ct_file.volume.array, tmp_path / f"out{suffix}")
        again = read_ct(tmp_path / f"out{suffix}")
        assert np.array_equal(again.volume.array, ct_file.volume.array)
        assert again.dtype.newbyteorder("=") == ct_file.dtype.newbyteorder("=")
        assert again.volume.geometry.difference(ct_file.volume.geometry) is None


@pytest.mark.parametrize("name", ["detached.nhdr", "detached.mhd"])
def test_detached_headers_are_read_and_written_as_nifti(name, tmp_path):
    ct_file = read_ct(itk_file(tmp_path / name, hu()))
    assert ct_file.suffix == ".nii.gz"
    assert ct_file.dtype == np.int16
    assert np.array_equal(ct_file.volume.array, hu())
    write_like(ct_file, ct_file.volume.array, tmp_path / "out.nii.gz")
    assert read_ct(tmp_path / "out.nii.gz").volume.geometry.difference(AWKWARD) is None


OTHER_ORIGIN_IN_SFORM = [(offset, "f", value) for offset, value in ((292, 1.0), (308, 2.0), (324, 3.0))]


@pytest.mark.parametrize(
    "fields",
    [[QFORM_ONLY], [SFORM_ONLY], [NEITHER], OTHER_ORIGIN_IN_SFORM, [*OTHER_ORIGIN_IN_SFORM, (252, "2h", 2, 1)]],
    ids=["qform", "sform", "neither", "disagreeing", "disagreeing, other codes"],
)
def test_the_grid_is_the_one_that_itk_sees_and_the_header_stays(fields, tmp_path):
    path = patched(itk_file(tmp_path / "ct.nii.gz", hu()), *fields)
    ct_file = read_ct(path)
    image = sitk.ReadImage(str(path))
    corner_lps = image.TransformContinuousIndexToPhysicalPoint([n - 1 for n in AWKWARD.shape])
    corner_ras = ct_file.volume.geometry.to_ras(np.subtract(AWKWARD.shape, 1))
    assert corner_ras == pytest.approx(np.multiply(corner_lps, (-1, -1, 1)), abs=1e-3)
    write_like(ct_file, ct_file.volume.array, tmp_path / "out.nii.gz")
    assert plain_bytes(tmp_path / "out.nii.gz") == plain_bytes(path)


@pytest.mark.shared
def test_real_cts_are_rewritten_byte_for_byte(shared, tmp_path):
    paths = [shared / "data/torso/ct.nii.gz", *sorted((shared / "data/ct").glob("*.nii.gz"))]
    assert len(paths) >= 5
    for path in paths:
        ct_file = read_ct(path)
        write_like(ct_file, ct_file.volume.array, tmp_path / "out.nii.gz")
        assert plain_bytes(tmp_path / "out.nii.gz") == plain_bytes(path), path


def test_arrays_that_do_not_belong_to_the_ct_are_not_written(tmp_path):
    ct_file = read_ct(itk_file(tmp_path / "ct.nii.gz", hu()))
    ct_hu = ct_file.volume.array.copy()
    out = tmp_path / "out.nii.gz"
    with pytest.raises(VolumeError, match=r"expected HU of shape \(7, 6, 5\) like the CT, got \(5, 6, 7\)"):
        write_like(ct_file, ct_hu.T, out)
    with pytest.raises(VolumeError, match=r"as \.nii\.gz or \.nii\.gz, not as \.nrrd"):
        write_like(ct_file, ct_hu, tmp_path / "out.nrrd")
    ct_hu[0, 0, 0] = np.inf
    with pytest.raises(VolumeError, match="NaN or infinite in places; nothing was written"):
        write_like(ct_file, ct_hu, out)
    with pytest.raises(VolumeError, match=r"masks are written as NIfTI; give a path that ends in \.nii\.gz"):
        write_labels(np.ones(AWKWARD.shape, bool), AWKWARD, tmp_path / "mask.nrrd")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct.nii.gz"]
