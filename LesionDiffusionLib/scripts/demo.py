"""Make a phantom CT with its organ map and put a lesion into it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: the library is two folders up, and this folder's names must hide nothing
    _HERE = Path(__file__).resolve().parent
    sys.path[:] = [str(_HERE.parents[1]), *(path for path in sys.path if Path(path).resolve() != _HERE)]
    from LesionDiffusionLib.scripts.headless import run_as_script

    run_as_script("demo")

from LesionDiffusionLib.scripts.output import Reporter
from LesionDiffusionLib.scripts.synthesize import add_run_arguments, load, settings_from, synthesize_and_save

LESION = "liver cancer"
SIZE_MM = (34.0, 32.0, 30.0)  # of that lesion: large enough to be looked at
PHANTOM_SEED = 7
CT, ORGANS = "phantom.nii.gz", "phantom-organs.nii.gz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lesiondiffusion demo`."""
    parser.add_argument("--out", required=True, type=Path, help="folder to write the case to")
    parser.add_argument("--lesion", default=LESION, help=f"lesion type (default: {LESION})")
    parser.add_argument("--keep-phantom", type=Path, metavar="FOLDER", help=f"also keep {CT} and {ORGANS} there")
    parser.add_argument("--force", action="store_true", help="replace an earlier demo in --out")
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write the phantom as files, then do what `synthesize` does with them."""
    import tempfile

    from LesionDiffusionLib.io import read_ct
    from LesionDiffusionLib.lesion_types import lesion_type
    from LesionDiffusionLib.report import LesionReport
    from LesionDiffusionLib.saved_case import require_writable
    from LesionDiffusionLib.wish import Wish

    with Reporter(args.json) as reporter, tempfile.TemporaryDirectory() as temporary:
        kind = lesion_type(args.lesion)
        settings = settings_from(args)
        require_writable(args.out, args.force)
        models = load(args)
        phantom = _written(args.keep_phantom or Path(temporary), "head" if "brain" in kind.organs else "torso")
        ct_file = read_ct((args.keep_phantom or Path(temporary)) / CT)
        wish = Wish(LesionReport(lesion_type=kind.name, size_mm=SIZE_MM if kind.name == LESION else None))
        return synthesize_and_save((ct_file, phantom.organs), wish, models, settings, args, reporter)


def _written(folder: Path, region: str):
    """The phantom, saved as files a user could have."""
    import numpy as np

    from LesionDiffusionLib.errors import OutputError
    from LesionDiffusionLib.io import write_labels
    from LesionDiffusionLib.phantom import make_phantom

    phantom = make_phantom(np.random.default_rng(PHANTOM_SEED), region)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_labels(phantom.ct.array.astype(np.int16), phantom.ct.geometry, folder / CT)
        write_labels(phantom.organs.volume.array, phantom.ct.geometry, folder / ORGANS)
    except OSError as error:
        raise OutputError(f"cannot write the phantom to {folder}: {error.strerror or error}; make room") from error
    return phantom
