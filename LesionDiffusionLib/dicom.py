"""A folder with the slices of one DICOM CT series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from LesionDiffusionLib.errors import GeometryError, VolumeError
from LesionDiffusionLib.itk_header import geometry_in_file, itk_reading
from LesionDiffusionLib.nrrd_meta import voxel_file_of
from LesionDiffusionLib.voxel_file import VoxelFile

_MODALITY, _DESCRIPTION, _POSITION = "0008|0060", "0008|103e", "0020|0032"
_MAX_STEP_DEVIATION = 0.05  # of the mean step: headers round positions, a missing slice deviates by 1


def read_series(folder: Path) -> VoxelFile:
    """The one CT series in ``folder``, in HU; to be written as a NIfTI file without any of the patient's data.

    Raises:
        VolumeError: no series or several, unreadable or of different sizes, another modality, one slice only.
        GeometryError: slices missing, doubled or unevenly spaced; gantry tilt.
    """
    files = _files_of_only_series(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.MetaDataDictionaryArrayUpdateOn()
    with itk_reading(folder):
        image = reader.Execute()
    modality = _tag(reader, 0, _MODALITY)
    if modality not in ("CT", ""):
        raise VolumeError(f"{folder} holds a series of modality {modality}, expected CT; give a CT series")
    if len(files) > 1:
        _check_slices(image, [_tag(reader, n, _POSITION) for n in range(len(files))], folder)
    return voxel_file_of(image, folder)


def _files_of_only_series(folder: Path) -> tuple[str, ...]:
    """The slices of the series in ``folder``, sorted along the slice normal."""
    with itk_reading(folder):
        uids = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        files = [sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid) for uid in uids]
    if not files:
        raise VolumeError(f"{folder} holds no DICOM slices; give the folder that holds those of one CT series itself")
    if len(files) > 1:
        found = ", ".join(f'"{_description(names[0])}" ({len(names)} slices)' for names in files)
        raise VolumeError(f"{folder} holds {len(files)} DICOM series, expected one: {found}; put it in its own folder")
    return files[0]


def _check_slices(image: sitk.Image, positions: list[str], folder: Path) -> None:
    """GeometryError unless the slices lie at even steps along their normal: ITK would stack any slices to a block."""
    try:
        points_lps = np.array([[float(number) for number in position.split("\\")] for position in positions])
    except ValueError as error:  # also for a missing tag, which reads ""
        raise GeometryError(f"{folder}: slices lack a position (tag 0020,0032); export the series anew") from error
    steps = np.diff(points_lps, axis=0)
    step = steps.mean(axis=0)
    length = float(np.linalg.norm(step))
    if np.linalg.norm(steps - step, axis=1).max() > _MAX_STEP_DEVIATION * length:
        found = np.linalg.norm(steps, axis=1)
        raise GeometryError(
            f"{folder}: the slices are not evenly spaced, steps run from {found.min():.2f} to {found.max():.2f} mm; "
            "add missing slices, remove doubled ones, or resample the series"
        )
    affine = np.eye(4)
    affine[:3, :2] = np.reshape(image.GetDirection(), (3, 3))[:, :2]
    affine[:3, 2] = step
    try:
        geometry_in_file(image.GetSize(), affine, folder)
    except GeometryError as error:
        raise GeometryError(f"{error} (gantry tilt)") from error


def _tag(reader: sitk.ImageSeriesReader, slice_number: int, key: str) -> str:
    return reader.GetMetaData(slice_number, key).strip() if reader.HasMetaDataKey(slice_number, key) else ""


def _description(file: str) -> str:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    with itk_reading(Path(file)):
        reader.ReadImageInformation()
    return reader.GetMetaData(_DESCRIPTION).strip() if reader.HasMetaDataKey(_DESCRIPTION) else "no description"
