"""Grids and boxes: where voxels lie in the patient.

A grid is a shape and an affine that takes voxel indices (i, j, k) to RAS millimeters (x to the patient's Right,
y to Anterior, z to Superior). Integer indices are voxel centers, so voxel 0 spans -0.5 to 0.5. Boxes are half-open.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from LesionDiffusionLib.errors import GeometryError

_MAX_SHEAR_DEGREES = 0.1  # headers store direction cosines as float32 or with six digits: far below this
ROUNDING_VOX = 1e-6  # float64 noise of multiplying two affines
_MAX_DRIFT_VOX = 0.05  # over a whole grid, before two grids no longer count as parallel
_AXIS_LETTERS = ("LR", "PA", "IS")  # (towards minus, towards plus) along x, y, z of RAS


@dataclass(frozen=True, eq=False)
class Geometry:
    """A voxel grid in the patient: ``shape`` (I, J, K) and the 4x4 ``affine_ras`` from voxel indices to RAS mm.

    The axes may be permuted, flipped, oblique and of different spacing, but not sheared.

    Raises:
        GeometryError: the shape is not three positive sizes; the affine is malformed, not finite, singular or sheared.
    """

    shape: tuple[int, int, int]
    affine_ras: np.ndarray

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise GeometryError(f"a grid needs three positive sizes, got shape {shape}; give a non-empty 3-D volume")
        affine = np.array(self.affine_ras, dtype=np.float64)
        _check_affine(affine)
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine_ras", affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighboring voxel centers along i, j, k."""
        return tuple(float(s) for s in np.linalg.norm(self.affine_ras[:3, :3], axis=0))

    @property
    def directions_ras(self) -> np.ndarray:
        """(3, 3): column a is the unit vector along which voxel axis a grows."""
        return self.affine_ras[:3, :3] / np.asarray(self.spacing_mm)

    @property
    def axis_codes(self) -> str:
        """Three letters such as "LPS": the anatomical direction nearest to that in which i, j, k grow."""
        codes = [""] * 3
        for world, (axis, sign) in enumerate(nearest_axes(self)):
            codes[axis] = _AXIS_LETTERS[world][sign > 0]
        return "".join(codes)

    def to_ras(self, points_vox: np.ndarray) -> np.ndarray:
        """Voxel coordinates (..., 3) to RAS mm (..., 3)."""
        return np.asarray(points_vox, np.float64) @ self.affine_ras[:3, :3].T + self.affine_ras[:3, 3]

    def to_voxel(self, points_ras: np.ndarray) -> np.ndarray:
        """RAS mm (..., 3) to continuous voxel coordinates (..., 3)."""
        offsets = np.asarray(points_ras, np.float64) - self.affine_ras[:3, 3]
        return offsets @ np.linalg.inv(self.affine_ras[:3, :3]).T

    def to_voxel_of(self, other: Geometry, points_vox: np.ndarray) -> np.ndarray:
        """Voxel coordinates (..., 3) of this grid to those of ``other``."""
        return other.to_voxel(self.to_ras(points_vox))

    def cropped(self, box: Box) -> Geometry:
        """The grid of the voxels in ``box``, which may reach outside (padding): each voxel keeps its place."""
        affine = self.affine_ras.copy()
        affine[:3, 3] = self.to_ras(box.start)
        return Geometry(box.shape, affine)

    def difference(self, other: Geometry, tolerance_vox: float = 0.01) -> str | None:
        """None when both grids have their voxels in the same places, else one clause that says how they differ.

        ``tolerance_vox`` bounds the distance between corresponding corner voxels, in voxels of this grid.
        """
        if self.shape != other.shape:
            return f"shapes {self.shape} and {other.shape}"
        corners = np.stack(np.meshgrid(*((0, n - 1) for n in self.shape), indexing="ij"), axis=-1).reshape(-1, 3)
        distance_vox = float(np.abs(other.to_voxel_of(self, corners) - corners).max())
        if distance_vox <= tolerance_vox:
            return None
        return ", ".join(self._clauses(other, tolerance_vox)) or f"corners {distance_vox:.2g} voxels apart"

    def voxels_coincide(self, other: Geometry, tolerance_vox: float = 0.01) -> bool:
        """Whether voxels of both grids lie in the same places where they overlap: one may be cropped, its axes turned
        by right angles or reversed."""
        to_other = other.to_voxel_of(self, np.vstack([np.zeros(3), np.eye(3)]))
        first, steps = to_other[0], to_other[1:] - to_other[0]
        if not np.array_equal(np.sort(np.abs(np.round(steps)), axis=1), [[0, 0, 1]] * 3):
            return False
        drift = np.abs(steps - np.round(steps)).T @ np.asarray(self.shape)
        return bool(np.all(np.abs(first - np.round(first)) + drift <= tolerance_vox))

    def _clauses(self, other: Geometry, tolerance_vox: float) -> list[str]:
        """What differs between two grids of equal shape, by more than moves a corner by ``tolerance_vox``."""
        spacing_drift = np.abs(np.subtract(self.spacing_mm, other.spacing_mm)) * self.shape / self.spacing_mm
        cosines = np.sum(self.directions_ras * other.directions_ras, axis=0)
        degrees = float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).max())
        distance = float(np.linalg.norm(self.affine_ras[:3, 3] - other.affine_ras[:3, 3]))
        clauses = []
        if spacing_drift.max() > tolerance_vox:
            clauses.append(f"spacings {_mm(self.spacing_mm)} and {_mm(other.spacing_mm)} mm")
        if np.radians(degrees) * max(self.shape) > tolerance_vox:
            codes = "" if self.axis_codes == other.axis_codes else f" ({self.axis_codes} and {other.axis_codes})"
            clauses.append(f"axes {degrees:.3g} degrees apart{codes}")
        if distance > tolerance_vox * min(self.spacing_mm):
            clauses.append(f"origins {distance:.4g} mm apart")
        return clauses


@dataclass(frozen=True)
class Box:
    """A half-open box of voxels, ``start`` (included) to ``stop`` (not included), each (i, j, k); may leave the grid.

    Raises:
        GeometryError: the box is empty or inverted along an axis.
    """

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", tuple(int(v) for v in self.start))
        object.__setattr__(self, "stop", tuple(int(v) for v in self.stop))
        if len(self.start) != 3 or len(self.stop) != 3:
            raise GeometryError(f"a box needs three starts and three stops, got {self.start} and {self.stop}")
        for axis, first, stop in zip("ijk", self.start, self.stop, strict=True):
            if stop <= first:
                raise GeometryError(f"box {self} is empty along {axis}: its stop must be greater than its start")

    def __str__(self) -> str:
        return ",".join(f"{first}:{stop}" for first, stop in zip(self.start, self.stop, strict=True))

    @classmethod
    def parse(cls, text: str) -> Box:
        """The box written as "I0:I1,J0:J1,K0:K1" (half-open, voxels), the form that ``str`` gives."""
        number = r"\s*([+-]?\d+)\s*"
        match = re.fullmatch(",".join([f"{number}:{number}"] * 3), text)
        if match is None:
            raise GeometryError(f'expected a box "I0:I1,J0:J1,K0:K1" of whole voxel numbers, got "{text}"')
        numbers = [int(n) for n in match.groups()]
        return cls(tuple(numbers[0::2]), tuple(numbers[1::2]))

    @classmethod
    def whole(cls, shape: tuple[int, int, int]) -> Box:
        """The box of all voxels of a grid of ``shape``."""
        return cls((0, 0, 0), shape)

    @classmethod
    def bounding(cls, mask: np.ndarray) -> Box:
        """The smallest box around the nonzero voxels of ``mask`` (I, J, K); GeometryError when there are none."""
        extents = []
        for axis in range(3):
            hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
            if hit.size == 0:
                raise GeometryError("an empty mask has no bounding box; give a mask with at least one voxel")
            extents.append((hit[0], hit[-1] + 1))
        return cls(*zip(*extents, strict=True))

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(stop - first for first, stop in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of an (I, J, K) array; GeometryError for negative starts, which numpy would count from the end."""
        if min(self.start) < 0:
            raise GeometryError(f"box {self} starts outside the volume; clip it to the volume first")
        return tuple(slice(first, stop) for first, stop in zip(self.start, self.stop, strict=True))

    @property
    def center_vox(self) -> tuple[float, float, float]:
        """Continuous voxel coordinates of the middle, e.g. 0.5 for the voxels 0 and 1."""
        return tuple((first + stop - 1) / 2 for first, stop in zip(self.start, self.stop, strict=True))

    def size_mm(self, geometry: Geometry) -> tuple[float, float, float]:
        """Edge lengths along the voxel axes i, j, k."""
        return tuple(n * s for n, s in zip(self.shape, geometry.spacing_mm, strict=True))

    def contains(self, other: Box) -> bool:
        return all(a <= b for a, b in zip(self.start, other.start, strict=True)) and all(
            a >= b for a, b in zip(self.stop, other.stop, strict=True)
        )

    def intersection(self, other: Box) -> Box | None:
        """The common voxels, or None."""
        start = tuple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = tuple(min(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        return Box(start, stop) if all(a < b for a, b in zip(start, stop, strict=True)) else None

    def padded(self, margin_vox: int | tuple[int, int, int]) -> Box:
        """Grown by ``margin_vox`` voxels on both sides of each axis (shrunk when negative)."""
        margin = np.broadcast_to(np.asarray(margin_vox, int), 3)
        return Box(tuple(np.subtract(self.start, margin)), tuple(np.add(self.stop, margin)))

    def clipped(self, shape: tuple[int, int, int]) -> Box:
        """The part inside a volume of ``shape``; GeometryError when nothing is left."""
        inside = self.intersection(Box.whole(shape))
        if inside is None:
            raise GeometryError(f"box {self} lies outside the volume of shape {tuple(shape)}; move it inside")
        return inside

    def corners_vox(self) -> np.ndarray:
        """(8, 3) voxel coordinates of the corners, at the outer edges of the outermost voxels."""
        edges = np.array([self.start, self.stop]) - 0.5
        return np.stack(np.meshgrid(*edges.T, indexing="ij"), axis=-1).reshape(8, 3)


def nearest_axes(geometry: Geometry) -> tuple[tuple[int, int], ...]:
    """For each of R, A, S: (voxel axis nearest to it, +1 if that axis grows that way, else -1).

    Every voxel axis is used once: the assignment with the greatest total alignment is taken.
    """
    directions = geometry.directions_ras
    axes = max(permutations(range(3)), key=lambda axes: sum(abs(directions[world, axes[world]]) for world in range(3)))
    return tuple((axis, 1 if directions[world, axis] > 0 else -1) for world, axis in enumerate(axes))


def size_to_axes(geometry: Geometry, size_mm_xyz: tuple[float, float, float]) -> tuple[float, float, float]:
    """A size in mm along (R-L, A-P, S-I) as mm along the voxel axes (i, j, k) nearest to those directions."""
    size_ijk = [0.0] * 3
    for world, (axis, _) in enumerate(nearest_axes(geometry)):
        size_ijk[axis] = float(size_mm_xyz[world])
    return tuple(size_ijk)


def axes_to_size(geometry: Geometry, size_mm_ijk: tuple[float, float, float]) -> tuple[float, float, float]:
    """A size in mm along the voxel axes (i, j, k) as mm along the nearest of (R-L, A-P, S-I)."""
    return tuple(float(size_mm_ijk[axis]) for axis, _ in nearest_axes(geometry))


def parallel_axes(source: Geometry, target: Geometry) -> tuple[tuple[int, ...], list[np.ndarray]] | None:
    """How the axes of two grids correspond, or None when they are rotated to each other.

    Returns ``axes`` and ``coordinates``: target axis t runs along source axis ``axes[t]``, and ``coordinates[a]`` are
    the positions along source axis a, in its voxels, of the indices of the target axis that runs along it.
    """
    to_source = np.linalg.inv(source.affine_ras) @ target.affine_ras
    axes = tuple(int(a) for a in np.abs(to_source[:3, :3]).argmax(axis=0))
    across = to_source[:3, :3].copy()
    across[axes, range(3)] = 0
    drift_vox = np.abs(across) @ target.shape
    if sorted(axes) != [0, 1, 2] or drift_vox.max() > _MAX_DRIFT_VOX:
        return None
    coordinates = [np.empty(0)] * 3
    for t, a in enumerate(axes):
        vox = to_source[a, t] * np.arange(target.shape[t]) + to_source[a, 3]
        whole = np.rint(vox)
        coordinates[a] = np.where(np.abs(vox - whole) < ROUNDING_VOX, whole, vox)
    return axes, coordinates


def nearest_voxel(vox: np.ndarray) -> np.ndarray:
    """Nearest whole voxel, halves upwards (also halves with rounding noise, so that grids agree about them)."""
    return np.floor(vox + 0.5 + ROUNDING_VOX).astype(int)


def _check_affine(affine: np.ndarray) -> None:
    """GeometryError unless ``affine`` is a finite 4x4 matrix of three orthogonal, non-zero axes."""
    if affine.shape != (4, 4) or not np.array_equal(affine[3], (0, 0, 0, 1)):
        raise GeometryError(f"expected a 4x4 affine with last row 0 0 0 1, got {affine.tolist()}")
    if not np.isfinite(affine).all():
        raise GeometryError("the affine has NaN or infinite entries; repair the geometry in the file's header")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() <= 1e-6:
        raise GeometryError(f"the affine is singular: spacing {_mm(lengths)} mm; repair the spacing in the header")
    unit = affine[:3, :3] / lengths
    for a, b in ((0, 1), (0, 2), (1, 2)):
        degrees = np.degrees(np.arccos(np.clip(unit[:, a] @ unit[:, b], -1, 1)))
        if abs(degrees - 90) > _MAX_SHEAR_DEGREES:
            raise GeometryError(
                f"the grid is sheared: axes {'ijk'[a]} and {'ijk'[b]} are {degrees:.2f} degrees apart instead of 90; "
                "resample the volume to orthogonal axes first"
            )


def _mm(lengths: tuple[float, ...] | np.ndarray) -> str:
    return "(" + ", ".join(f"{length:.6g}" for length in lengths) + ")"
