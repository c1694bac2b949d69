"""NIfTI-1 files (.nii, .nii.gz): the header is kept as bytes, the grid is what ITK makes of it."""

from __future__ import annotations

import struct
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from scipy.spatial.transform import Rotation

from LesionDiffusionLib.errors import GeometryError, VolumeError
from LesionDiffusionLib.geometry import Geometry
from LesionDiffusionLib.itk_header import read_itk_header
from LesionDiffusionLib.volume import Volume
from LesionDiffusionLib.voxel_file import VoxelFile, read_bytes, voxels_from

_HEADER_SIZE = 348
_DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_DATATYPES = {np.dtype(name): code for code, name in _DTYPES.items()}


def read_nifti(path: Path) -> VoxelFile:
    """A single-file NIfTI volume.

    Where qform and sform disagree, or both are missing, the grid is the one that ITK (hence Slicer) sees; the
    header is carried along untouched either way.

    Raises:
        VolumeError: not a NIfTI file, truncated, not one scalar 3-D volume.
        GeometryError: zero spacing or sheared axes.
    """
    packed = path.name.lower().endswith(".gz")
    data = read_bytes(path, unpack=packed)
    endian = _byte_order(data, path)

    def field(offset: int, code: str) -> tuple:
        return struct.unpack_from(endian + code, data, offset)

    spacing = field(80, "3f")  # pixdim
    if not np.isfinite(spacing).all() or 0 in spacing:  # ITK would silently make it 1 mm
        raise GeometryError(f"{path}: the grid is singular, spacing {spacing} mm; repair pixdim in its header")
    geometry = read_itk_header(path).geometry
    (datatype,), (vox_offset, slope, intercept) = field(70, "h"), field(108, "3f")
    dtype = np.dtype(endian + _DTYPES[datatype])
    offset = int(np.clip(np.nan_to_num(vox_offset), _HEADER_SIZE + 4, len(data)))
    stored = voxels_from(data, offset, dtype, geometry.shape, path)
    if slope == 0 or not np.isfinite((slope, intercept)).all():  # the standard's way to say "not scaled"
        slope, intercept = 1.0, 0.0
    packing = "gzip file" if packed else "raw"
    return VoxelFile(data[:offset], stored, geometry, packing, slope, intercept, data[offset + stored.nbytes :])


def new_nifti(volume: Volume) -> VoxelFile:
    """A new little-endian .nii.gz file of a volume."""
    stored = volume.array.astype(volume.array.dtype.newbyteorder("<"), copy=False)
    return VoxelFile(_new_header(volume.geometry, stored.dtype), stored, volume.geometry, "gzip file")


def label_names(head: bytes, path: Path) -> dict[int, str] | None:
    """The label table that TotalSegmentator 2 writes as an XML extension (``Label Key="5"`` with a name), or None.

    Raises:
        VolumeError: there is a table but it is damaged.
    """
    start, end = head.find(b"<CaretExtension"), head.find(b"</CaretExtension>")
    if start < 0 or b"<LabelTable" not in head:
        return None
    try:
        root = ElementTree.fromstring(head[start : end + len(b"</CaretExtension>")])
        names = {int(label.attrib["Key"]): label.text.strip() for label in root.iter("Label") if label.text}
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise VolumeError(f"{path}: the label table in its header is damaged ({error}); write the map anew") from error
    return names or None


def _byte_order(data: bytes, path: Path) -> str:
    """The struct prefix of the file's byte order; VolumeError unless it is a single-file NIfTI-1."""
    if len(data) < _HEADER_SIZE or data[344:347] != b"n+1":
        raise VolumeError(f"{path} is not a NIfTI-1 file, although its name says so; give a .nii or .nii.gz file")
    return "<" if 1 <= struct.unpack_from("<h", data, 40)[0] <= 7 else ">"  # dim[0], as the standard advises


def _new_header(geometry: Geometry, dtype: np.dtype) -> bytes:
    """Everything before the voxels of a NIfTI-1 file: 348 bytes and "no extensions"."""
    head = bytearray(_HEADER_SIZE + 4)
    # The quaternion describes a right-handed grid; qfac = -1 says that the third axis is then flipped.
    directions = geometry.directions_ras.copy()
    qfac = 1.0 if np.linalg.det(directions) > 0 else -1.0
    directions[:, 2] *= qfac
    quaternion = Rotation.from_matrix(directions).as_quat(canonical=True)  # x, y, z, and w >= 0, which is not stored
    origin = geometry.affine_ras[:3, 3]
    for offset, code, values in (
        (0, "i", (_HEADER_SIZE,)),
        (40, "8h", (3, *geometry.shape, 1, 1, 1, 1)),
        (70, "2h", (_DATATYPES[dtype.newbyteorder("=")], dtype.itemsize * 8)),
        (76, "8f", (qfac, *geometry.spacing_mm, 0, 0, 0, 0)),
        (108, "3f", (len(head), 1, 0)),  # vox_offset, scl_slope, scl_inter
        (123, "b", (2,)),  # xyzt_units: mm
        (252, "2h", (1, 1)),  # qform_code and sform_code: scanner coordinates
        (256, "6f", (*quaternion[:3], *origin)),
        (280, "12f", geometry.affine_ras[:3].ravel()),
        (344, "4s", (b"n+1",)),
    ):
        struct.pack_into("<" + code, head, offset, *values)
    return bytes(head)
