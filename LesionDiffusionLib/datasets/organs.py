"""The organ map of a scan: an existing file, one made on demand, or the organ that the dataset itself has labeled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from LesionDiffusionLib.datasets.scans import Scan
from LesionDiffusionLib.errors import DatasetError
from LesionDiffusionLib.geometry import Geometry
from LesionDiffusionLib.io import read_labels
from LesionDiffusionLib.labels import OrganMap, load_table, organ_map
from LesionDiffusionLib.training.volumes import in_v1
from LesionDiffusionLib.vocabulary import vocabulary
from LesionDiffusionLib.volume import Volume, align_to

BOTH_SIDES_MM = 120.0  # a pair of organs spans more than this from right to left
SMALL_PART = 0.02  # of an organ: smaller components go with the side of their own center all the same

Segment = Callable[[Path, Path], Path]  # CT file, file to write -> the written organ map


def check_folder(folder: Path, scans: Sequence[Scan]) -> None:
    """Raises DatasetError when the folder of organ maps is none, or has a map of none of the scans."""
    if not folder.is_dir():
        raise DatasetError(f"expected a folder of organ maps, got {folder}, which is none; give --organs FOLDER")
    if scans and not any(map_in(folder, scan.name) for scan in scans):
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:3]) or "nothing"
        raise DatasetError(
            f"{folder} holds no organ map of these {len(scans)} scans: expected SCAN.nii.gz, such as "
            f"{scans[0].name}.nii.gz, got {there}; name the maps like the scans"
        )


def organs_of(
    scan: Scan, labels: Volume, folder: Path | None, segment: Segment | None, made: Path
) -> tuple[OrganMap, str]:
    """The organ map in TotalSegmentator v1 numbers on the grid of ``labels``, and where it came from.

    Args:
        scan: the scan.
        labels: its label map.
        folder: where existing organ maps lie, as NAME.nii.gz, or None.
        segment: makes a map, or None.
        made: folder for maps that are made; one that lies there already is used.

    Raises:
        DatasetError: there is none, and the dataset labels no organ.
    """
    places = {
        "dataset": scan.organs,
        "--organs": map_in(folder, scan.name),
        "TotalSegmentator": map_in(made, scan.name),
    }
    place = next((place for place, path in places.items() if path is not None), "TotalSegmentator")
    path = places[place]
    if path is None and segment is not None and scan.image is not None:
        made.mkdir(parents=True, exist_ok=True)
        path = segment(scan.image, made / f"{scan.name}.nii.gz")
    if path is not None:
        volume, names = read_labels(path)
        organs = in_v1(organ_map(align_to(volume, labels, "organ map"), names, None if names else scan.numbering))
        return organs, f"{place}: {path}"
    if not scan.organ_values or scan.organ is None:
        raise DatasetError("no organ map: give --organs FOLDER or --totalsegmentator")
    numbers = _numbered(np.isin(labels.array, scan.organ_values), labels.geometry, scan.organ)
    told = f"label values {' '.join(map(str, scan.organ_values))}"
    return OrganMap(Volume(numbers, labels.geometry), load_table("totalseg_v1")), told


def map_in(folder: Path | None, name: str) -> Path | None:
    """The organ map of the scan ``name`` in a folder, if there is one."""
    path = None if folder is None else folder / f"{name}.nii.gz"
    return path if path is not None and path.is_file() else None


def _numbered(organ: np.ndarray, geometry: Geometry, name: str) -> np.ndarray:
    """One organ, or a right and a left one told apart by position, in TotalSegmentator v1 numbers (I, J, K)."""
    number_of = {label: number for number, label in load_table("totalseg_v1").items()}
    labels = vocabulary().organ(name).labels
    numbers = np.zeros(organ.shape, np.uint8)
    if len(labels) == 1:
        numbers[organ] = number_of[labels[0]]
        return numbers
    sides = {side: next((label for label in labels if label.endswith(side)), None) for side in ("right", "left")}
    if len(labels) != 2 or None in sides.values():
        raise DatasetError(
            f"the dataset does not tell the {len(labels)} parts of the {name} apart: give --organs FOLDER"
        )

    components, count = ndimage.label(organ)
    centers = np.array(ndimage.center_of_mass(organ, components, range(1, count + 1))).reshape(count, 3)
    toward_right_mm = geometry.to_ras(centers)[:, 0]
    middle_mm = _middle(toward_right_mm, np.bincount(components.ravel())[1:], geometry)
    right = np.concatenate([[False], toward_right_mm > middle_mm])[components]
    numbers[organ & right], numbers[organ & ~right] = number_of[sides["right"]], number_of[sides["left"]]
    return numbers


def _middle(toward_right_mm: np.ndarray, sizes: np.ndarray, geometry: Geometry) -> float:
    """Midway between both organs where both are seen, else the middle of the image."""
    large = toward_right_mm[sizes > SMALL_PART * sizes.sum()] if len(sizes) else toward_right_mm
    if len(large) > 1 and np.ptp(large) > BOTH_SIDES_MM / 2:
        return float((large.min() + large.max()) / 2)
    return float(geometry.to_ras((np.array(geometry.shape) - 1) / 2)[0])
