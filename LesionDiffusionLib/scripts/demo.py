"""Make a phantom CT, put a lesion into it, and save both."""

from __future__ import annotations

import argparse
from pathlib import Path

from LesionDiffusionLib.scripts.output import Reporter
from LesionDiffusionLib.scripts.synthesize import add_run_arguments, load, settings_from

LESION = "liver cancer"
PHANTOM_SEED = 7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lesiondiffusion demo`."""
    parser.add_argument("--out", required=True, type=Path, help="folder for the phantom and the case")
    parser.add_argument("--lesion", default=LESION, help=f"lesion type (default: {LESION})")
    parser.add_argument("--force", action="store_true", help="replace an earlier demo in --out")
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write the phantom as files, then do what `synthesize` does with them."""
    import tempfile

    import numpy as np

    from LesionDiffusionLib.cases import require_writable, save_case
    from LesionDiffusionLib.io import read_ct, write_labels
    from LesionDiffusionLib.lesion_types import lesion_type
    from LesionDiffusionLib.phantom import make_phantom
    from LesionDiffusionLib.planning import Wish
    from LesionDiffusionLib.report import LesionReport
    from LesionDiffusionLib.synthesis import synthesize

    reporter = Reporter(args.json)
    wish = Wish(LesionReport(lesion_type=lesion_type(args.lesion).name))
    settings = settings_from(args)
    require_writable(args.out, args.force)
    models = load(args)
    region = "head" if "brain" in lesion_type(args.lesion).organs else "torso"
    phantom = make_phantom(np.random.default_rng(PHANTOM_SEED), region)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "phantom.nii.gz")
        write_labels(phantom.ct.array.astype(np.int16), phantom.ct.geometry, path)
        ct_file = read_ct(path)
        case = synthesize(
            ct_file.volume, phantom.organs, wish, bundle=models, settings=settings, progress=reporter.progress
        )
        folder = save_case(case, ct_file, args.out, args.force)
    for warning in case.warnings:
        reporter.warning(warning)
    reporter.case(case, folder)
    return 0
