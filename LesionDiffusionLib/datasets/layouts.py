"""Where public datasets keep their scans and what their label values mean. Only paths here; nothing is read but lists.

Sources: the datasets' own pages (KiTS23, Medical Segmentation Decathlon, INSTANCE 2022), released-model 5.5 and 5.8.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from LesionDiffusionLib.datasets.scan_table import table
from LesionDiffusionLib.datasets.scans import Scan, some_scans, stem
from LesionDiffusionLib.errors import DatasetError

LIST_FILES = {"image": ("image_list.txt", "img_list.txt"), "label": ("label_list.txt",), "type": ("type_list.txt",)}
LIST_FILES |= {"seg": ("seg_list.txt", "coarseg_list.txt")}
TEST_PART = 5  # every fifth patient is held out (paper: 4:1)
PATIENT_SCANS = 3  # in one folder may be one patient's (contrast phases), however few patients there are


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
    return some_scans(found, folder, "case_00000/segmentation.nii.gz, or case_00000.nii.gz")


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
        Scan(stem(p), stem(p), p, folder / "imagesTr" / p.name, lesions, organ, values, enhancement=enhancement)
        for p in labels
    ]
    return some_scans(found, folder, "labelsTr/*.nii.gz and imagesTr/*.nii.gz")


def instance22(folder: Path) -> list[Scan]:
    """INSTANCE 2022: ``data/*.nii.gz`` and ``label/*.nii.gz`` (1 hemorrhage), perhaps in ``train_2/``."""
    root = folder / "train_2" if (folder / "train_2").is_dir() else folder
    found = [
        Scan(
            stem(p),
            stem(p),
            p,
            root / "data" / p.name,
            {1: "intracranial haemorrhage"},
            "brain",
            enhancement="non-contrast CT",
        )
        for p in sorted((root / "label").glob("*.nii.gz"))
    ]
    return some_scans(found, folder, "label/*.nii.gz and data/*.nii.gz")


def released(folder: Path) -> list[Scan]:
    """The released code's lists, aligned by line: image, label (1 organ, 2 lesion), type and seg (organ map, v1).

    Paths count from the folder of the lists. A list of types or organ maps may be absent; so may the list of images,
    where there are masks only. Labels of one folder are one patient's, unless it holds more than three and more than
    a fifth of all: then it groups something else, and every label is a patient's own.
    """
    columns = {kind: _list(folder, names) for kind, names in LIST_FILES.items()}
    labels = columns["label"] or []
    for kind, lines in columns.items():
        if lines is not None and len(lines) != len(labels):
            raise DatasetError(
                f"the lists in {folder} are not aligned: {len(labels)} labels and {len(lines)} of {kind}; "
                "give one path a line in each"
            )
    found, names, together = [], _names(labels), Counter(Path(label).parent for label in labels)
    most = max(PATIENT_SCANS, len(labels) // TEST_PART)
    for n, label in enumerate(labels):
        row = {kind: folder / lines[n] for kind, lines in columns.items() if lines is not None}
        found.append(
            Scan(
                names[n],
                str(Path(label).parent) if together[Path(label).parent] <= most else label,
                row["label"],
                row.get("image"),
                {2: None},
                None,
                (1, 2),
                row.get("seg"),
                "totalseg_v1" if "seg" in row else None,
                row.get("type"),
            )
        )
    return some_scans(found, folder, "label_list.txt with image_list.txt, type_list.txt and seg_list.txt beside it")


LAYOUTS = {"kits23": kits23, "msd": msd, "instance22": instance22, "released": released, "csv": table}


def _names(labels: list[str]) -> list[str]:
    """A name for each path: its last three parts, or as many more as tell them apart."""
    paths = [Path(label).with_suffix("").with_suffix("") for label in labels]
    parts = [path.relative_to(path.anchor).parts for path in paths]
    names = ["_".join(path[-3:]) for path in parts]
    for count in range(4, max(map(len, parts), default=0) + 1):
        if len(set(names)) == len(names):
            break
        names = ["_".join(path[-count:]) for path in parts]
    return names


def _list(folder: Path, names: tuple[str, ...]) -> list[str] | None:
    """The non-empty lines of the first of these files that exists."""
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        return None
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read the list {path}: {error}; give one path a line, in UTF-8") from error
