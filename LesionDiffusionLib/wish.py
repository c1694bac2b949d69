"""What the user asks for: a report, and where they like a place of their own; and which organ that place means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from LesionDiffusionLib.errors import PlacementError, VolumeError
from LesionDiffusionLib.geometry import Box, Geometry
from LesionDiffusionLib.labels import OrganMap
from LesionDiffusionLib.lesion_types import lesion_type
from LesionDiffusionLib.placement import box_at, inscribed_ellipsoid
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.vocabulary import vocabulary
from LesionDiffusionLib.volume import Volume


@dataclass(frozen=True)
class Wish:
    """What the user asks for. At most one of ``box``, ``center_ras_mm`` and ``mask``.

    Attributes:
        report: stated attributes; the rest is drawn.
        box: half-open voxel box on the CT's grid.
        center_ras_mm: center of the lesion.
        mask: bool (I, J, K), a lesion drawn by hand: LMNet is skipped.
        avoid: organ or structure names the lesion must not touch.
    """

    report: LesionReport
    box: Box | None = None
    center_ras_mm: tuple[float, float, float] | None = None
    mask: np.ndarray | None = None
    avoid: Sequence[str] = ()

    @property
    def place(self) -> str:
        """Who chose the place: "box", "center", "mask" or "rule"."""
        given = {"box": self.box, "center": self.center_ras_mm, "mask": self.mask}
        return next((name for name, value in given.items() if value is not None), "rule")


def check_wish(wish: Wish, ct: Volume) -> None:
    """Raises PlacementError or VolumeError for a place that is none of this CT, or for several."""
    if sum(given is not None for given in (wish.box, wish.center_ras_mm, wish.mask)) > 1:
        raise PlacementError("expected at most one of box, center and mask, got several; keep one")
    if wish.box is not None and not Box.whole(ct.geometry.shape).contains(wish.box):
        raise PlacementError(
            f"expected a box inside the CT of shape {ct.geometry.shape}, got {wish.box}; move or shrink it"
        )
    if wish.mask is None:
        return
    if wish.mask.shape != ct.array.shape:
        raise VolumeError(
            f"expected a mask of the CT's shape {ct.array.shape}, got {wish.mask.shape}; draw it on the CT"
        )
    if wish.mask.dtype != bool or not wish.mask.any():
        raise VolumeError(
            f"expected a bool mask with at least one voxel, got {wish.mask.dtype} with {wish.mask.sum()}; draw a lesion"
        )


def organ_there(geometry: Geometry, organs: OrganMap, wish: Wish) -> str | None:
    """Of the organs that the report leaves open, the one that the user's own place has most of; None: no such one."""
    if wish.place == "rule" or organs.is_unknown:
        return None
    report, present = wish.report, [name for name in organs.organs_present() if not _has_present_part(name, organs)]
    if report.organ is not None:
        possible = vocabulary().organ(report.organ).parts
    else:
        possible = present if report.lesion_type is None else lesion_type(report.lesion_type).organs
    box, lesion = own_lesion(wish, geometry)
    labels = organs.volume.array[box.slices][lesion]
    shares = {name: np.isin(labels, organs.numbers(name)).mean() for name in possible if name in present}
    return max(shares, key=shares.get) if any(shares.values()) else None


def _has_present_part(name: str, organs: OrganMap) -> bool:
    return any(organs.voxel_count(part) for part in vocabulary().organ(name).parts)


def own_lesion(
    wish: Wish, geometry: Geometry, size_mm: tuple[float, float, float] = (0, 0, 0)
) -> tuple[Box, np.ndarray]:
    """Box and voxels within it of the mask, or of the ellipsoid in the box or round the center.

    ``size_mm`` (X, Y, Z) is that of a lesion round a center; none takes the center's own voxel.
    """
    if wish.mask is not None:
        box = Box.bounding(wish.mask)
        return box, wish.mask[box.slices]
    box = wish.box or box_at(wish.center_ras_mm, size_mm, geometry)
    return box, inscribed_ellipsoid(box.shape)
