"""What is not a readable CT is refused in one clear line."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import make_geometry
from itk_files import AWKWARD, CTS, SFORM_ONLY, hu, itk_file, itk_image, patched

from LesionDiffusionLib.errors import GeometryError, VolumeError
from LesionDiffusionLib.io import read_ct


def test_a_missing_file_and_an_unknown_type_are_named(tmp_path):
    for name in ("none.nii.gz", "none.nii", "none.nrrd", "none.mhd"):
        with pytest.raises(VolumeError, match=rf"{name} does not exist; check the path"):
            read_ct(tmp_path / name)
    with pytest.raises(VolumeError, match=r"slice\.dcm is of an unknown file type; expected one of \.nii, \.nii\.gz"):
        read_ct(tmp_path / "slice.dcm")


@pytest.mark.parametrize("name", ["int16.nii.gz", "float32.nii", "gzip.nrrd", "raw.nrrd", "zlib.mha", "raw.mha"])
@pytest.mark.parametrize("share", [0.97, 0.6])
def test_a_truncated_file_is_refused(name, share, tmp_path, capfd):
    path = CTS[name](tmp_path / name)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(VolumeError, match=r"truncated|damaged"):
        read_ct(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".nhdr", ".mhd"])
@pytest.mark.parametrize("content", [b"", b"patient;age\nA;54\n" * 40], ids=["nothing", "text"])
def test_a_file_that_is_not_what_its_name_says_is_refused(suffix, content, tmp_path):
    path = tmp_path / f"ct{suffix}"
    path.write_bytes(content)
    with pytest.raises(VolumeError, match=r"cannot be read|is not a NIfTI-1 file, although its name says so"):
        read_ct(path)


def test_a_gzipped_text_is_not_a_nifti_file(tmp_path):
    (tmp_path / "ct.nii.gz").write_bytes(gzip.compress(b"patient;age\nA;54\n" * 40))
    with pytest.raises(VolumeError, match="is not a NIfTI-1 file"):
        read_ct(tmp_path / "ct.nii.gz")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (lambda: itk_image(hu(), AWKWARD)[:, :, 2], r"is 2-D, of size \(7, 6\)"),
        (lambda: itk_image(hu(), AWKWARD)[:, :, 2:3], r"is 2-D, of size \(7, 6, 1\)"),
        (lambda: sitk.JoinSeries([itk_image(hu(), AWKWARD)] * 3), "is 4-D and holds 3 volumes"),
        (lambda: sitk.Compose([itk_image(hu(), AWKWARD)] * 3), "has pixels of type 'vector of 16-bit signed integer'"),
    ],
    ids=["2-D", "one slice", "4-D", "RGB"],
)
def test_what_is_not_one_scalar_volume_is_refused(suffix, image, message, tmp_path):
    path = tmp_path / f"ct{suffix}"
    sitk.WriteImage(image(), str(path))
    with pytest.raises(VolumeError, match=message):
        read_ct(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.abs(hu()), r"ct\.nii\.gz is not in HU: its values run from \d+ to \d+, expected about -1000"),
        ((hu(np.float32) + 1024) / 3000, r"ct\.nii\.gz is not in HU: its values run from 0"),
        (np.zeros(AWKWARD.shape, np.int16), "is empty: every voxel is 0"),
        (np.where(hu() > 1400, np.nan, hu()).astype(np.float32), r"has \d+ voxels that are NaN or infinite"),
    ],
    ids=["MR", "normalized", "empty", "NaN"],
)
def test_what_is_not_hu_is_refused(array, message, tmp_path):
    with pytest.raises(VolumeError, match=message):
        read_ct(itk_file(tmp_path / "ct.nii.gz", array))


def sheared_sform() -> list[tuple]:
    affine = AWKWARD.affine_ras.copy()
    affine[:3, 1] += 0.4 * affine[:3, 0]
    return [(280, "12f", *affine[:3].ravel()), SFORM_ONLY]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (sheared_sform(), "sheared, singular or not finite"),
        ([(280, "12f", *[0.0] * 12), SFORM_ONLY], "sheared, singular or not finite"),
        ([(84, "f", 0.0)], r"the grid is singular, spacing \(.*0\.0.*\) mm; repair pixdim"),
        ([(84, "f", float("nan"))], "the grid is singular"),
        ([(280, "f", float("nan"))], "NaN or infinite"),
    ],
)
def test_an_unusable_grid_in_a_nifti_header_is_refused(fields, message, tmp_path):
    with pytest.raises(GeometryError, match=message):
        read_ct(patched(itk_file(tmp_path / "ct.nii", hu()), *fields))


def test_an_unusable_grid_in_an_nrrd_header_is_refused(tmp_path):
    path = itk_file(tmp_path / "ct.nrrd", hu(), make_geometry(AWKWARD.shape), compress=False)
    path.write_bytes(path.read_bytes().replace(b"(0,-1,0)", b"(1,-1,0)"))
    with pytest.raises(GeometryError, match=r"ct\.nrrd.* sheared"):
        read_ct(path)


def test_a_nifti_pair_header_and_a_voxel_offset_beyond_the_file_are_refused(tmp_path):
    with pytest.raises(VolumeError, match="is not a NIfTI-1 file"):
        read_ct(patched(itk_file(tmp_path / "pair.nii", hu()), (344, "4s", b"ni1")))
    with pytest.raises(VolumeError, match="truncated: expected 420 bytes of voxels, found 0"):
        read_ct(patched(itk_file(tmp_path / "ct.nii", hu()), (108, "f", 1e9)))


def test_voxels_as_text_or_elsewhere_in_nrrd_and_mha_are_refused(tmp_path):
    path = itk_file(tmp_path / "ct.nrrd", hu(), compress=False)
    path.write_bytes(path.read_bytes().replace(b"encoding: raw", b"encoding: hex"))
    with pytest.raises(VolumeError, match='has encoding "hex" or voxels elsewhere; save it as one raw or gzip'):
        read_ct(path)
    path = itk_file(tmp_path / "ct.mha", hu(), compress=False)
    path.write_bytes(path.read_bytes().replace(b"BinaryData = True", b"BinaryData = False"))
    with pytest.raises(VolumeError, match=r"voxels as text or in another file; save it as one binary \.mha"):
        read_ct(path)


def test_a_detached_header_without_its_voxels_is_refused(tmp_path):
    path = itk_file(tmp_path / "ct.mhd", hu())
    next(tmp_path.glob("ct.*raw")).unlink()
    with pytest.raises(VolumeError, match=r"ct\.mhd cannot be read, it is damaged, incomplete or of another format"):
        read_ct(path)
