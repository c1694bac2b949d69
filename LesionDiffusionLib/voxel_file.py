"""A volume file as stored: the voxels in their own dtype, and every byte around them, to be written back unchanged."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from LesionDiffusionLib.errors import VolumeError
from LesionDiffusionLib.geometry import Geometry

_COMPRESSION_LEVEL = 4  # CTs take half the time of level 6 and are 1 % larger
Packing = Literal["raw", "gzip file", "gzip voxels", "zlib voxels"]


@dataclass(frozen=True, eq=False)
class VoxelFile:
    """Header bytes ``head``, voxels ``stored`` (I, J, K; read-only), and what follows them.

    A voxel means ``stored * slope + intercept``. ``packing`` says what of the file is compressed.
    """

    head: bytes
    stored: np.ndarray
    geometry: Geometry
    packing: Packing
    slope: float = 1.0
    intercept: float = 0.0
    tail: bytes = b""

    def values(self) -> np.ndarray:
        """What the voxels mean: ``stored`` itself (native byte order) or, where it is scaled, float32."""
        if (self.slope, self.intercept) == (1.0, 0.0):
            return self.stored.astype(self.stored.dtype.newbyteorder("="), copy=False)
        values = np.empty(self.stored.shape, np.float32, order="F")
        for k in range(values.shape[2]):  # plane by plane: the arithmetic is float64, the whole array never is
            values[..., k] = self.stored[..., k].astype(np.float64) * self.slope + self.intercept
        return values

    def merged(self, changed: np.ndarray, values: np.ndarray) -> Iterator[np.ndarray]:
        """Planes [I, J] for ``write``: ``values`` where ``changed``, as nearest stored number, else the stored bits."""
        dtype = self.stored.dtype
        for k in range(self.stored.shape[2]):
            plane = np.array(self.stored[..., k])
            new = (values[..., k][changed[..., k]].astype(np.float64) - self.intercept) / self.slope
            if dtype.kind in "iu":
                limits = np.iinfo(dtype)
                new = np.clip(np.rint(new), limits.min, limits.max)
            plane[changed[..., k]] = new
            yield plane

    def write(self, path: Path, planes: Iterable[np.ndarray]) -> None:
        """The same file with other voxels: ``planes`` [I, J] for each k. Equal voxels give equal bytes."""
        voxels = (plane.astype(self.stored.dtype, copy=False).tobytes(order="F") for plane in planes)
        with path.open("wb") as file:
            if self.packing == "raw":
                file.writelines(chain([self.head], voxels, [self.tail]))
            elif self.packing == "gzip file":
                with _gzip(file) as packed:
                    packed.writelines(chain([self.head], voxels, [self.tail]))
            elif self.packing == "gzip voxels":
                file.write(self.head)
                with _gzip(file) as packed:
                    packed.writelines(voxels)
            else:
                packer = zlib.compressobj(_COMPRESSION_LEVEL)
                packed_voxels = b"".join([*map(packer.compress, voxels), packer.flush()])
                file.writelines([_with_packed_size(self.head, len(packed_voxels)), packed_voxels])


def read_bytes(path: Path, unpack: bool = False) -> bytes:
    """The whole file, gunzipped with ``unpack``; VolumeError when it is missing, damaged or truncated."""
    try:
        with gzip.open(path) if unpack else path.open("rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise VolumeError(f"{path} does not exist; check the path") from error
    except (OSError, EOFError, zlib.error) as error:
        raise VolumeError(f"{path} cannot be read, it is damaged or truncated ({error}); copy it anew") from error


def voxels_from(data: bytes, offset: int, dtype: np.dtype, shape: tuple[int, int, int], path: Path) -> np.ndarray:
    """Read-only (I, J, K) view of ``data``; VolumeError when it is too short."""
    needed = int(np.prod(shape)) * dtype.itemsize
    found = max(len(data) - offset, 0)
    if found < needed:
        raise VolumeError(f"{path} is truncated: expected {needed} bytes of voxels, found {found}; copy it anew")
    return np.frombuffer(data, dtype, int(np.prod(shape)), offset).reshape(shape, order="F")


def _gzip(file: BinaryIO) -> gzip.GzipFile:
    # No name and no time inside, so that the same voxels give the same bytes.
    return gzip.GzipFile("", "wb", _COMPRESSION_LEVEL, file, mtime=0)


def _with_packed_size(head: bytes, size: int) -> bytes:
    return re.sub(rb"(?m)^(CompressedDataSize\s*=\s*)\d+", rb"\g<1>%d" % size, head)
