"""Worklists: many cases in one file, and what became of each."""

from __future__ import annotations

import csv
import json
import os
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from LesionDiffusionLib.csv_rows import Row, csv_rows
from LesionDiffusionLib.errors import LesionDiffusionError, OutputError, WorklistError, reason_of
from LesionDiffusionLib.saved_case import PROVENANCE

MANIFEST, FAILED = "manifest.csv", ".failed.txt"
COLUMNS = ("name", "status", "line", "share_fitting", "seconds", "reason")


def read_worklist(path: Path) -> list[Row]:
    """The rows of a CSV with a header, or of JSON lines (.jsonl).

    Raises:
        WorklistError: unreadable, empty, or a line that is not one object of texts and numbers.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = _json_rows(stream) if path.suffix.lower() == ".jsonl" else csv_rows(stream)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise WorklistError(
            f"cannot read the worklist {path}: {error}; give a CSV with a header, or .jsonl with an object per line"
        ) from error
    if not rows:
        raise WorklistError(f"the worklist {path} names no case; give a header and a line per case")
    return rows


def _json_rows(stream: Iterable[str]) -> list[Row]:
    rows = []
    for line, text in enumerate(stream, start=1):
        if not text.strip():
            continue
        try:
            cells = json.loads(text)
        except ValueError as error:
            raise ValueError(f"line {line}: {error}") from None
        if not isinstance(cells, dict) or not all(isinstance(v, str | int | float | None) for v in cells.values()):
            raise ValueError(f"line {line}: expected an object of texts and numbers, got {text.strip():.60}")
        rows.append(Row(line, {k: str(v) for k, v in cells.items() if v is not None and str(v).strip()}))
    return rows


@dataclass(frozen=True)
class Results:
    """The folder of a worklist's cases: a saved case each, or a file that says why there is none.

    What became of a case is read off the disk, so that any number of processes can share the folder, and a run that was
    killed goes on where it stood.
    """

    folder: Path

    def case(self, name: str) -> Path:
        """The folder of a case."""
        return self.folder / name

    def make_folder(self) -> None:
        """Make the folder. Raises OutputError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make {self.folder}: {error.strerror or error}; choose another --out") from error

    def done(self, name: str) -> dict[str, Any] | None:
        """The provenance of a case that stands, else None. Raises OutputError when it cannot be read."""
        path = self.case(name) / PROVENANCE
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        except (OSError, ValueError) as error:
            raise OutputError(f"cannot read {path}: {error}; remove {path.parent} to make the case again") from error

    def failed(self, name: str, error: Exception) -> None:
        """Keep why a case failed, of a bug with its traceback. Raises OutputError."""
        text = reason_of(error) + "\n"
        if not isinstance(error, LesionDiffusionError):
            text += "".join(traceback.format_exception(type(error), error, error.__traceback__))
        try:
            self._failure(name).write_text(text, encoding="utf-8")
        except OSError as full:
            raise OutputError(f"cannot write to {self.folder}: {full.strerror or full}; make room") from full

    def succeeded(self, name: str) -> None:
        """Forget an earlier failure."""
        self._failure(name).unlink(missing_ok=True)

    def write_manifest(self, lines: Mapping[str, int]) -> Path:
        """manifest.csv: what became of every case (name -> its line in the worklist), written whole or not at all."""
        path = self.folder / MANIFEST
        partial = path.with_name(f".{MANIFEST}.{os.getpid()}")
        try:
            with partial.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.DictWriter(stream, COLUMNS)
                writer.writeheader()
                writer.writerows(self._told(name, line) for name, line in lines.items())
            os.replace(partial, path)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}; make room") from error
        return path

    def _told(self, name: str, line: int) -> dict[str, Any]:
        about: dict[str, Any] = {"name": name, "line": line, "status": "open"}
        if (provenance := self.done(name)) is not None:
            judged = [m["fits"] for m in provenance["measurements"] if m["fits"] is not None]
            fitting = round(sum(judged) / len(judged), 3) if judged else ""
            seconds = round(sum(provenance["seconds"].values()), 1)
            return about | {"status": "done", "share_fitting": fitting, "seconds": seconds}
        if self._failure(name).is_file():
            reason = self._failure(name).read_text(encoding="utf-8").partition("\n")[0]
            return about | {"status": "failed", "reason": reason}
        return about

    def _failure(self, name: str) -> Path:
        return self.folder / (name + FAILED)
