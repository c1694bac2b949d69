"""Put a described lesion into a CT."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: the library is two folders up, and this folder's names must hide nothing
    _HERE = Path(__file__).resolve().parent
    sys.path[:] = [str(_HERE.parents[1]), *(path for path in sys.path if Path(path).resolve() != _HERE)]
    from LesionDiffusionLib.scripts.headless import run_as_script

    run_as_script("synthesize")

from LesionDiffusionLib.scripts.output import Reporter
from LesionDiffusionLib.scripts.wording import add_report_arguments, add_text_encoder_arguments, report_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lesiondiffusion synthesize`."""
    files = parser.add_argument_group("files")
    files.add_argument("--ct", required=True, type=Path, help="CT: NIfTI, NRRD, MHA or the folder of a DICOM series")
    files.add_argument("--organs", type=Path, help="organ map in TotalSegmentator names; may be absent with --mask")
    files.add_argument("--labels", help="its numbering, if its header has none: totalseg_v1, totalseg_v2 or FILE.json")
    files.add_argument("--mask", type=Path, help="a lesion mask drawn by hand; skips the mask network")
    files.add_argument("--out", required=True, type=Path, help="folder to write the case to")
    files.add_argument("--force", action="store_true", help="replace an earlier case in --out")
    add_report_arguments(parser)
    place = parser.add_argument_group("place (otherwise drawn at random by the region rule)")
    place.add_argument("--bbox", metavar="I0:I1,J0:J1,K0:K1", help="half-open voxel box on the CT's grid")
    place.add_argument("--center-mm", metavar="R,A,S", help="center of the lesion in RAS mm")
    place.add_argument(
        "--avoid", action="append", default=[], metavar="NAME", help="organ or structure to keep clear of"
    )
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that say how to compute."""
    run = parser.add_argument_group("computation")
    run.add_argument("--bundle", default="starter", help="name or folder of the model bundle (default: starter)")
    add_text_encoder_arguments(run, "a bundle that does not hold it")
    run.add_argument("--sampler", choices=("dpmpp", "ddim", "released"), help="default: the bundle's")
    run.add_argument("--steps", type=int, help="diffusion steps per network (default: the bundle's)")
    run.add_argument("--guidance", type=float, help="classifier-free guidance scale (default: the bundle's)")
    run.add_argument("--candidates", type=int, default=1, help="draw several lesions and keep the one that fits best")
    run.add_argument("--seed", type=int, default=0, help="same seed, same case (default: 0)")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    run.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: bf16 on GPUs that have it"
    )
    run.add_argument("--gpu-memory", type=int, metavar="MIB", help="take no more of the GPU (default: what is free)")
    run.add_argument("--json", action="store_true", help="print one JSON object per line instead of text")


def run(args: argparse.Namespace) -> int:
    """Read, synthesize, save."""
    from LesionDiffusionLib.saved_case import require_writable

    with Reporter(args.json) as reporter:
        wish = wish_from(args, reporter)
        settings = settings_from(args)
        require_writable(args.out, args.force)
        _require_apart(args)
        models = load(args)
        patient = read_patient(args, reporter)
        wish = with_mask(wish, args, patient[0].volume)
        return synthesize_and_save(patient, wish, models, settings, args, reporter)


def _require_apart(args: argparse.Namespace) -> None:
    """Raises OutputError for an input within --out, which --force would delete with the earlier case."""
    from LesionDiffusionLib.errors import OutputError

    for path in filter(None, (args.ct, args.organs, args.mask, args.report)):
        if path.resolve().is_relative_to(args.out.resolve()):
            raise OutputError(f"the input {path} lies in the output folder {args.out}; choose another --out")


def wish_from(args: argparse.Namespace, reporter: Reporter):
    """What lesion, and where; every mistake in the arguments is told before any file is read."""
    from LesionDiffusionLib.errors import LabelError
    from LesionDiffusionLib.wish import Wish

    if args.organs is None and args.mask is None:
        raise LabelError("expected --organs MAP, got none; give one, or draw the lesion by hand and give --mask")
    report = report_from(args, reporter)
    box, center_ras_mm = _place(args)
    return Wish(report, box, center_ras_mm, avoid=tuple(args.avoid))


def read_patient(args: argparse.Namespace, reporter: Reporter) -> tuple:
    """The CT file and its organ map."""
    from LesionDiffusionLib.io import read_ct

    ct_file = read_ct(args.ct)
    return ct_file, _organs(args, ct_file.volume, reporter)


def with_mask(wish, args: argparse.Namespace, ct):
    """The wish with the mask that --mask names, if it does."""
    from LesionDiffusionLib.io import read_mask
    from LesionDiffusionLib.volume import require_same_grid

    if args.mask is None:
        return wish
    mask = read_mask(args.mask)
    require_same_grid(ct, mask, "mask")
    return dataclasses.replace(wish, mask=mask.array)


def synthesize_and_save(patient: tuple, wish, models, settings, args: argparse.Namespace, reporter: Reporter) -> int:
    """The main job and its printout; ``patient`` is the CT file and its organ map."""
    from LesionDiffusionLib.saved_case import save_case
    from LesionDiffusionLib.synthesis import synthesize

    ct_file, organs = patient
    case = synthesize(ct_file.volume, organs, wish, bundle=models, settings=settings, progress=reporter.progress)
    folder = save_case(case, ct_file, args.out, args.force)
    for warning in case.warnings:
        reporter.warning(warning)
    reporter.case(case, folder)
    return 0


def _organs(args: argparse.Namespace, ct, reporter: Reporter):
    from LesionDiffusionLib.io import read_labels
    from LesionDiffusionLib.labels import OrganMap, organ_map
    from LesionDiffusionLib.volume import align_to

    if args.organs is None:
        return OrganMap.unknown(ct.geometry)
    volume, names = read_labels(args.organs)
    difference = ct.geometry.difference(volume.geometry)
    organs = organ_map(align_to(volume, ct, "organ map"), names, args.labels)
    if difference is not None and not ct.geometry.voxels_coincide(volume.geometry):
        reporter.warning(f"the organ map was resampled to the CT's grid: {difference}")
    for warning in organs.warnings():
        reporter.warning(warning)
    return organs


def load(args: argparse.Namespace):
    """The networks that the arguments name."""
    from LesionDiffusionLib.bundles import open_bundle
    from LesionDiffusionLib.devices import resolve_device
    from LesionDiffusionLib.memory import clear_memory_errors, limit_gpu_memory
    from LesionDiffusionLib.models import load_models

    device = resolve_device(args.device)
    limit_gpu_memory(device, args.gpu_memory)
    with clear_memory_errors(device):
        return load_models(open_bundle(args.bundle), device, args.text_encoder, args.allow_download, args.precision)


def settings_from(args: argparse.Namespace):
    """Settings from the arguments."""
    from LesionDiffusionLib.run import Settings

    return Settings(args.seed, args.sampler, args.steps, args.guidance, args.candidates)


def _place(args: argparse.Namespace):
    from LesionDiffusionLib.errors import PlacementError
    from LesionDiffusionLib.geometry import Box

    given = [name for name in ("bbox", "center_mm", "mask") if getattr(args, name) is not None]
    if len(given) > 1:
        options = " and ".join("--" + name.replace("_", "-") for name in given)
        raise PlacementError(f"expected one of --bbox, --center-mm and --mask, got {options}; keep one")
    center_ras_mm = None
    if args.center_mm is not None:
        try:
            r, a, s = (float(v) for v in args.center_mm.split(","))
        except ValueError:
            raise PlacementError(f'expected --center-mm R,A,S such as "-42.5,10,120", got "{args.center_mm}"') from None
        center_ras_mm = (r, a, s)
    return None if args.bbox is None else Box.parse(args.bbox), center_ras_mm
