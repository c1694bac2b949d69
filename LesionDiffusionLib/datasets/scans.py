"""One scan of a dataset: where its files are and what their label values mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from LesionDiffusionLib.errors import DatasetError


@dataclass(frozen=True)
class Scan:
    """One scan of a dataset.

    Attributes:
        name: unique in the dataset.
        patient: scans of one patient never part between training and test.
        label: label map with the lesions.
        image: the CT; None for a dataset of masks only.
        lesions: label value -> lesion type, or None where the dataset does not say.
        organ: the organ or group the lesions belong to; None: any.
        organ_values: label values that are this organ, its lesions included; empty where it is not labeled.
        organs, numbering: an organ map and its numbering, if there is one.
        report: a type.json, if there is one.
        enhancement: of all scans of the dataset, where its page says so.
    """

    name: str
    patient: str
    label: Path
    image: Path | None
    lesions: Mapping[int, str | None]
    organ: str | None = None
    organ_values: tuple[int, ...] = ()
    organs: Path | None = None
    numbering: str | None = None
    report: Path | None = None
    enhancement: str | None = field(default=None)


def some_scans(found: list[Scan], place: Path, expected: str) -> list[Scan]:
    """The scans found. Raises DatasetError when there are none, or two of one name."""
    if not found:
        raise DatasetError(f"no scan found in {place}: expected {expected}")
    names = [scan.name for scan in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DatasetError(f"{place}: several scans are called {', '.join(twice[:3])}; give each its own name")
    return found


def stem(path: Path) -> str:
    """A file's name without its endings."""
    return path.name.split(".")[0]
