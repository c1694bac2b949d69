"""What ITK reads from a file's header, without its voxels: the grid and the pixel type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from LesionDiffusionLib.errors import GeometryError, VolumeError
from LesionDiffusionLib.geometry import Geometry

_DTYPES = {
    sitk.sitkInt8: np.int8,
    sitk.sitkUInt8: np.uint8,
    sitk.sitkInt16: np.int16,
    sitk.sitkUInt16: np.uint16,
    sitk.sitkInt32: np.int32,
    sitk.sitkUInt32: np.uint32,
    sitk.sitkInt64: np.int64,
    sitk.sitkUInt64: np.uint64,
    sitk.sitkFloat32: np.float32,
    sitk.sitkFloat64: np.float64,
}
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class ItkHeader:
    """``dtype`` is that of the voxels as ITK presents them, after any rescaling."""

    geometry: Geometry
    dtype: np.dtype


def read_itk_header(path: Path) -> ItkHeader:
    """The header of one scalar 3-D volume; its voxels are not read.

    Raises:
        VolumeError: ITK does not understand the file, or it is 2-D, 4-D, or has several numbers per voxel.
        GeometryError: the axes are sheared or the spacing is zero.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with itk_reading(path):
        reader.ReadImageInformation()
    return header_of(reader, path)


def header_of(image: sitk.Image | sitk.ImageFileReader, path: Path) -> ItkHeader:
    """The header of an image, or of a reader that has read one; ``path`` is named in the errors of read_itk_header."""
    size = image.GetSize()
    if len(size) < 3 or size[2] == 1:
        raise VolumeError(f"{path} is 2-D, of size {size}; give a 3-D volume with several slices")
    if np.prod(size[3:]) > 1:
        raise VolumeError(f"{path} is {len(size)}-D and holds {np.prod(size[3:])} volumes; give a file with one 3-D CT")
    if image.GetPixelID() not in _DTYPES:
        pixel = sitk.GetPixelIDValueAsString(image.GetPixelID())
        raise VolumeError(f"{path} has pixels of type '{pixel}'; expected one number per voxel, not colors or layers")
    direction = np.reshape(image.GetDirection(), (len(size), -1))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = _RAS_FROM_LPS @ direction * image.GetSpacing()[:3]
    affine[:3, 3] = _RAS_FROM_LPS @ image.GetOrigin()[:3]
    return ItkHeader(geometry_in_file(size[:3], affine, path), np.dtype(_DTYPES[image.GetPixelID()]))


def geometry_in_file(shape: tuple[int, int, int], affine_ras: np.ndarray, path: Path) -> Geometry:
    """The grid, with the file's name in the message of its GeometryError."""
    try:
        return Geometry(shape, affine_ras)
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from error


@contextmanager
def itk_reading(path: Path) -> Iterator[None]:
    """Turns ITK's exceptions into ours, and keeps its warnings off stderr: what matters of them we raise as errors.

    Raises:
        GeometryError: ITK finds no orthogonal axes in the header.
        VolumeError: any other reason for which ITK cannot read ``path``.
    """
    warnings_shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        if "orthonormal" in reason:
            message = "the axes in its header are sheared, singular or not finite; resample to orthogonal axes first"
            raise GeometryError(f"{path}: {message}") from error
        message = f"cannot be read, it is damaged, incomplete or of another format ({reason}); copy or export it anew"
        raise VolumeError(f"{path} {message}") from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(warnings_shown)
