"""Turn a dataset folder into training cases with reports and organ maps."""

from __future__ import annotations

import argparse
import functools
import sys
from collections import Counter
from pathlib import Path

if __name__ == "__main__":  # run as a file: the library is two folders up, and this folder's names must hide nothing
    _HERE = Path(__file__).resolve().parent
    sys.path[:] = [str(_HERE.parents[1]), *(path for path in sys.path if Path(path).resolve() != _HERE)]
    from LesionDiffusionLib.scripts.headless import run_as_script

    run_as_script("prepare")

LAYOUT_NAMES = ("kits23", "msd", "instance22", "released", "csv")
SHOWN = 10  # reasons told; the manifest holds them all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lesiondiffusion prepare`."""
    parser.add_argument("--layout", required=True, choices=LAYOUT_NAMES, help="how the dataset is arranged")
    parser.add_argument("--data", required=True, type=Path, help="its folder; the CSV file for --layout csv")
    parser.add_argument("--out", required=True, type=Path, help="new folder for the cases and their manifest")
    parser.add_argument("--limit", type=int, help="prepare only so many scans")
    parser.add_argument("--seed", type=int, default=0, help="of the 4:1 split by patient (default: 0)")
    organs = parser.add_argument_group("organ maps (otherwise the dataset's own labels, where they hold the organ)")
    organs.add_argument("--organs", type=Path, metavar="FOLDER", help="existing ones, SCAN.nii.gz")
    organs.add_argument("--labels", help="numbering of maps whose headers have none: totalseg_v1 or totalseg_v2")
    organs.add_argument("--totalsegmentator", action="store_true", help="make missing ones; it must be installed")
    organs.add_argument("--device", default="gpu", help="TotalSegmentator's: gpu, cpu or mps (default: gpu)")
    limits = parser.add_argument_group("lesions")
    limits.add_argument(
        "--margin-mm",
        type=float,
        default=80.0,
        help="kept round a lesion; windows must not reach further (default: 80)",
    )
    limits.add_argument("--lesions-per-scan", type=int, default=3, help="of each kind, largest first (default: 3)")
    limits.add_argument(
        "--round-sphericity", type=float, default=0.85, help="from it on a measured shape is round-like (default: 0.85)"
    )
    limits.add_argument("--least-voxels", type=int, default=30, help="smaller lesions are left out (default: 30)")


def run(args: argparse.Namespace) -> int:
    """Prepare, then tell what was left out."""
    import dataclasses

    from tqdm import tqdm

    from LesionDiffusionLib.adapters.totalsegmentator import find_program, segment_organs
    from LesionDiffusionLib.datasets.layouts import LAYOUTS
    from LesionDiffusionLib.datasets.lesions import Limits
    from LesionDiffusionLib.datasets.preparation import Preparation, prepare
    from LesionDiffusionLib.errors import SettingsError
    from LesionDiffusionLib.labels import load_table

    limits = Limits(args.margin_mm, args.lesions_per_scan, args.least_voxels, args.round_sphericity)
    if args.limit is not None and args.limit < 1:
        raise SettingsError(f"expected --limit 1 or more, got {args.limit}; leave it out for all scans")
    if args.labels:
        load_table(args.labels)  # before hours of reading, as is the program
    if args.totalsegmentator:
        find_program()
    scans = LAYOUTS[args.layout](args.data)[: args.limit]
    if args.labels:  # the dataset knows its own maps' numbering, the user that of all others
        scans = [dataclasses.replace(scan, numbering=(scan.organs and scan.numbering) or args.labels) for scan in scans]
    segment = functools.partial(segment_organs, device=args.device) if args.totalsegmentator else None
    how = Preparation(args.out, args.organs, segment, limits, args.seed, args.told)
    with tqdm(total=len(scans), file=sys.stderr, unit="scan") as bar:

        def report(done: int, text: str) -> None:
            bar.update(done - bar.n)
            bar.set_postfix_str(text)

        manifest = prepare(args.layout, scans, how, report)
    splits = Counter(case["split"] for case in manifest["cases"])
    left_out = [f"{entry['scan']}: {entry['reason']}" for entry in manifest["left_out"]]
    remarks = [f"{entry['scan']}: {entry['text']}" for entry in manifest["remarks"]]
    _tell("left out", left_out, args.out)
    _tell("not used as given", remarks, args.out)
    print(f"{len(manifest['cases'])} cases ({splits['train']} train, {splits['test']} test) in {args.out}")
    print(f"{len(left_out)} left out, {len(remarks)} not used as given")
    return 0


def _tell(what: str, lines: list[str], out: Path) -> None:
    """The first lines, and where the others are."""
    for line in lines[:SHOWN]:
        print(f"{what}: {line}")
    if len(lines) > SHOWN:
        print(f"{what}: {len(lines) - SHOWN} more, see {out / 'manifest.json'}")
