"""HU of a lesion before and after, and of the healthy organ around it: the numbers behind the panel's plot."""

from __future__ import annotations

from typing import Any

import numpy as np

from LesionDiffusionLib.case import Case
from LesionDiffusionLib.fit import surroundings

BINS = 40
LEAST_RANGE_HU = 60.0


def lesion_histogram(case: Case, organ: np.ndarray) -> dict[str, Any]:
    """Shares of voxels by HU in the lesion before, in the lesion after, and in the organ around it.

    Args:
        case: what `synthesize` returned.
        organ: bool (I, J, K), the target organ on the CT's grid.

    Returns:
        ``edges_hu`` (BINS + 1 numbers), and for "organ around", "lesion before" and "lesion after" BINS shares that sum
        to 1, or to 0 where there is no such voxel.
    """
    mask = case.mask.array
    around, changed = surroundings(mask, case.mask.geometry), case.changed_box
    before_hu, lesion = case.before.array[around.slices], mask[around.slices]
    values = {
        "organ around": before_hu[organ[around.slices] & ~lesion],
        "lesion before": before_hu[lesion],
        "lesion after": case.changed_hu[mask[changed.slices]],
    }
    edges_hu = _edges(np.concatenate([v.astype(np.float64) for v in values.values()]))
    counts = {name: np.histogram(v, edges_hu)[0] for name, v in values.items()}
    shares = {name: [round(float(c), 5) for c in n / max(1, n.sum())] for name, n in counts.items()}
    return {"edges_hu": [round(float(e), 2) for e in edges_hu], **shares}


def _edges(values_hu: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values_hu, (0.5, 99.5))
    missing = max(0.0, LEAST_RANGE_HU - (high - low)) / 2
    return np.linspace(low - missing, high + missing, BINS + 1)
