"""Small files for the tests of the file rooms, written by ITK and then patched: not by the code under test."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from conftest import make_geometry

from LesionDiffusionLib.geometry import Geometry

AWKWARD = make_geometry(
    (7, 6, 5), (0.7, 1.3, 3.0), [[0, 0, -1], [1, 0, 0], [0, -1, 0]], (10, -7, 20), (-120.5, 33.25, 807)
)


def itk_image(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    image = sitk.GetImageFromArray(array.T)
    flip = np.diag([-1, -1, 1])
    image.SetSpacing(geometry.spacing_mm)
    image.SetDirection((flip @ geometry.directions_ras).ravel())
    image.SetOrigin(flip @ geometry.affine_ras[:3, 3])
    return image


def itk_file(path: Path, array: np.ndarray, geometry: Geometry = AWKWARD, compress: bool = True) -> Path:
    sitk.WriteImage(itk_image(array, geometry), str(path), useCompression=compress)
    return path


def patched(path: Path, *fields: tuple) -> Path:
    """Overwrites header fields (offset, struct code, values...) of a little-endian .nii or .nii.gz file."""
    data = bytearray(plain_bytes(path))
    for offset, code, *values in fields:
        struct.pack_into("<" + code, data, offset, *values)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def plain_bytes(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()


def hu(dtype: type = np.int16, shape: tuple[int, int, int] = AWKWARD.shape) -> np.ndarray:
    return np.random.default_rng(3).uniform(-1024, 1500, shape).astype(dtype)


# NIfTI-1 header fields as (offset, struct code, values...) for ``patched``.
QFORM_ONLY, SFORM_ONLY, NEITHER = (252, "2h", 1, 0), (252, "2h", 0, 1), (252, "2h", 0, 0)
SCALED = ((112, "2f", 0.5, -1024.0),)  # scl_slope, scl_inter
KEPT = (  # fields that no image library keeps all of
    (148, "80s", b"a description"),
    (228, "24s", b"auxiliary"),
    (68, "h", 1001),  # intent_code
    (328, "16s", b"intent"),
    (123, "b", 2 | 8),  # mm and s
    (124, "2f", 240.0, -160.0),  # cal_max, cal_min
    (252, "2h", 2, 4),  # qform and sform codes
)


def big_endian(path: Path) -> Path:
    """The same NIfTI-1 file in the other byte order."""
    data = bytearray(plain_bytes(path))
    for offset, code in (
        (0, "i"),
        (40, "8h"),
        (68, "4h"),
        (76, "8f"),
        (108, "3f"),
        (124, "2f"),
        (252, "2h"),
        (256, "18f"),
    ):
        struct.pack_into(">" + code, data, offset, *struct.unpack_from("<" + code, data, offset))
    data[352:] = np.frombuffer(data[352:], "<i2").astype(">i2").tobytes()
    path.write_bytes(gzip.compress(data))
    return path


def with_extension(path: Path, content: bytes) -> Path:
    """The same NIfTI-1 file with one header extension, and something behind the voxels."""
    data = plain_bytes(path)
    content += b" " * (-(len(content) + 8) % 16)
    extension = struct.pack("<2i", len(content) + 8, 0) + content
    head = bytearray(data[:348] + b"\1\0\0\0")
    struct.pack_into("<f", head, 108, 352 + len(extension))
    path.write_bytes(gzip.compress(bytes(head) + extension + data[352:] + b"behind"))
    return path


def big_endian_text_header(path: Path) -> Path:
    """The same raw int16 NRRD or MHA file in the other byte order."""
    head_size = path.stat().st_size - 2 * int(np.prod(AWKWARD.shape))
    head, voxels = path.read_bytes()[:head_size], path.read_bytes()[head_size:]
    head = head.replace(b"endian: little", b"endian: big").replace(b"OrderMSB = False", b"OrderMSB = True")
    path.write_bytes(head + np.frombuffer(voxels, "<i2").astype(">i2").tobytes())
    return path


CTS = {
    "int16.nii.gz": lambda path: patched(itk_file(path, hu()), *KEPT),
    "float32.nii": lambda path: patched(itk_file(path, hu(np.float32)), *KEPT),
    "float64.nii.gz": lambda path: itk_file(path, hu(np.float64)),
    "uint16-scaled.nii.gz": lambda path: patched(itk_file(path, (2 * hu() + 2048).astype(np.uint16)), *SCALED),
    "int16-scaled.nii": lambda path: patched(itk_file(path, hu()), *SCALED),
    "slope-0.nii": lambda path: patched(itk_file(path, hu()), (112, "2f", 0.0, 0.0)),
    "slope-nan.nii": lambda path: patched(itk_file(path, hu()), (112, "2f", float("nan"), float("nan"))),
    "big-endian.nii.gz": lambda path: big_endian(itk_file(path, hu())),
    "extension.nii.gz": lambda path: with_extension(itk_file(path, hu()), b"anything"),
    "4d-of-one.nii": lambda path: patched(itk_file(path, hu()), (40, "h", 4)),
    "gzip.nrrd": lambda path: itk_file(path, hu()),
    "big-endian.nrrd": lambda path: big_endian_text_header(itk_file(path, hu(), compress=False)),
    "big-endian.mha": lambda path: big_endian_text_header(itk_file(path, hu(), compress=False)),
    "raw.nrrd": lambda path: itk_file(path, hu(np.float32), compress=False),
    "zlib.mha": lambda path: itk_file(path, hu()),
    "raw.mha": lambda path: itk_file(path, hu(np.int32), compress=False),
}
