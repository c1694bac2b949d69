"""CTs, organ maps and masks from and to files. NIfTI, NRRD, MetaImage, and CT series as DICOM folders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from LesionDiffusionLib.dicom import read_series
from LesionDiffusionLib.errors import VolumeError
from LesionDiffusionLib.geometry import Geometry
from LesionDiffusionLib.nifti import label_names, new_nifti, read_nifti
from LesionDiffusionLib.nrrd_meta import read_detached, read_mha, read_nrrd, segment_names
from LesionDiffusionLib.volume import Volume, check_ct
from LesionDiffusionLib.voxel_file import Packing, VoxelFile

_READERS = {
    ".nii": read_nifti,
    ".nii.gz": read_nifti,
    ".nrrd": read_nrrd,
    ".mha": read_mha,
    ".nhdr": read_detached,
    ".mhd": read_detached,
}
_REWRITTEN = (".nii", ".nii.gz", ".nrrd", ".mha")  # a CT of any other kind is written as .nii.gz
_NIFTI_PACKING: dict[str, Packing] = {".nii": "raw", ".nii.gz": "gzip file"}


@dataclass(frozen=True, eq=False)
class CTFile:
    """A CT and what is needed to write it back.

    ``volume`` holds float32 HU (I, J, K) and is read-only, since ``write_like`` finds the changed voxels by comparing
    with it; ``file`` is its content as stored. ``suffix`` is the file type that ``write_like`` keeps.
    """

    source: Path
    suffix: str
    volume: Volume
    file: VoxelFile

    @property
    def dtype(self) -> np.dtype:
        """The number type that the file stores."""
        return self.file.stored.dtype


def read_ct(path: Path | str) -> CTFile:
    """A CT from a file, or from a folder with the slices of one DICOM series.

    Raises:
        VolumeError: missing, of an unknown format, damaged or truncated, not one 3-D volume, or not in HU.
        GeometryError: sheared or singular axes, missing slices, gantry tilt.
    """
    path = Path(path)
    file = read_series(path) if path.is_dir() else _read(path)
    values = file.values().astype(np.float32, copy=False)
    values.setflags(write=False)
    volume = Volume(values, file.geometry)
    check_ct(volume, str(path))
    suffix = "" if path.is_dir() else _suffix(path)
    return CTFile(path, suffix if suffix in _REWRITTEN else ".nii.gz", volume, file)


def read_labels(path: Path | str) -> tuple[Volume, dict[int, str] | None]:
    """An integer label map (I, J, K), and the names of its numbers where the header has them.

    Names are found in the extension of a NIfTI file from TotalSegmentator 2 and in a Slicer .seg.nrrd file.

    Raises:
        VolumeError: as for ``read_ct``, or the values are not whole numbers.
        GeometryError: sheared or singular axes.
    """
    path = Path(path)
    file = _read(path)
    labels = file.values()
    if labels.dtype.kind == "f":
        fractional = labels != np.rint(labels)  # also where NaN
        if fractional.any():
            value = labels[fractional][0]
            raise VolumeError(f"{path} is not a label map: it holds the value {value:g}; give whole label numbers")
        labels = labels.astype(np.int32)
    names = segment_names(file.head) or label_names(file.head, path)
    return Volume(labels, file.geometry), names


def read_mask(path: Path | str) -> Volume:
    """The nonzero voxels of a file, as bool (I, J, K); VolumeError when there are none, else as ``read_labels``."""
    path = Path(path)
    file = _read(path)
    mask = file.values() != 0
    if not mask.any():
        raise VolumeError(f"{path} is an empty mask: every voxel is 0; give a mask of the lesion")
    return Volume(mask, file.geometry)


def write_like(ct_file: CTFile, ct_hu: np.ndarray, path: Path | str) -> None:
    """Writes ``ct_hu`` (I, J, K) as a file like the one the CT came from: same header, geometry and dtype.

    Voxels equal to ``ct_file.volume`` keep their stored bits; changed ones become the nearest number that the dtype
    can store. To a NIfTI ``path`` any CT can be written; a new header is then made for one of another format.

    Raises:
        VolumeError: another shape than the CT, values that are not finite, or a path of another file type.
    """
    path, original = Path(path), ct_file.volume.array
    file = _file_for(ct_file, path)
    if ct_hu.shape != original.shape:
        raise VolumeError(f"expected HU of shape {original.shape} like the CT, got {ct_hu.shape}; give the whole CT")
    if not np.isfinite(ct_hu).all():
        raise VolumeError(f"the HU to write to {path} are NaN or infinite in places; nothing was written")
    file.write(path, file.merged(ct_hu != original, ct_hu))


def write_labels(labels: np.ndarray, geometry: Geometry, path: Path | str) -> None:
    """Writes a mask (bool, as uint8) or an integer label map (I, J, K) to a .nii.gz or .nii file.

    Raises:
        VolumeError: another shape than the geometry's, or a path of another file type.
    """
    path = Path(path)
    labels = labels.astype(np.uint8) if labels.dtype == bool else labels
    file = new_nifti(Volume(labels, geometry))
    suffix = _suffix(path)
    if suffix not in _NIFTI_PACKING:
        raise VolumeError(f"{path}: masks are written as NIfTI; give a path that ends in .nii.gz")
    replace(file, packing=_NIFTI_PACKING[suffix]).write(path, np.moveaxis(labels, 2, 0))


def _read(path: Path) -> VoxelFile:
    if path.is_dir():
        raise VolumeError(f"{path} is a folder, expected a file of one of {', '.join(_READERS)}")
    return _READERS[_suffix(path)](path)


def _suffix(path: Path) -> str:
    for suffix in _READERS:
        if path.name.lower().endswith(suffix):
            return suffix
    known = ", ".join(_READERS)
    raise VolumeError(f"{path} is of an unknown file type; expected one of {known}, or a folder with a DICOM series")


def _file_for(ct_file: CTFile, path: Path) -> VoxelFile:
    """The stored file in the type that ``path`` asks for: its own, or NIfTI."""
    suffix = _suffix(path)
    if suffix == ct_file.suffix:
        return ct_file.file
    if suffix not in _NIFTI_PACKING:
        raise VolumeError(f"{path}: this CT can be written as {ct_file.suffix} or .nii.gz, not as {suffix}")
    is_nifti = ct_file.suffix in _NIFTI_PACKING
    file = ct_file.file if is_nifti else new_nifti(Volume(ct_file.file.stored, ct_file.volume.geometry))
    return replace(file, packing=_NIFTI_PACKING[suffix])
