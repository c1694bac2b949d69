"""Work through a list of lesions: many cases, on any number of processes, continued where it stood."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file: the library is two folders up, and this folder's names must hide nothing
    _HERE = Path(__file__).resolve().parent
    sys.path[:] = [str(_HERE.parents[1]), *(path for path in sys.path if Path(path).resolve() != _HERE)]
    from LesionDiffusionLib.scripts.headless import run_as_script

    run_as_script("batch")

from LesionDiffusionLib.errors import OutputError, WorklistError
from LesionDiffusionLib.scripts import synthesize
from LesionDiffusionLib.scripts.output import Reporter

COLUMNS = (
    "a CSV with a header, or .jsonl: a row per lesion. Columns are the options of `synthesize` without dashes (ct, "
    "organs, labels, lesion, text, size_mm, seed, ...) and the attributes of the report (density, surface "
    "characteristics, ...); name is the case's folder, and count makes so many, with seeds that follow. Paths count "
    "from the worklist's folder"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lesiondiffusion batch`."""
    parser.add_argument("--worklist", required=True, type=Path, help=COLUMNS)
    parser.add_argument("--out", required=True, type=Path, help="folder of the cases and of manifest.csv")
    synthesize.add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Make what is not there yet; 2 when cases failed, after all others were made (0 for a process of several)."""
    from LesionDiffusionLib.scripts.batch_jobs import jobs_of
    from LesionDiffusionLib.worklist import Results

    jobs, results = jobs_of(args), Results(args.out)
    to_make = _open(_own_share(jobs), results)
    results.make_folder()
    failed = 0
    try:
        with Reporter(args.json) as reporter:
            reporter.begin(len(to_make))
            for number, (job, outcome) in enumerate(_made(to_make, args, results), start=1):
                failed += isinstance(outcome, Exception)
                reporter.item(job.name, number, len(to_make), outcome)
    finally:
        manifest = results.write_manifest({job.name: job.line for job in jobs})
    if failed:
        told = f"{failed} of {len(to_make)} cases failed, {manifest} says why; run it again to retry them"
        if _rank_and_world()[1] > 1:  # `torchrun` would stop the others for it, in the middle of their cases
            print(told, file=sys.stderr)
            return 0
        raise WorklistError(told)
    print(f"{len(jobs)} cases, {len(to_make)} of them made now; see {manifest}", file=sys.stderr)
    return 0


def _rank_and_world() -> tuple[int, int]:
    """This process's number, and how many `torchrun` started; read here, for `training.ranks` would load torch."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _own_share(jobs: list) -> list:
    """This process's cases, where there are several; they need not know of each other."""
    rank, world = _rank_and_world()
    return jobs[rank::world]


def _open(jobs: list, results) -> list:
    """Those that are not there yet. Raises WorklistError when one that is there was asked for differently."""
    still = []
    for job in jobs:
        done = results.done(job.name)
        if done is None:
            still.append(job)
        elif done.get("asked") != job.asked:
            raise WorklistError(
                f"{results.case(job.name)} was made with other arguments than line {job.line} of the worklist and the "
                "command ask for; choose another --out, rename the case, or remove its folder"
            )
    return still


def _made(jobs: list, args: argparse.Namespace, results) -> Iterator[tuple[Any, dict | Exception]]:
    """Every job with its provenance, or with what went wrong, which is kept in the folder."""
    from LesionDiffusionLib.pipeline import pipelined
    from LesionDiffusionLib.saved_case import save_case
    from LesionDiffusionLib.synthesis import synthesize as make

    if not jobs:
        return
    models = synthesize.load(args)

    def work(job, read: tuple):
        (ct_file, organs), wish, notes = read
        case = make(ct_file.volume, organs, wish, bundle=models, settings=job.settings)
        warnings, provenance = (*job.notes, *notes, *case.warnings), case.provenance | {"asked": job.asked}
        return ct_file, dataclasses.replace(case, warnings=warnings, provenance=provenance)

    def write(job, made: tuple) -> dict:
        ct_file, case = made
        save_case(case, ct_file, results.case(job.name))
        results.succeeded(job.name)
        return case.provenance

    patients = _Patients()

    def read(job) -> tuple:
        _require_free(results.case(job.name))
        return patients.read(job)

    for job, outcome in pipelined(jobs, read, work, write):
        if isinstance(outcome, OutputError):
            raise outcome  # a full disk would fail all the others, too
        if isinstance(outcome, Exception):
            results.failed(job.name, outcome)
        yield job, outcome


def _require_free(folder: Path) -> None:
    """Raises WorklistError where something else stands in a case's place: it costs this case alone."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WorklistError(f"{folder} is in the way: it is no case that was made whole; rename the case, or remove it")


class _Patients:
    """Reads patients and keeps the last one: worklists ask for many lesions of each."""

    def __init__(self) -> None:
        self._asked, self._read = None, None

    def read(self, job) -> tuple:
        """CT file and organ map, the wish with its mask, and what should be known of the files."""
        from LesionDiffusionLib.scripts.batch_jobs import Notes

        asked = (job.args.ct, job.args.organs, job.args.labels)
        if self._asked != asked:
            self._asked = self._read = None  # let go of the last patient before the next one comes
            notes = Notes()
            self._read = synthesize.read_patient(job.args, notes), notes.texts
            self._asked = asked
        patient, notes = self._read
        return patient, synthesize.with_mask(job.wish, job.args, patient[0].volume), notes
