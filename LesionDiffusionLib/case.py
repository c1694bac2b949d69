"""What one synthesis returns."""

from __future__ import annotations

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
    """One CT with a synthetic lesion. Arrays are (I, J, K) on the patient's grid.

    Attributes:
        before: the patient's CT in HU, untouched.
        ct: the CT with the lesion; bit-identical to ``before`` outside the lesion's neighborhood.
        mask: bool, the lesion.
        report: the complete report, including what was drawn at random.
        box: the lesion box.
        measurements: asked-for against measured attributes.
        warnings: things the user should know, one sentence each.
        provenance: seed, settings, bundle, hashes, versions, device, seconds per stage, peak memory (plain JSON types).
    """

    before: Volume
    ct: Volume
    mask: Volume
    report: LesionReport
    box: Box
    measurements: tuple[Measurement, ...]
    warnings: tuple[str, ...]
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        assert np.asarray(self.mask.array).dtype == bool, "a case's mask is a bool array"

    @property
    def share_fitting(self) -> float:
        """Share of the measured attributes that fit the report; 1 when nothing could be measured."""
        judged = [m.fits for m in self.measurements if m.fits is not None]
        return sum(judged) / len(judged) if judged else 1.0
