"""The file behind a CT that is in memory: its own, while that still holds the same voxels, else a new NIfTI."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from LesionDiffusionLib.errors import LesionDiffusionError
from LesionDiffusionLib.io import CTFile, read_ct
from LesionDiffusionLib.nifti import new_nifti
from LesionDiffusionLib.volume import Volume


def ct_file_for(ct: Volume, source: str) -> CTFile:
    """A `CTFile` for a CT (I, J, K) that was loaded from ``source`` ("" where nobody knows).

    A saved case then keeps the header of the user's file. When the file is gone, was changed, or is of a kind that
    cannot be read, a new .nii.gz header in the CT's dtype is made; the case is right either way.
    """
    try:
        found = read_ct(source) if source and Path(source).exists() else None
    except LesionDiffusionError:
        found = None
    if found is not None and _same(found.volume, ct):
        return found
    values = ct.array.astype(np.float32)
    values.setflags(write=False)
    return CTFile(Path(source or "in memory"), ".nii.gz", Volume(values, ct.geometry), new_nifti(ct))


def _same(found: Volume, ct: Volume) -> bool:
    return found.geometry.difference(ct.geometry) is None and np.array_equal(found.array, ct.array)
