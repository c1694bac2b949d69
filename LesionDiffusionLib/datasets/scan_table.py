"""A CSV table of scans: a dataset of one's own, in whatever folders."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from LesionDiffusionLib.csv_rows import Row, csv_rows
from LesionDiffusionLib.datasets.scans import Scan, some_scans, stem
from LesionDiffusionLib.errors import DatasetError, LabelError, ReportError
from LesionDiffusionLib.labels import load_table
from LesionDiffusionLib.lesion_types import lesion_type
from LesionDiffusionLib.vocabulary import vocabulary

CSV_COLUMNS = ("name", "patient", "image", "label", "lesion_value", "lesion_type", "organ", "organ_values")
CSV_COLUMNS += ("organs", "numbering", "report", "enhancement")


def table(file: Path) -> list[Scan]:
    """A CSV of one's own. Columns: name, patient, image, label, lesion_value, lesion_type, organ, organ_values (such as
    "1 2"), organs, numbering, report, enhancement; only ``label`` is required. Paths count from the CSV's folder.

    Rows that differ in lesion value and type alone are one scan with several lesions. Rows that share an image or label
    file are one patient's, unless they name the patient.

    Raises:
        DatasetError: the table cannot be read or used; names the line.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv_rows(stream)
    except (OSError, csv.Error, ValueError) as error:
        raise DatasetError(f"cannot read the table {file}: {error}; give a CSV with the column label") from error
    unknown = sorted({name for row in rows for name in row.cells} - set(CSV_COLUMNS))
    if unknown:
        raise DatasetError(f"{file}: expected columns among {', '.join(CSV_COLUMNS)}, got {', '.join(unknown)}")
    scans = _with_patients([_scan(file.parent, row) for row in rows])
    return some_scans(_merged(scans), file, "one row a lesion value of a scan")


def _with_patients(scans: Sequence[Scan]) -> list[Scan]:
    """Who names no patient belongs to the first one named among the scans that share files, else to the first name."""
    first = _first_of_same_files(scans)
    named = {}
    for n, scan in zip(first, scans, strict=True):
        if scan.patient:
            named.setdefault(n, scan.patient)
    return [
        dataclasses.replace(scan, patient=scan.patient or named.get(n, scans[n].name))
        for n, scan in zip(first, scans, strict=True)
    ]


def _first_of_same_files(scans: Sequence[Scan]) -> list[int]:
    """For each scan the number of the first one that it shares a file with, directly or through others."""
    earlier, row_with = list(range(len(scans))), {}

    def first(n: int) -> int:
        while earlier[n] != n:
            n = earlier[n]
        return n

    for n, scan in enumerate(scans):
        for path in filter(None, (scan.image, scan.label)):
            low, high = sorted((first(n), first(row_with.setdefault(path.resolve(), n))))
            earlier[high] = low
    return [first(n) for n in range(len(scans))]


def _merged(scans: Sequence[Scan]) -> list[Scan]:
    """Scans that differ in their lesions alone become one. Raises DatasetError when a label value is told twice."""
    merged: dict[Scan, Scan] = {}
    for scan in scans:
        key = dataclasses.replace(scan, lesions=())
        if key in merged and not scan.lesions.keys() & merged[key].lesions.keys():
            scan = dataclasses.replace(scan, lesions={**merged[key].lesions, **scan.lesions})
        elif key in merged:
            (value,) = scan.lesions
            raise DatasetError(f"the table has several rows for the scan {scan.name} and the label {value}; keep one")
        merged[key] = scan
    return [*merged.values()]


def _known(cell: Mapping[str, str]) -> str | None:
    """The stated enhancement. Raises ReportError, LabelError for a word or a numbering that does not exist: told now,
    not after hours of reading."""
    if "lesion_type" in cell:
        lesion_type(cell["lesion_type"])
    if "organ" in cell:
        vocabulary().organ(cell["organ"])
    if "numbering" in cell:
        load_table(cell["numbering"])
    return vocabulary().canonical("enhancement status", cell["enhancement"]) if "enhancement" in cell else None


def _scan(folder: Path, row: Row) -> Scan:
    cell = row.cells
    if "label" not in cell:
        raise DatasetError(f"line {row.line} of the table has no label; the column label gives its map's path")
    paths = {name: folder / cell[name] if name in cell else None for name in ("image", "label", "organs", "report")}
    try:
        value = int(cell.get("lesion_value", "1"))
        organ_values = tuple(int(v) for v in cell.get("organ_values", "").split())
    except ValueError as error:
        raise DatasetError(f"line {row.line} of the table: label values are whole numbers ({error})") from error
    name = cell.get("name", stem(paths["label"]))
    if Path(name).name != name:
        raise DatasetError(
            f'line {row.line} of the table: expected a plain name, got "{name}"; the column patient groups scans'
        )
    try:
        enhancement = _known(cell)
    except (ReportError, LabelError) as error:
        raise DatasetError(f"line {row.line} of the table: {error}") from error
    return Scan(
        name,
        cell.get("patient", ""),
        paths["label"],
        paths["image"],
        {value: cell.get("lesion_type")},
        cell.get("organ"),
        organ_values,
        paths["organs"],
        cell.get("numbering"),
        paths["report"],
        enhancement,
    )
