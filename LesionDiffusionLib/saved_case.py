"""Saved cases: a folder with CT, lesion, report, provenance and preview, written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from LesionDiffusionLib.bundles import sha256_of
from LesionDiffusionLib.case import Case
from LesionDiffusionLib.errors import OutputError
from LesionDiffusionLib.homecoming import measure_change
from LesionDiffusionLib.io import CTFile, read_ct, write_labels, write_like
from LesionDiffusionLib.preview import preview_image

LESION, REPORT, PROVENANCE, PREVIEW = "lesion.nii.gz", "report.json", "provenance.json", "preview.png"


def require_writable(folder: Path, force: bool = False) -> None:
    """Refuse an output folder early, before any work.

    Raises:
        OutputError: it exists (without ``force``), is no whole saved case or holds other files, is a file, or cannot
            be written.
    """
    try:
        _require_writable(folder, force)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from error


def save_case(case: Case, ct_file: CTFile, folder: Path, force: bool = False) -> Path:
    """Write ``ct``, ``lesion.nii.gz``, ``report.json``, ``provenance.json`` and ``preview.png``.

    The CT keeps the input's file type where that can be written (else .nii.gz), header, dtype and grid; it is read
    back, and what it changed is measured on the written file. Everything goes to a temporary folder beside the target,
    which then takes its place in one step.

    Args:
        case: what `synthesize` returned.
        ct_file: the input, for its header.
        folder: must not exist, unless ``force`` replaces an earlier saved case.
        force: replace it.

    Returns:
        The folder.

    Raises:
        OutputError: the folder is taken, or the disk is full.
    """
    require_writable(folder, force)
    folder = folder.absolute()
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:100]}-"))
        _write_files(case, ct_file, temporary)
        _swap_in(temporary, folder)
    except OSError as error:
        raise OutputError(f"could not write {folder}: {error.strerror or error}; nothing was kept") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _require_writable(folder: Path, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"expected a folder to write to, but {folder} is a file; choose another --out")
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if there and not force:
        advice = "choose another --out" + (" or add --force" if PROVENANCE in there else "")
        raise OutputError(f"the output folder {folder} exists and is not empty; {advice}")
    foreign = sorted(there - {LESION, REPORT, PROVENANCE, PREVIEW} - {name for name in there if name.startswith("ct.")})
    if there and (foreign or PROVENANCE not in there):  # a scan and its mask may be called ct and lesion, too
        told = f"other files than a saved case ({', '.join(foreign[:3])})" if foreign else f"no {PROVENANCE} of a case"
        raise OutputError(f"{folder} holds {told} and is not overwritten; choose another --out")
    parent = next(p for p in folder.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OutputError(f"cannot write to {parent}; choose another --out")


def _write_files(case: Case, ct_file: CTFile, folder: Path) -> None:
    ct_path = folder / f"ct{ct_file.suffix}"
    write_like(ct_file, case.ct.array, ct_path)
    write_labels(case.mask.array.astype(np.uint8), case.mask.geometry, folder / LESION)
    (folder / REPORT).write_text(case.report.to_json() + "\n", encoding="utf-8")
    reach_mm = case.provenance["neighborhood_mm"]
    written = read_ct(ct_path).volume
    change = measure_change(case.before.array, written.array, case.mask.array, written.geometry, reach_mm)
    provenance = case.provenance | change | {"measured_on": ct_path.name} | _about(case, ct_file)
    (folder / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    preview_image(case).save(folder / PREVIEW)


def _about(case: Case, ct_file: CTFile) -> dict:
    hashed = sha256_of(ct_file.source) if ct_file.source.is_file() else None
    return {
        "input": {"ct": str(ct_file.source), "sha256": hashed},
        "measurements": [dataclasses.asdict(m) for m in case.measurements],
        "warnings": list(case.warnings),
    }


def _swap_in(temporary: Path, folder: Path) -> None:
    """Rename ``temporary`` to ``folder``; an earlier case there is removed only after the new one stands."""
    if not folder.exists():
        temporary.rename(folder)
        return
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:100]}-old-"))
    old = aside / folder.name
    try:
        folder.rename(old)
        temporary.rename(folder)
    finally:
        # Also after Ctrl-C between the two renames: one whole case always stands.
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
