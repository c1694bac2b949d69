"""Where public datasets keep their scans and what their label values mean. Only paths here; nothing is read but lists.

Sources: the datasets' own pages (KiTS23, Medical Segmentation Decathlon, INSTANCE 2022), released-model 5.5 and 5.8.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from LesionDiffusionLib.csv_rows import Row, csv_rows
from LesionDiffusionLib.errors import DatasetError, ReportError
from LesionDiffusionLib.vocabulary import vocabulary

LIST_FILES = {"image": ("image_list.txt", "img_list.txt"), "label": ("label_list.txt",), "type": ("type_list.txt",)}
LIST_FILES |= {"seg": ("seg_list.txt", "coarseg_list.txt")}
TEST_PART = 5  # every fifth patient is held out (paper: 4:1)
CSV_COLUMNS = ("name", "patient", "image", "label", "lesion_value", "lesion_type", "organ", "organ_values")
CSV_COLUMNS += ("organs", "numbering", "report", "enhancement")


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


def kits23(folder: Path) -> list[Scan]:
    """KiTS23: ``case_*/imaging.nii.gz`` and ``segmentation.nii.gz`` (1 kidney, 2 tumor, 3 cyst), perhaps in
    ``dataset/``; or label maps alone, ``case_*.nii.gz``."""
    root = folder / "dataset" if (folder / "dataset").is_dir() else folder
    found = []
    for path in sorted(root.glob("case_*")):
        name = path.name.split(".")[0]
        label = path / "segmentation.nii.gz" if path.is_dir() else path
        image = path / "imaging.nii.gz" if path.is_dir() else None
        kinds = {2: "kidney cancer", 3: "kidney cyst"}
        found.append(Scan(name, name, label, image, kinds, "kidney", (1, 2, 3), enhancement="enhanced CT"))
    return _some(found, folder, "case_00000/segmentation.nii.gz, or case_00000.nii.gz")


# Task -> (lesions, organ, label values of the organ, enhancement)
_MSD_TASKS = {
    "Task03_Liver": ({2: "liver cancer"}, "liver", (1, 2), "enhanced CT"),
    "Task06_Lung": ({1: "lung cancer"}, "lung", (), None),
    "Task07_Pancreas": ({2: "pancreas cancer"}, "pancreas", (1, 2), "enhanced CT"),
    "Task10_Colon": ({1: "colon cancer"}, "colon", (), "enhanced CT"),
}


def msd(folder: Path) -> list[Scan]:
    """Medical Segmentation Decathlon, one task's folder (liver, lung, pancreas, colon): ``imagesTr``, ``labelsTr``."""
    if folder.name not in _MSD_TASKS:
        raise DatasetError(f"expected one task's folder, {', '.join(_MSD_TASKS)}, got {folder.name}; keep its name")
    lesions, organ, values, enhancement = _MSD_TASKS[folder.name]
    labels = [p for p in sorted((folder / "labelsTr").glob("*.nii.gz")) if not p.name.startswith(".")]
    found = [
        Scan(_stem(p), _stem(p), p, folder / "imagesTr" / p.name, lesions, organ, values, enhancement=enhancement)
        for p in labels
    ]
    return _some(found, folder, "labelsTr/*.nii.gz and imagesTr/*.nii.gz")


def instance22(folder: Path) -> list[Scan]:
    """INSTANCE 2022: ``data/*.nii.gz`` and ``label/*.nii.gz`` (1 hemorrhage), perhaps in ``train_2/``."""
    root = folder / "train_2" if (folder / "train_2").is_dir() else folder
    found = [
        Scan(
            _stem(p),
            _stem(p),
            p,
            root / "data" / p.name,
            {1: "intracranial haemorrhage"},
            "brain",
            enhancement="non-contrast CT",
        )
        for p in sorted((root / "label").glob("*.nii.gz"))
    ]
    return _some(found, folder, "label/*.nii.gz and data/*.nii.gz")


def released(folder: Path) -> list[Scan]:
    """The released code's lists, aligned by line: image, label (1 organ, 2 lesion), type and seg (organ map, v1).

    Paths count from the folder of the lists. A list of types or organ maps may be absent; so may the list of images,
    where there are masks only. Labels of one folder are one patient's, unless it holds more than a fifth of all: then
    it groups something else, and every label is a patient's own.
    """
    columns = {kind: _list(folder, names) for kind, names in LIST_FILES.items()}
    labels = columns["label"] or []
    for kind, lines in columns.items():
        if lines is not None and len(lines) != len(labels):
            raise DatasetError(
                f"the lists in {folder} are not aligned: {len(labels)} labels and {len(lines)} of {kind}; "
                "give one path a line in each"
            )
    found, together = [], Counter(Path(label).parent for label in labels)
    most = max(1, len(labels) // TEST_PART)
    for n, label in enumerate(labels):
        row = {kind: folder / lines[n] for kind, lines in columns.items() if lines is not None}
        name = "_".join(Path(label).with_suffix("").with_suffix("").parts[-3:])
        found.append(
            Scan(
                name,
                str(Path(label).parent) if together[Path(label).parent] <= most else label,
                row["label"],
                row.get("image"),
                {2: None},
                None,
                (1, 2),
                row.get("seg"),
                "totalseg_v1",
                row.get("type"),
            )
        )
    return _some(found, folder, "label_list.txt with image_list.txt, type_list.txt and seg_list.txt beside it")


def table(file: Path) -> list[Scan]:
    """A CSV of one's own. Columns: name, patient, image, label, lesion_value, lesion_type, organ, organ_values (such as
    "1 2"), organs, numbering, report, enhancement; only ``label`` is required. Paths count from the CSV's folder."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv_rows(stream)
    except (OSError, csv.Error, ValueError) as error:
        raise DatasetError(f"cannot read the table {file}: {error}; give a CSV with the column label") from error
    unknown = sorted({name for row in rows for name in row.cells} - set(CSV_COLUMNS))
    if unknown:
        raise DatasetError(f"{file}: expected columns among {', '.join(CSV_COLUMNS)}, got {', '.join(unknown)}")
    return _some([_scan(file.parent, row) for row in rows], file, "one row a scan")


LAYOUTS = {"kits23": kits23, "msd": msd, "instance22": instance22, "released": released, "csv": table}


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
    name = cell.get("name", _stem(paths["label"]))
    if Path(name).name != name:
        raise DatasetError(
            f'line {row.line} of the table: expected a plain name, got "{name}"; the column patient groups scans'
        )
    try:
        told = cell.get("enhancement")
        enhancement = told and vocabulary().canonical("enhancement status", told)
    except ReportError as error:
        raise DatasetError(f"line {row.line} of the table: {error}") from error
    return Scan(
        name,
        cell.get("patient", name),
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


def _list(folder: Path, names: tuple[str, ...]) -> list[str] | None:
    """The non-empty lines of the first of these files that exists."""
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        return None
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read the list {path}: {error}; give one path a line, in UTF-8") from error


def _some(found: list[Scan], place: Path, expected: str) -> list[Scan]:
    if not found:
        raise DatasetError(f"no scan found in {place}: expected {expected}")
    names = [scan.name for scan in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DatasetError(f"{place}: several scans are called {', '.join(twice[:3])}; give each its own name")
    return found


def _stem(path: Path) -> str:
    return path.name.split(".")[0]
