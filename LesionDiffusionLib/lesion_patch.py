"""A finished lesion as the small part of a CT that changed: what the worker sends, and what undo needs."""

from __future__ import annotations

import base64
import dataclasses
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from LesionDiffusionLib.case import Case, Measurement, share_fitting
from LesionDiffusionLib.errors import VolumeError
from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.volume import Volume


@dataclass(frozen=True, eq=False)
class LesionPatch:
    """One lesion without the CT it belongs to.

    Attributes:
        changed_box, changed_hu: the part of the CT that may differ, and its new values in the CT's dtype.
        lesion_box, lesion: tight box of the mask, and the mask (bool) in it.
        report, box, measurements, warnings, provenance: as in `Case`.
    """

    changed_box: Box
    changed_hu: np.ndarray
    lesion_box: Box
    lesion: np.ndarray
    report: LesionReport
    box: Box
    measurements: tuple[Measurement, ...]
    warnings: tuple[str, ...]
    provenance: Mapping[str, Any]

    @classmethod
    def of(cls, case: Case) -> LesionPatch:
        """What a case holds beside the CT."""
        tight = Box.bounding(case.mask.array)
        return cls(
            case.changed_box,
            case.changed_hu,
            tight,
            case.mask.array[tight.slices],
            case.report,
            case.box,
            case.measurements,
            case.warnings,
            case.provenance,
        )

    def case(self, before: Volume) -> Case:
        """The case of this lesion in the CT it was made for."""
        mask = np.zeros(before.array.shape, bool, order="F")
        mask[self.lesion_box.slices] = self.lesion
        return Case(
            before,
            self.changed_box,
            self.changed_hu,
            Volume(mask, before.geometry),
            self.report,
            self.box,
            self.measurements,
            self.warnings,
            dict(self.provenance),
        )

    @property
    def share_fitting(self) -> float:
        """See `case.share_fitting`."""
        return share_fitting(self.measurements)

    def to_json(self) -> dict:
        """Plain JSON types; arrays as compressed text."""
        return {
            "changed_box": str(self.changed_box),
            "changed_hu": pack(self.changed_hu),
            "lesion_box": str(self.lesion_box),
            "lesion": pack(self.lesion),
            "report": self.report.to_json(),
            "box": str(self.box),
            "measurements": [dataclasses.asdict(m) for m in self.measurements],
            "warnings": list(self.warnings),
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_json(cls, data: Mapping) -> LesionPatch:
        """The inverse of ``to_json``. Raises VolumeError for arrays that do not fit their boxes."""
        changed_box, lesion_box = Box.parse(data["changed_box"]), Box.parse(data["lesion_box"])
        return cls(
            changed_box,
            unpack(data["changed_hu"], changed_box.shape),
            lesion_box,
            unpack(data["lesion"], lesion_box.shape),
            LesionReport.from_json(data["report"]),
            Box.parse(data["box"]),
            tuple(Measurement(**m) for m in data["measurements"]),
            tuple(data["warnings"]),
            data["provenance"],
        )


def pack(array: np.ndarray) -> dict[str, str]:
    """An array (I, J, K) of numbers or bool as text."""
    bits = array.dtype == bool
    data = np.packbits(array.ravel(order="F")) if bits else array.ravel(order="F")
    text = base64.b64encode(zlib.compress(data.tobytes(), 1)).decode("ascii")
    return {"dtype": "bool" if bits else array.dtype.str, "data": text}


def unpack(packed: Mapping[str, str], shape: tuple[int, int, int]) -> np.ndarray:
    """The inverse of ``pack``, read-only. Raises VolumeError when the data is damaged or has another size."""
    count = int(np.prod(shape))
    try:
        data = zlib.decompress(base64.b64decode(packed["data"]))
        if packed["dtype"] == "bool":
            values = np.unpackbits(np.frombuffer(data, np.uint8))[:count].astype(bool)
        else:
            values = np.frombuffer(data, packed["dtype"])
        return values.reshape(shape, order="F")
    except (ValueError, TypeError, zlib.error) as error:
        raise VolumeError(f"expected packed voxels of shape {tuple(shape)}, got damaged data: {error}") from error
