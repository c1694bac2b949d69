"""Saved cases: a folder with CT, lesion, report, provenance and preview, written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from LesionDiffusionLib.case import Case
from LesionDiffusionLib.errors import OutputError
from LesionDiffusionLib.io import CTFile, write_labels, write_like
from LesionDiffusionLib.preview import preview_image


def require_writable(folder: Path, force: bool = False) -> None:
    """Refuse an output folder early, before any work.

    Raises:
        OutputError: it exists (without ``force``), or is a file, or its parent cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"expected a folder to write to, but {folder} is a file; choose another --out")
    if folder.exists() and any(folder.iterdir()) and not force:
        raise OutputError(f"the output folder {folder} exists and is not empty; choose another --out or add --force")
    if folder.exists() and any(folder.iterdir()) and not (folder / "provenance.json").is_file():
        raise OutputError(f"{folder} holds other files than a saved case and is not overwritten; choose another --out")
    parent = next(p for p in folder.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OutputError(f"cannot write to {parent}; choose another --out")


def save_case(case: Case, ct_file: CTFile, folder: Path, force: bool = False) -> Path:
    """Write ``ct``, ``lesion.nii.gz``, ``report.json``, ``provenance.json`` and ``preview.png``.

    The CT keeps the input's file type where that can be written (else .nii.gz), header, dtype and grid. Everything goes
    to a temporary folder beside the target, which then takes its place in one step.

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
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        _write_files(case, ct_file, temporary)
        _swap_in(temporary, folder)
    except OSError as error:
        raise OutputError(f"could not write {folder}: {error.strerror or error}; nothing was kept") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_files(case: Case, ct_file: CTFile, folder: Path) -> None:
    write_like(ct_file, case.ct.array, folder / f"ct{ct_file.suffix}")
    write_labels(case.mask.array.astype(np.uint8), case.mask.geometry, folder / "lesion.nii.gz")
    (folder / "report.json").write_text(case.report.to_json() + "\n", encoding="utf-8")
    measurements = [dataclasses.asdict(m) for m in case.measurements]
    provenance = case.provenance | {
        "input": str(ct_file.source),
        "box": str(case.box),
        "measurements": measurements,
        "warnings": list(case.warnings),
    }
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    preview_image(case).save(folder / "preview.png")


def _swap_in(temporary: Path, folder: Path) -> None:
    """Rename ``temporary`` to ``folder``; an earlier case there is removed only after the new one stands."""
    if not folder.exists():
        temporary.rename(folder)
        return
    old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-old-")) / folder.name
    folder.rename(old)
    try:
        temporary.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)
