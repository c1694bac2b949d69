"""What `lesiondiffusion batch` saves: the same list one command per lesion, without overlap, and as it is.

    python Testing/measure_batch.py --ct CT --organs MAP --labels NUMBERING [--lesions 8] [--bundle starter]

Every lesion has a patient of its own (links to the same files), so that each is read. "without overlap" is `batch` with
its three stages one after the other. Ratios are to the first. Exit code 1 if the ways made different cases.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from LesionDiffusionLib import pipeline
from LesionDiffusionLib.scripts.cli import main as lesiondiffusion

LESION = "liver cyst"
MADE = ("ct.nii.gz", "lesion.nii.gz")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ct", type=Path, required=True)
    parser.add_argument("--organs", type=Path, required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--lesions", type=int, default=8)
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = _patients(args, Path(folder))
        run = ["--bundle", args.bundle, "--device", args.device]
        ways: dict[str, Callable[[Path], None]] = {
            "one command per lesion": lambda out: _one_by_one(rows, run, out),
            "batch without overlap": lambda out: _batch(rows, run, out, one_after_the_other),
            "batch": lambda out: _batch(rows, run, out, pipeline.pipelined),
        }
        seconds, made = {}, {}
        for name, make in ways.items():
            out, started = Path(folder) / name.replace(" ", "_"), time.perf_counter()
            make(out)
            seconds[name] = time.perf_counter() - started
            made[name] = [_digest(out / row["name"]) for row in rows]
            print(f"{name}: {seconds[name]:.1f} s", flush=True)
    slowest = next(iter(seconds.values()))
    print("\n| way | seconds per lesion | ratio |\n| --- | --- | --- |")
    for name, value in seconds.items():
        print(f"| {name} | {value / args.lesions:.2f} | {slowest / value:.2f} |")
    return int(any(cases != made["batch"] for cases in made.values()))


def one_after_the_other(items, read, work, write):
    """What `pipelined` does, without doing anything at the same time."""
    for item in items:
        yield item, write(item, work(item, read(item)))


def _patients(args: argparse.Namespace, folder: Path) -> list[dict[str, str]]:
    rows = []
    for n in range(args.lesions):
        links = {}
        for column, path in (("ct", args.ct), ("organs", args.organs)):
            links[column] = folder / f"{column}_{n}{''.join(path.suffixes)}"
            links[column].symlink_to(path.resolve())
        paths = {column: str(link) for column, link in links.items()}
        rows.append({"name": f"case{n}", **paths, "labels": args.labels, "lesion": LESION, "seed": str(n)})
    return rows


def _one_by_one(rows: list[dict[str, str]], run: list[str], out: Path) -> None:
    out.mkdir()
    for row in rows:
        options = [part for column, value in row.items() if column != "name" for part in (f"--{column}", value)]
        command = ["synthesize", *options, *run, "--out", str(out / row["name"])]
        subprocess.run([sys.executable, "-m", "LesionDiffusionLib", *command], check=True, capture_output=True)


def _batch(rows: list[dict[str, str]], run: list[str], out: Path, stages: Callable) -> None:
    worklist = out.with_suffix(".csv")
    with worklist.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    overlapping, pipeline.pipelined = pipeline.pipelined, stages
    try:
        if lesiondiffusion(["batch", "--worklist", str(worklist), "--out", str(out), *run]):
            raise SystemExit("the worklist failed, see above")
    finally:
        pipeline.pipelined = overlapping


def _digest(case: Path) -> str:
    return hashlib.sha256(b"".join((case / name).read_bytes() for name in MADE)).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
