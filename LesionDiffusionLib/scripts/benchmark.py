"""Measure how fast lesions are made here, against the way of the released pipeline, in one run."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # run as a file: the library is two folders up, and this folder's names must hide nothing
    _HERE = Path(__file__).resolve().parent
    sys.path[:] = [str(_HERE.parents[1]), *(path for path in sys.path if Path(path).resolve() != _HERE)]
    from LesionDiffusionLib.scripts.headless import run_as_script

    run_as_script("benchmark")

from LesionDiffusionLib.errors import OutputError, SettingsError
from LesionDiffusionLib.scripts.wording import add_text_encoder_arguments

JSON_FILE, TABLE_FILE = "benchmark.json", "benchmark.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lesiondiffusion benchmark`."""
    parser.add_argument("--out", type=Path, help=f"folder for {JSON_FILE} and {TABLE_FILE}")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--bundle", default="starter", metavar="NAME_OR_DIR", help="default: starter")
    which.add_argument("--released-size", action="store_true", help="random networks of the released size (for a GPU)")
    add_text_encoder_arguments(parser, "a bundle that does not hold it")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of ours; auto: bf16 on GPUs that have it"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--size-mm", type=float, default=30.0, help="diameter of the lesion (default: 30)")
    parser.add_argument("--spacing-mm", type=float, default=2.5, help="voxels of the phantom's CT (default: 2.5)")
    parser.add_argument(
        "--margin-mm",
        type=float,
        metavar="MM",
        help="of the phantom around the lesion (default: all); less where the released way needs too much memory",
    )
    parser.add_argument("--steps", type=int, default=200, help="DDIM steps of the released way (default: 200)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of our defaults, the fastest counts (default: 3)")
    parser.add_argument("--enough-steps", type=int, metavar="SEEDS", help="also: how many steps are enough")
    parser.add_argument("--growth", action="store_true", help="also: how the cost grows")


def run(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    from LesionDiffusionLib.benchmark.comparison import compare
    from LesionDiffusionLib.benchmark.growth import cost_growth
    from LesionDiffusionLib.benchmark.job import Job, make_job
    from LesionDiffusionLib.benchmark.steps import enough_steps
    from LesionDiffusionLib.benchmark.tables import as_markdown
    from LesionDiffusionLib.devices import resolve_device, use_threads
    from LesionDiffusionLib.memory import clear_memory_errors

    optional = [value for value in (args.margin_mm, args.enough_steps) if value is not None]
    if min(args.size_mm, args.spacing_mm, args.steps, args.repeats, *optional) <= 0:
        raise SettingsError("sizes, steps, repeats and seeds must be above 0")
    if args.growth and args.released_size:
        raise SettingsError("--growth needs networks that draw masks; use a bundle instead of --released-size")
    use_threads(args.threads)
    device = resolve_device(args.device)
    with clear_memory_errors(device):
        models = _models(args, device, args.precision)
        job = make_job(models, args.size_mm, args.spacing_mm, args.margin_mm)

        def exact() -> Job:
            return job if models.precision == "fp32" else replace(job, models=_models(args, device, "fp32"))

        parts = {"comparison": lambda: compare(job, exact, args.steps, args.repeats)}
        if args.enough_steps:
            parts["steps"] = lambda: enough_steps(job, args.enough_steps, args.steps)
        if args.growth:
            parts["growth"] = lambda: cost_growth(models, args.text_encoder, args.allow_download)
        figures = {"command": args.told}
        for name, measure in parts.items():
            figures[name] = measure()
            if args.out is not None:
                _write(args.out, figures)  # whatever becomes of the next part
    print(as_markdown(figures))
    if args.out is not None:
        print(f"written to {args.out}")
    return 0


def _models(args: argparse.Namespace, device, precision: str):
    from LesionDiffusionLib.benchmark.job import random_models
    from LesionDiffusionLib.bundles import open_bundle
    from LesionDiffusionLib.devices import resolve_precision
    from LesionDiffusionLib.models import load_models

    if args.released_size:
        return random_models(device, precision=resolve_precision(precision, device))
    return load_models(open_bundle(args.bundle), device, args.text_encoder, args.allow_download, precision)


def _write(folder: Path, figures: dict) -> None:
    from LesionDiffusionLib.benchmark.tables import as_markdown

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / JSON_FILE).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        (folder / TABLE_FILE).write_text(f"`{figures['command']}`\n\n{as_markdown(figures)}", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from error
