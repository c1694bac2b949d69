"""NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd) files: a text header, kept as bytes, and the voxels after it."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

import SimpleITK as sitk

from LesionDiffusionLib.errors import VolumeError
from LesionDiffusionLib.itk_header import ItkHeader, header_of, itk_reading, read_itk_header
from LesionDiffusionLib.nifti import new_nifti
from LesionDiffusionLib.volume import Volume
from LesionDiffusionLib.voxel_file import Packing, VoxelFile, read_bytes, voxels_from


def read_nrrd(path: Path) -> VoxelFile:
    """An NRRD file with its voxels inside, raw or gzip.

    Raises:
        VolumeError: another encoding, not one scalar 3-D volume, damaged or truncated.
        GeometryError: zero spacing or sheared axes.
    """
    data, header = read_bytes(path), read_itk_header(path)
    blank = re.search(rb"\r?\n\r?\n", data)
    offset = blank.end() if blank else len(data)
    head = data[:offset]
    encoding = _field(head, rb"encoding:")
    if encoding not in ("raw", "gzip", "gz") or _field(head, rb"data ?file:") or _field(head, rb"(?:byte|line) ?skip:"):
        raise VolumeError(f'{path} has encoding "{encoding}" or voxels elsewhere; save it as one raw or gzip NRRD file')
    big_endian = _field(head, rb"endian:") == "big"
    return _voxel_file(path, data, offset, header, big_endian, "raw" if encoding == "raw" else "gzip voxels")


def read_mha(path: Path) -> VoxelFile:
    """A MetaImage file with its voxels inside, raw or zlib; errors as for ``read_nrrd``."""
    data, header = read_bytes(path), read_itk_header(path)
    last_line = re.search(rb"(?m)^ElementDataFile\s*=\s*LOCAL[ \t\r]*\n", data)
    offset = last_line.end() if last_line else len(data)
    head = data[:offset]
    if last_line is None or _field(head, rb"BinaryData\s*=") == "false":
        raise VolumeError(f"{path} has its voxels as text or in another file; save it as one binary .mha file")
    big_endian = _field(head, rb"(?:BinaryData|Element)ByteOrderMSB\s*=") == "true"
    compressed = _field(head, rb"CompressedData\s*=") == "true"
    return _voxel_file(path, data, offset, header, big_endian, "zlib voxels" if compressed else "raw")


def read_detached(path: Path) -> VoxelFile:
    """A header file (.nhdr, .mhd) whose voxels lie in another file; to be written as a NIfTI file."""
    read_bytes(path)  # for its clear words about a missing file
    with itk_reading(path):
        image = sitk.ReadImage(str(path))
    return voxel_file_of(image, path)


def voxel_file_of(image: sitk.Image, path: Path) -> VoxelFile:
    """An ITK image as the NIfTI file that it will be written as; ``path`` is named in errors."""
    header = header_of(image, path)
    stored = sitk.GetArrayFromImage(image).T
    stored.setflags(write=False)
    return new_nifti(Volume(stored, header.geometry))


def segment_names(head: bytes) -> dict[int, str] | None:
    """The names that a Slicer segmentation (.seg.nrrd) gives its label values, or None when it gives none."""
    values = dict(re.findall(rb"(?m)^Segment(\d+)_LabelValue:=(\d+)", head))
    names = dict(re.findall(rb"(?m)^Segment(\d+)_Name:=([^\r\n]+)", head))
    return {int(value): names[n].decode(errors="replace") for n, value in values.items() if n in names} or None


def _voxel_file(
    path: Path, data: bytes, offset: int, header: ItkHeader, big_endian: bool, packing: Packing
) -> VoxelFile:
    """The file whose voxels begin at ``offset`` of its bytes ``data``."""
    dtype = header.dtype.newbyteorder(">" if big_endian else "<")
    if packing == "raw":
        stored = voxels_from(data, offset, dtype, header.geometry.shape, path)
        return VoxelFile(data[:offset], stored, header.geometry, packing, tail=data[offset + stored.nbytes :])
    try:
        voxels = gzip.decompress(data[offset:]) if packing == "gzip voxels" else zlib.decompress(data[offset:])
    except (OSError, EOFError, zlib.error) as error:
        raise VolumeError(f"{path} cannot be read, it is damaged or truncated ({error}); copy it anew") from error
    stored = voxels_from(voxels, 0, dtype, header.geometry.shape, path)
    return VoxelFile(data[:offset], stored, header.geometry, packing)


def _field(head: bytes, key: bytes) -> str:
    """The value of a header line that begins with the pattern ``key``, in lower case; "" when there is none."""
    line = re.search(rb"(?mi)^" + key + rb"[ \t]*([^\r\n]*)", head)
    return line[1].decode(errors="replace").strip().lower() if line else ""
