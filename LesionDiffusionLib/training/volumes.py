"""Training volumes as .npz files: CT, organ labels and geometry, readable without SimpleITK."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from LesionDiffusionLib.geometry import Geometry
from LesionDiffusionLib.labels import OrganMap, load_table
from LesionDiffusionLib.volume import Volume


@dataclass(frozen=True, eq=False)
class TrainingVolume:
    """One healthy CT.

    Attributes:
        name: for messages.
        ct: HU (I, J, K).
        organs: organ map in TotalSegmentator v1 numbers on the CT's grid; None for a CT without one.
        contrast: whether the scan is contrast-enhanced.
    """

    name: str
    ct: Volume
    organs: OrganMap | None
    contrast: bool

    def save(self, folder: Path) -> Path:
        labels = np.zeros((0,) * 3, np.uint8) if self.organs is None else self.organs.volume.array.astype(np.uint8)
        path = folder / f"{self.name}.npz"
        ct_hu = np.round(self.ct.array).astype(np.int16)
        affine = self.ct.geometry.affine_ras
        np.savez_compressed(path, ct_hu=ct_hu, labels=labels, affine_ras=affine, contrast=self.contrast)
        return path

    @classmethod
    def load(cls, path: Path) -> TrainingVolume:
        with np.load(path, allow_pickle=False) as data:
            ct_hu, labels = data["ct_hu"], data["labels"]
            geometry = Geometry(ct_hu.shape, data["affine_ras"])
            organs = OrganMap(Volume(labels, geometry), load_table("totalseg_v1")) if labels.size else None
            return cls(path.stem, Volume(ct_hu, geometry), organs, bool(data["contrast"]))


def load_volumes(folder: Path) -> list[TrainingVolume]:
    """All volumes of a folder, in the order of their names (so that a seed means the same everywhere)."""
    return [TrainingVolume.load(path) for path in sorted(folder.glob("*.npz"))]


def in_v1(organs: OrganMap) -> OrganMap:
    """The same map in TotalSegmentator v1 numbers; structures v1 does not know become background."""
    labels = organs.numbers_in("totalseg_v1").astype(np.uint8)[organs.volume.array]
    return OrganMap(Volume(labels, organs.volume.geometry), load_table("totalseg_v1"))
