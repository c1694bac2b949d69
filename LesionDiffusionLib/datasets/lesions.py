"""The lesions of one scan as prepared cases: surroundings cut out, organ found, report read or measured."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from LesionDiffusionLib.datasets.scans import Scan
from LesionDiffusionLib.errors import DatasetError, ReportError, SettingsError
from LesionDiffusionLib.fit import ROUND_SPHERICITY, Finding
from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.labels import OrganMap, load_table
from LesionDiffusionLib.lesion_types import lesion_type
from LesionDiffusionLib.measured_report import measured_enhancement, measured_report
from LesionDiffusionLib.released_report import (
    CAVITIES,
    ReleasedEntry,
    read_type_json,
    released_image_strings,
    released_mask_strings,
)
from LesionDiffusionLib.report import LesionReport, image_strings, mask_strings, region_rule
from LesionDiffusionLib.training.prepared import PreparedCase
from LesionDiffusionLib.vocabulary import vocabulary
from LesionDiffusionLib.volume import Volume

NEAR_MM = 5.0  # an organ this close to a lesion may be the one it grows in
ALLOWED_HU = (-1024, 3071)


@dataclass(frozen=True)
class Limits:
    """Which lesions are kept, and how much round them.

    Attributes:
        margin_mm: of the surroundings; a 128 mm window round a small lesion needs 64.
        per_scan: lesions of one label value, largest first.
        least_voxels: smaller ones are left out.
        round_sphericity: from which on a lesion is called round-like, where its shape is measured. The ruler of our
            own measurements by default; smoothly drawn data need a stricter one to be told apart.

    Raises SettingsError for a margin below 0 or fewer than one lesion per scan.
    """

    margin_mm: float = 80.0
    per_scan: int = 3
    least_voxels: int = 30
    round_sphericity: float = ROUND_SPHERICITY

    def __post_init__(self) -> None:
        if not (0 <= self.margin_mm < math.inf and self.per_scan >= 1):
            raise SettingsError(
                f"expected a margin of 0 mm or more and 1 lesion per scan or more, got {self.margin_mm:g} mm and "
                f"{self.per_scan}; change --margin-mm or --lesions-per-scan"
            )


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case, its lesion type, its measured size, which attributes of its report are measured rather than read, and
    whether any were read."""

    case: PreparedCase
    lesion_type: str | None
    size_mm: tuple[float, float, float]
    measured: tuple[str, ...]
    told: bool


@dataclass(frozen=True)
class LeftOut:
    """A lesion, or a whole scan, that is not used, and why."""

    scan: str
    reason: str


@dataclass(frozen=True)
class Remark:
    """Something that a user gave for a scan and that was not used as given."""

    scan: str
    text: str


def lesions_of(
    scan: Scan, ct: Volume | None, labels: Volume, organs: OrganMap, limits: Limits
) -> Iterator[Prepared | LeftOut | Remark]:
    """Every lesion of a scan, as a case or with the reason why not. All volumes are on one grid.

    An entry of the scan's type file tells of one lesion, the largest of its organ that is not told of yet. Entries that
    tell of none, and values that could not be read, are remarked on.

    A lesion that touches the scan's border is left out, and not only its size: cut there, it would teach LMNet that
    lesions have flat faces, and nobody knows the box that it belongs in.
    """
    entries = _entries(scan.report)
    yield from (Remark(scan.name, f"{_told_of(e)}: {warning}") for e in entries for warning in e.warnings)
    if not np.isin(labels.array, list(scan.lesions)).any():
        yield LeftOut(scan.name, f"no lesion: no voxel has the label {' or '.join(map(str, scan.lesions))}")
    for value, kind in scan.lesions.items():
        components, _ = ndimage.label(labels.array == value)
        sizes = np.bincount(components.ravel())[1:]
        order = np.argsort(-sizes, kind="stable") + 1
        for number in order:
            told = f"lesion of {sizes[number - 1]} voxels with label {value}"
            if sizes[number - 1] < limits.least_voxels:
                yield LeftOut(scan.name, f"{told}: fewer than {limits.least_voxels}")
            elif number in order[limits.per_scan :]:
                yield LeftOut(scan.name, f"{told}: more than {limits.per_scan} in this scan")
            else:
                try:
                    patient = _cut_out(ct, organs, components == number, limits.margin_mm)
                    prepared, entry = _prepared(scan, kind, patient, entries, limits.round_sphericity)
                    entries = [other for other in entries if other is not entry]
                    yield prepared
                except (DatasetError, ReportError) as error:
                    yield LeftOut(scan.name, f"{told}: {error}")
    yield from (Remark(scan.name, f"{_told_of(e)} tells of no lesion that is used") for e in entries)


def _told_of(entry: ReleasedEntry) -> str:
    return f'entry "{entry.class_id}" ({entry.report.organ or "no organ of the vocabulary"}) of the type file'


class _Surroundings(NamedTuple):
    """A lesion and what lies round it, all on one grid."""

    ct: Volume | None
    organs: OrganMap
    lesion: np.ndarray


def _cut_out(ct: Volume | None, organs: OrganMap, lesion: np.ndarray, margin_mm: float) -> _Surroundings:
    """Raises DatasetError when the lesion touches the scan's border."""
    geometry, extent = organs.volume.geometry, Box.bounding(lesion)
    if min(extent.start) == 0 or any(stop == n for stop, n in zip(extent.stop, geometry.shape, strict=True)):
        raise DatasetError("it touches the scan's border, so that nobody knows the rest of it")
    margin_vox = tuple(int(np.ceil(margin_mm / s)) for s in geometry.spacing_mm)
    box = extent.padded(margin_vox).clipped(geometry.shape)
    organs = OrganMap(organs.volume.cropped(box), organs.table)
    return _Surroundings(None if ct is None else ct.cropped(box), organs, lesion[box.slices])


def _prepared(
    scan: Scan, kind: str | None, patient: _Surroundings, entries: list[ReleasedEntry], round_sphericity: float
) -> tuple[Prepared, ReleasedEntry | None]:
    """A case, and the entry that tells of it. Its size is the mask's in any case."""
    ct, organs, lesion = patient
    organ = _organ_of(organs, lesion, scan, kind)
    target = organs.mask(organ) | lesion
    finding = Finding(None if ct is None else ct.array, lesion, target, organs.volume.geometry)
    entry = next((e for e in entries if e.report.organ == organ), None)
    read = LesionReport() if entry is None else entry.report
    known = kind and lesion_type(kind)
    # both kidneys: a map that holds nothing else knows no neighbors
    others = (organs.volume.array > 0) & ~organs.mask(scan.organ or organ) & ~target
    measured = measured_report(
        finding,
        organ,
        others if others.any() else None,
        ct is not None,
        round_sphericity,
        known,
        read.enhancement or _enhancement(scan, patient),
    )
    values = {f.name: getattr(read, f.name) for f in dataclasses.fields(read) if getattr(read, f.name) is not None}
    values.pop("size_mm", None)
    own = {name: getattr(measured, name) for name in measured.__dataclass_fields__ if name not in values}
    report = LesionReport(**{**own, **values, "organ": organ, "lesion_type": known and known.name})
    given = {"organ", "organ_type"} | ({"enhancement"} if scan.enhancement is not None else set())
    found = tuple(name for name, value in own.items() if value is not None and name not in given)
    ct_value = None if ct is None else round(float(ct.array[lesion].mean()), 1)
    number = next(n for n, name in load_table("totalseg_v1").items() if name in vocabulary().organ(organ).labels)
    numbers = np.where(lesion, np.uint8(number), organs.volume.array.astype(np.uint8))
    case = PreparedCase(
        None if ct is None else Volume(_stored(ct.array), ct.geometry),
        Volume(numbers, organs.volume.geometry),
        target,
        lesion,
        report,
        _strings(report, entry, ct_value),
    )
    return Prepared(case, report.lesion_type, measured.size_mm, found, entry is not None), entry


def _enhancement(scan: Scan, patient: _Surroundings) -> str | None:
    """The contrast phase that the dataset states or the aorta shows; None without a CT."""
    ct, organs, _ = patient
    if ct is None or scan.enhancement is not None:
        return None if ct is None else scan.enhancement
    return measured_enhancement(ct, organs, ("aorta",))  # veins fill late: alone they tell nothing certain


def _organ_of(organs: OrganMap, lesion: np.ndarray, scan: Scan, kind: str | None) -> str:
    """The single organ with the most voxels in and close round the lesion. Raises DatasetError when there is none."""
    spacing_mm = organs.volume.geometry.spacing_mm
    near = ndimage.distance_transform_edt(~lesion, sampling=spacing_mm) <= NEAR_MM
    counts = np.bincount(organs.volume.array[near].ravel(), minlength=256)
    number_of = {name: number for number, name in organs.table.items()}
    allowed = _allowed(scan.organ, kind)
    found = {name: sum(counts[number_of[label]] for label in vocabulary().organ(name).labels) for name in allowed}
    best = max(found, key=found.__getitem__)
    if not found[best]:
        raise DatasetError(f"no voxel of {scan.organ or 'any known organ'} within {NEAR_MM:g} mm of it")
    return best


def _allowed(organ: str | None, kind: str | None) -> tuple[str, ...]:
    """Single organs that come into question."""
    if organ is not None:
        found = vocabulary().organ(organ)
        return found.parts or (found.name,)
    if kind is not None:
        return tuple(lesion_type(kind).organs)
    return tuple(name for name, found in vocabulary().organs.items() if not found.parts)


def _entries(path: Path | None) -> list[ReleasedEntry]:
    if path is None:
        return []
    try:
        return read_type_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read the report {path}: {error}") from error


def _strings(report: LesionReport, entry: ReleasedEntry | None, ct_value_hu: float | None) -> Mapping:
    """What the networks hear, in both spellings. An entry of a type file keeps its own words."""
    source = entry or report
    return {
        "report": {"mask": mask_strings(report), "image": image_strings(report)},
        "released": {
            "mask": released_mask_strings(source, CAVITIES[region_rule(report)]),
            "image": released_image_strings(source, ct_value_hu),
        },
    }


def _stored(ct_hu: np.ndarray) -> np.ndarray:
    return np.clip(np.round(ct_hu), *ALLOWED_HU).astype(np.int16)
