"""A dataset as a folder of prepared cases with a manifest: what was used, for what, and what was left out and why."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from LesionDiffusionLib import __version__
from LesionDiffusionLib.datasets.layouts import TEST_PART
from LesionDiffusionLib.datasets.lesions import LeftOut, Limits, Prepared, Remark, lesions_of
from LesionDiffusionLib.datasets.organs import Segment, check_folder, map_in, organs_of
from LesionDiffusionLib.datasets.scans import Scan
from LesionDiffusionLib.errors import DatasetError, OutputError, reason_of
from LesionDiffusionLib.io import read_ct, read_labels
from LesionDiffusionLib.training.prepared import CASES, FORMAT, MANIFEST
from LesionDiffusionLib.volume import align_to
from LesionDiffusionLib.whole_file import whole_file

ORGANS = "organs"  # folder for organ maps that were made


@dataclass(frozen=True)
class Preparation:
    """How to prepare.

    Attributes:
        out: new folder.
        organs: folder of existing organ maps, NAME.nii.gz, or None.
        segment: makes organ maps, or None.
        limits: which lesions are kept.
        seed: of the split.
        told: the command, for the manifest.
    """

    out: Path
    organs: Path | None = None
    segment: Segment | None = None
    limits: Limits = Limits()
    seed: int = 0
    told: str = ""


def prepare(
    dataset: str, scans: Iterable[Scan], how: Preparation, report: Callable[[int, str], None] = lambda n, text: None
) -> dict:
    """Prepare all scans; returns the manifest, which is written last and so only when everything else is there.

    A scan or lesion that cannot be used is listed with the reason; nothing takes its place. What was given and not used
    as given, such as an entry of a type file that fits no lesion, is listed under "remarks".

    Args:
        dataset: its name, for the manifest.
        scans: what to prepare.
        how: see Preparation.
        report: receives the number of scans done and a line about the last one.

    Raises:
        OutputError: the folder is taken or cannot be written.
        DatasetError: no lesion could be used, or the folder of organ maps has none of these scans.
    """
    if (how.out / MANIFEST).exists():
        raise OutputError(f"{how.out} holds a prepared dataset already; choose another --out")
    scans = list(scans)
    if how.organs is not None:
        check_folder(how.organs, scans)
    test = held_out({scan.patient for scan in scans}, how.seed)
    cases, left_out, remarks = [], [], []
    try:
        (how.out / CASES).mkdir(parents=True, exist_ok=True)
        for done, scan in enumerate(scans, start=1):
            before = len(cases)
            for found in _prepared(scan, how):
                if isinstance(found, LeftOut):
                    left_out.append({"scan": found.scan, "reason": found.reason})
                elif isinstance(found, Remark):
                    remarks.append({"scan": found.scan, "text": found.text})
                else:
                    prepared, organs_from = found
                    split = "test" if scan.patient in test else "train"
                    entry = _saved(prepared, scan, len(cases) - before, split, how.out)
                    cases.append(entry | {"organs_from": organs_from})
            report(done, f"{scan.name}: {len(cases) - before} lesions")
        if not cases:
            reasons = "; ".join(f"{entry['scan']}: {entry['reason']}" for entry in left_out[:3])
            raise DatasetError(f"none of {len(scans)} scans could be used: {reasons}")
        manifest = {"format": FORMAT, "dataset": dataset, "version": __version__, "made_by": how.told}
        manifest |= {
            "margin_mm": how.limits.margin_mm,
            "seed": how.seed,
            "cases": cases,
            "left_out": left_out,
            "remarks": remarks,
        }
        _write(how.out / MANIFEST, json.dumps(manifest, indent=1))
    except OSError as error:
        raise OutputError(f"cannot write to {how.out}: {error.strerror or error}; make room") from error
    return manifest


def held_out(patients: set[str], seed: int) -> set[str]:
    """A fifth of the patients, chosen by a hash: adding scans moves few of the others."""
    order = sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).digest())
    return set(order[: round(len(order) / TEST_PART)])


def _prepared(scan: Scan, how: Preparation) -> Iterator[tuple[Prepared, str] | LeftOut | Remark]:
    """The lesions of a scan, and where its organ map came from; a scan that cannot be read is left out as a whole."""
    try:
        labels, _ = read_labels(scan.label)
        ct = None
        if scan.image is not None:
            ct = read_ct(scan.image).volume
            labels = align_to(labels, ct, "label map")
        organs, organs_from = organs_of(scan, labels, how.organs, how.segment, how.out / ORGANS)
        if how.organs is not None and scan.organs is None and map_in(how.organs, scan.name) is None:
            yield Remark(scan.name, f"{how.organs} has no {scan.name}.nii.gz; its organ map is from {organs_from}")
        for found in lesions_of(scan, ct, labels, organs, how.limits):
            yield (found, organs_from) if isinstance(found, Prepared) else found
    except Exception as error:  # noqa: BLE001 - a bug shall not cost the hours of the other scans
        yield LeftOut(scan.name, reason_of(error))


def _saved(found: Prepared, scan: Scan, number: int, split: str, out: Path) -> dict:
    """Write a case; returns its entry of the manifest."""
    file = f"{CASES}/{scan.name}_{number}.npz"
    with whole_file(out / file) as partial:
        found.case.save(partial)
    report = found.case.report
    return {
        "id": f"{scan.name}_{number}",
        "scan": scan.name,
        "patient": scan.patient,
        "split": split,
        "file": file,
        "lesion_type": found.lesion_type,
        "organ": report.organ,
        "size_mm": [round(v, 3) for v in found.size_mm],
        "has_ct": found.case.ct is not None,
        "report": "type.json, completed by measuring" if found.told else "measured",
        "measured": list(found.measured),
        "attributes": report.attributes(),
    }


def _write(path: Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
