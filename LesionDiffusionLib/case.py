"""What one synthesis returns."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.volume import Volume


@dataclass(frozen=True)
class Measurement:
    """One attribute measured back from CT and mask.

    Attributes:
        attribute: name in the report.
        requested: what the report asked for.
        measured: what was found, with its unit.
        fits: whether the two agree; None when it could not be measured (``measured`` says why).
    """

    attribute: str
    requested: str
    measured: str
    fits: bool | None


@dataclass(frozen=True, eq=False)
class Case:
    """One CT with a synthetic lesion, held as the small part of it that changed.

    Attributes:
        before: the patient's CT in HU, untouched.
        changed_box: the part of the CT that may differ.
        changed_hu: its new values, in the CT's dtype.
        mask: bool (I, J, K), the lesion, on the CT's grid.
        report: the complete report, including what was drawn at random.
        box: the lesion box.
        measurements: asked-for against measured attributes.
        warnings: things the user should know, one sentence each.
        provenance: seed, settings, bundle, hashes, versions, device, seconds per stage, peak memory (plain JSON types).
    """

    before: Volume
    changed_box: Box
    changed_hu: np.ndarray
    mask: Volume
    report: LesionReport
    box: Box
    measurements: tuple[Measurement, ...]
    warnings: tuple[str, ...]
    provenance: dict[str, Any]

    @functools.cached_property
    def ct(self) -> Volume:
        """The whole CT with the lesion: a copy of ``before`` in which only ``changed_box`` was written."""
        array = self.before.array.copy(order="K")  # files are stored with i fastest; keep it so, it is much quicker
        array[self.changed_box.slices] = self.changed_hu
        return Volume(array, self.before.geometry)

    @property
    def share_fitting(self) -> float:
        """See `share_fitting`."""
        return share_fitting(self.measurements)


def share_fitting(measurements: Sequence[Measurement]) -> float:
    """Share of the measured attributes that fit the report; an attribute that could not be judged counts half."""
    verdicts = {True: 1.0, False: 0.0, None: 0.5}
    return sum(verdicts[m.fits] for m in measurements) / max(1, len(measurements))
