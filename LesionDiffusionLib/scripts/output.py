"""What a command prints: a progress bar and plain text for people, or one JSON object per line for programs."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from LesionDiffusionLib.errors import reason_of

if TYPE_CHECKING:
    from LesionDiffusionLib.case import Case
    from LesionDiffusionLib.synthesis import Progress


class Reporter:
    """Receives progress and results. With ``as_json`` everything goes to stdout as JSON lines."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._bar: tqdm | None = None
        self._stage = ""

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def progress(self, progress: Progress) -> None:
        """One stage or step."""
        if self.as_json:
            self.line({"event": "progress", **dataclasses.asdict(progress)})
            return
        if progress.stage != self._stage:
            self.close()
            self._stage = progress.stage
            self._bar = tqdm(desc=progress.stage, file=sys.stderr, leave=False, unit="step")
        self._bar.total = progress.total
        self._bar.update(progress.step - self._bar.n)

    def warning(self, text: str) -> None:
        """Something the user should know."""
        self.close()
        if self.as_json:
            self.line({"event": "warning", "text": text})
        else:
            print(f"warning: {text}", file=sys.stderr)

    def case(self, case: Case, folder: Path) -> None:
        """The finished case."""
        self.close()
        measurements = [dataclasses.asdict(m) for m in case.measurements]
        if self.as_json:
            report = json.loads(case.report.to_json())
            result = {"event": "result", "folder": str(folder), "report": report, "measurements": measurements}
            self.line(result | {"provenance": case.provenance})
            return
        print(case.report.describe())
        verdicts = {True: "fits", False: "DIFFERS", None: "not judged"}
        for m in case.measurements:
            print(f"  {m.attribute}: asked {m.requested}, measured {m.measured} ({verdicts[m.fits]})")
        p = case.provenance
        print(
            f"  changed {p['voxels_changed']} voxels, all within {p['neighborhood_mm']:.1f} mm of the lesion; "
            f"largest change beyond: {p['max_abs_change_outside_hu']:g} HU"
        )
        memory = ", ".join(f"{where} {mib} MiB" for where, mib in p["peak_memory_mib"].items())
        print(f"  {sum(p['seconds'].values()):.1f} s; peak memory: {memory or 'not known'}")
        print(f"saved in {folder}")

    def begin(self, total: int) -> None:
        """Many cases are to come; the time left is told from here on."""
        if not self.as_json:
            self._bar = tqdm(desc="cases", total=total, file=sys.stderr, unit="case")

    def item(self, name: str, number: int, total: int, outcome: dict | Exception) -> None:
        """One of many cases is made (its provenance), or failed."""
        reason = reason_of(outcome) if isinstance(outcome, Exception) else None
        if self.as_json:
            self.line({"event": "case", "name": name, "number": number, "total": total, "failed": reason})
            return
        if reason is not None:
            self._bar.write(f"warning: {name} failed: {reason}", file=sys.stderr)
        self._bar.update(number - self._bar.n)

    def line(self, content: dict) -> None:
        """One JSON object on one line."""
        print(json.dumps(content), flush=True)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar, self._stage = None, ""
