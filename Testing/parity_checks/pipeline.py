"""Checker of recorded pipeline cases: what we keep of the released data flow.

Compared: orientation, window position, condition maps, the strings but the cavity (whose released rule reads the path
of the image). Not compared: the release's thresholding, its written files, its inpainting of whole volumes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from LesionDiffusionLib.geometry import Box, Geometry
from LesionDiffusionLib.lmnet import LARGEST_ORGAN_NUMBER, condition_maps
from LesionDiffusionLib.released_report import CAVITIES, ReleasedEntry, read_type_json, released_mask_strings
from LesionDiffusionLib.resampling import box_on_grid, sample, window_grid
from LesionDiffusionLib.volume import Volume
from parity_checks.record import Check, ParityError, Tensors, compare

LESION = 2  # label of boxes in the released label maps
SPACING_MM = 1.0


def read_record(folder: Path) -> tuple[dict[str, Any], Tensors]:
    """``expected.json`` and the arrays of ``expected.npz``."""
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    with np.load(folder / "expected.npz", allow_pickle=False) as archive:
        arrays = {key: torch.from_numpy(archive[key].astype(np.float64)) for key in archive.files}
    return expected, Tensors(arrays)


def check_pipeline(folder: Path, expected: dict[str, Any], recorded: Tensors) -> Iterator[Check]:
    from LesionDiffusionLib.io import read_labels  # loads SimpleITK, which the networks do not need

    organs, boxes = (read_labels(folder / f"{name}.nii.gz")[0] for name in ("totalseg", "bbox"))
    for key, volume in (("loaded/seg", organs), ("loaded/label", boxes)):
        whole = sample(volume, whole_grid(volume.geometry), order=0)[None].astype(np.float64)
        yield compare(key, whole, recorded[key], exact=True)
    entries = read_type_json((folder / "type.json").read_text(encoding="utf-8"))
    united = bool(re.search("lung|pneumon", expected["path_components_used_for_organ_and_disease"][0].lower()))
    components = selected_components(boxes.array == LESION)
    visited = set()
    for attempt in range(expected["lmnet_attempts"]):
        maps = recorded[f"lmnet/{attempt}/cond_maps_x104"]
        found = [compare_maps(organs, component, entries, united, maps) for component in components]
        chosen = min(range(len(found)), key=lambda n: found[n][0].error)
        check, entry = found[chosen]
        visited.add(chosen)
        yield Check(f"lmnet/{attempt}/cond_maps_x104 {check.what}", check.error)
        strings = [text for name, text in expected["lmnet_texts"][attempt] if name != "cavity"]
        yield Check(f"lmnet_texts/{attempt}", float(strings_without_cavity(entry) != strings), exact=True)
    yield Check("an attempt for every selected box", float(len(visited) != len(components)), exact=True)


def whole_grid(geometry: Geometry) -> Geometry:
    """The window grid that holds the whole volume: its own voxels along Superior, Anterior, Left."""
    axes = [next(axis for axis, code in enumerate(geometry.axis_codes) if code in pair) for pair in ("SI", "AP", "LR")]
    center_vox = tuple((n - 1) / 2 for n in geometry.shape)
    return window_grid(geometry, center_vox, SPACING_MM, tuple(geometry.shape[axis] for axis in axes))


def selected_components(lesion: np.ndarray, most: int = 3, least_voxels: int = 50) -> list[np.ndarray]:
    """Face-connected components in the released order and choice (released-model 5.5)."""
    labels, count = ndimage.label(lesion)
    if not count:
        raise ParityError(f"bbox.nii.gz holds no voxel of label {LESION}")
    components = sorted((labels == n for n in range(1, count + 1)), key=np.count_nonzero, reverse=True)
    return [part for part in components[:most] if np.count_nonzero(part) > least_voxels] or components[:1]


def compare_maps(
    organs: Volume, component: np.ndarray, entries: Sequence[ReleasedEntry], united: bool, recorded: Tensor
) -> tuple[Check, ReleasedEntry]:
    """One lesion box's condition maps against a record, and the report entry chosen for it (released-model 4.4)."""
    box = Box.bounding(component)
    grid = window_grid(organs.geometry, box.center_vox, SPACING_MM, tuple(recorded.shape[1:]))
    numbers = sample(organs, grid, order=0)
    present = [entry for entry in entries if (numbers == entry.class_id).any()] or list(entries)
    entry = max(present, key=lambda entry: np.count_nonzero(component & (organs.array == entry.class_id)))
    targets = [each.class_id for each in entries] if united else [entry.class_id]
    filled = np.zeros(grid.shape, bool)
    filled[box_on_grid(box, organs.geometry, grid).clipped(grid.shape).slices] = True
    maps = condition_maps(numbers, np.isin(numbers, targets), filled)[0]
    maps[0] *= LARGEST_ORGAN_NUMBER  # recorded as whole numbers
    return compare("window and maps", maps, recorded), entry


def strings_without_cavity(entry: ReleasedEntry) -> list[str]:
    cavity = next(iter(CAVITIES.values()))
    return [text for text in released_mask_strings(entry, cavity) if text != f"{cavity},"]
