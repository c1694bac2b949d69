"""DICOM series folders: synthetic ones, whose truth is known, and a real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import make_geometry
from itk_files import hu, itk_image, plain_bytes

from LesionDiffusionLib.errors import GeometryError, VolumeError
from LesionDiffusionLib.io import read_ct, read_labels, write_like
from LesionDiffusionLib.volume import align_to

OBLIQUE = make_geometry((16, 12, 6), (0.8, 0.9, 2.5), np.diag([-1, -1, 1]), (6, -4, 9), (55.5, -20.25, -804.5))


def dicom_series(folder: Path, shift_mm: tuple = (), uid: str = "1.2.3", **tags: str) -> Path:
    """A synthetic CT series on OBLIQUE; ``shift_mm``: slice number and what is added to its LPS position."""
    folder.mkdir(exist_ok=True)
    image = itk_image(hu(shape=OBLIQUE.shape), OBLIQUE)
    direction = np.reshape(image.GetDirection(), (3, 3))
    shifts = dict(shift_mm)
    for k in range(image.GetDepth()):
        plane = image[:, :, k]
        position = np.add(image.TransformIndexToPhysicalPoint((0, 0, k)), shifts.get(k, (0, 0, 0)))
        for tag, value in {
            "0008|0060": tags.get("modality", "CT"),
            "0008|103e": tags.get("description", "Thin"),
            "0010|0010": "Doe^Jane",
            "0020|000e": uid,
            "0020|0013": str(k),
            "0020|0032": "\\".join(f"{p:.9f}" for p in position),
            "0020|0037": "\\".join(f"{d:.9f}" for d in direction[:, :2].T.ravel()),
            "0028|1052": "-1024",
            "0028|1053": "1",
        }.items():
            plane.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{uid}-{(7 * k) % 6}.dcm"))  # file names are not in the order of slices
        writer.Execute(plane)
    return folder


def test_a_dicom_series_is_read_in_hu_on_its_grid_and_written_as_integers_without_the_patients_name(tmp_path):
    ct_file = read_ct(dicom_series(tmp_path / "series"))
    assert np.array_equal(ct_file.volume.array, hu(shape=OBLIQUE.shape))
    assert ct_file.volume.geometry.difference(OBLIQUE) is None
    assert ct_file.suffix == ".nii.gz"
    assert ct_file.dtype.kind == "i"
    out = tmp_path / "out.nii.gz"
    write_like(ct_file, ct_file.volume.array, out)
    again = read_ct(out)
    assert np.array_equal(again.volume.array, ct_file.volume.array)
    assert again.dtype == ct_file.dtype
    assert again.volume.geometry.difference(OBLIQUE) is None
    assert b"Doe" not in plain_bytes(out)


def test_an_empty_folder_is_refused_quietly(tmp_path, capfd):
    with pytest.raises(VolumeError, match="holds no DICOM slices; give the folder that holds those of one CT series"):
        read_ct(tmp_path)
    assert capfd.readouterr().err == ""
    assert sitk.ProcessObject.GetGlobalWarningDisplay()


def test_two_series_in_a_folder_are_named(tmp_path):
    dicom_series(tmp_path / "both", uid="1.2.3", description="Thin")
    dicom_series(tmp_path / "both", uid="1.2.4", description="Bone kernel")
    with pytest.raises(VolumeError, match=r'2 DICOM series, expected one: "Thin" \(6 slices\), "Bone kernel" \(6'):
        read_ct(tmp_path / "both")


def test_another_modality_is_refused(tmp_path):
    with pytest.raises(VolumeError, match="modality MR, expected CT"):
        read_ct(dicom_series(tmp_path / "mr", modality="MR"))


def test_a_missing_slice_is_noticed(tmp_path):
    folder = dicom_series(tmp_path / "gap")
    (folder / "1.2.3-2.dcm").unlink()
    with pytest.raises(GeometryError, match=r"not evenly spaced, steps run from 2\.50 to 5\.00 mm"):
        read_ct(folder)


def test_gantry_tilt_is_refused(tmp_path):
    tilt = [(k, (0, 0.5 * k, 0)) for k in range(6)]
    with pytest.raises(GeometryError, match=r"sheared: axes . and k are \d+\.\d+ degrees apart .*gantry tilt"):
        read_ct(dicom_series(tmp_path / "tilted", tilt))


def test_slices_of_different_sizes_are_not_one_volume(tmp_path):
    folder = dicom_series(tmp_path / "sizes")
    plane = sitk.ReadImage(str(folder / "1.2.3-2.dcm"))
    smaller = plane[:10, :10]
    for key in plane.GetMetaDataKeys():
        smaller.SetMetaData(key, plane.GetMetaData(key))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(folder / "1.2.3-2.dcm"))
    writer.Execute(smaller)
    with pytest.raises(VolumeError, match="sizes cannot be read, it is damaged, incomplete or of another format"):
        read_ct(folder)


@pytest.mark.shared
def test_a_real_dicom_series_and_its_organ_map(shared):
    """The map is stored with j flipped; on the CT's grid its organs must have an organ's HU."""
    ct_file = read_ct(shared / "data/torso_dicom/series")
    assert ct_file.volume.geometry.shape == (512, 512, 20)
    assert ct_file.volume.geometry.spacing_mm == pytest.approx((0.9765625, 0.9765625, 2))
    assert ct_file.dtype == np.int16
    label_map, names = read_labels(shared / "data/torso_dicom/organs_v2.nii.gz")
    assert (names[1], names[5], names[52]) == ("spleen", "liver", "aorta")
    organs = align_to(label_map, ct_file.volume, "organ map").array
    for number, lowest, highest in ((5, 60, 130), (1, 60, 130), (52, 100, 250)):
        assert lowest < np.median(ct_file.volume.array[organs == number]) < highest


def test_slices_without_positions_are_refused(tmp_path):
    folder = dicom_series(tmp_path / "series")
    for path in folder.iterdir():  # ImagePositionPatient (0020,0032) becomes an unknown tag (0020,0034)
        path.write_bytes(path.read_bytes().replace(b"\x20\x00\x32\x00", b"\x20\x00\x34\x00"))
    with pytest.raises(GeometryError, match="slices lack a position"):
        read_ct(folder)
