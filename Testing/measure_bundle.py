"""Does a bundle do what its reports say? Masks and images over random reports, on the phantom or on a real CT.

    python Testing/measure_bundle.py [--ct CT --organs MAP --labels NUMBERING] [--bundle starter] [--reports 50]
        [--seeds 3] [--pairs 50] [--out FILE]

Every report is drawn from a lesion type whose organ is there and synthesized with every seed. Of the masks: the share
that stays in its box (2 mm allowed), lies in the region its rule allows (95 % of the voxels), has the size asked for
(every extent within 25 % or one voxel; strictly: within 25 %) and is one piece. The program cuts every mask to box and
region and keeps one piece, so what LMNet drew before that is judged as well. Of the images: the share of fluid-like
lesions of 0 to 25 HU, and the step at the mask's edge against the steps at the borders of real organs. Cases that found
no place are counted as left out. Then lesions of liver, kidneys and pancreas, each with every seed drawn several times
and alike but for one word: hypodense, isodense and hyperdense; homogeneous and heterogeneous; well-defined and
ill-defined. Those that found no place, or whose edge cannot be measured, are counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
from exchanged_words import comparable, shares_in_order
from measuring import keep, scan
from raw_masks import judge_drawn, recorded
from scipy import ndimage

from LesionDiffusionLib import meters
from LesionDiffusionLib.bundles import open_bundle
from LesionDiffusionLib.case import Case
from LesionDiffusionLib.devices import resolve_device
from LesionDiffusionLib.errors import PlacementError
from LesionDiffusionLib.fit import SIZE_TOLERANCE
from LesionDiffusionLib.geometry import Box, axes_to_size
from LesionDiffusionLib.labels import OrganMap, organ_map
from LesionDiffusionLib.lesion_types import all_lesion_types, draw_report
from LesionDiffusionLib.models import load_models
from LesionDiffusionLib.phantom import make_phantom
from LesionDiffusionLib.placement import Site, allowed_region
from LesionDiffusionLib.report import LesionReport, region_rule
from LesionDiffusionLib.synthesis import Settings, synthesize
from LesionDiffusionLib.volume import Volume, align_to
from LesionDiffusionLib.wish import Wish

BOX_TOLERANCE_MM, FLUID_HU = 2.0, (0.0, 25.0)
BORDERS = ("liver", "spleen", "right kidney", "left kidney", "urinary bladder")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common(parser)
    parser.add_argument("--reports", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    models = recorded(load_models(open_bundle(args.bundle), resolve_device(args.device)))
    figures = measure(*patient(args), models, args)
    keep(figures, {key: getattr(args, key) for key in ("reports", "seeds", "pairs")} | scan(args.ct), models, args.out)
    return 0


def add_common(parser: argparse.ArgumentParser) -> None:
    """Patient, bundle, number of lesions whose words are exchanged, and where the figures go."""
    parser.add_argument("--ct", type=Path, help="a real CT (default: the phantom)")
    parser.add_argument("--organs", type=Path)
    parser.add_argument("--labels")
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")


def measure(ct: Volume, organs: OrganMap, models, args: argparse.Namespace) -> dict:
    """All figures of one patient."""
    rows, left_out = [], 0
    for number, report in enumerate(reports(organs, args.reports)):
        for seed in range(args.seeds):
            try:
                settings = Settings(1000 * number + seed)
                case = synthesize(ct, organs, Wish(report), bundle=models, settings=settings)
            except PlacementError as error:
                print(f"left out: {report.describe()}: {error}", file=sys.stderr)
                left_out += 1
                continue
            rows.append(judge(case, organs) | judge_drawn(models, case.report.lesion_location == "inside organ"))
            print(report.lesion_type, rows[-1], flush=True)
    lesions = comparable(reports(organs, 12 * args.pairs), args.pairs)
    alike = shares_in_order(ct, organs, models, lesions, args.seeds)
    border_hu = np.median([edge_step_hu(ct, organs.mask(name)) for name in BORDERS if organs.voxel_count(name)])
    borders = {"median step at organ borders, HU": round(float(border_hu), 1)}
    return summary(rows) | {"left out": left_out} | alike | borders


def reports(organs: OrganMap, count: int) -> list[LesionReport]:
    """Random reports, the lesion types in turn. Whether the scan is enhanced is its own affair, and read off it."""
    present = organs.organs_present()
    kinds = [kind for kind in all_lesion_types() if any(organ in present for organ in kind.organs)]
    chance = np.random.default_rng(31)
    drawn = (draw_report(kinds[n % len(kinds)], chance, present) for n in range(count))
    return [dataclasses.replace(report, enhancement=None) for report in drawn]


def judge(case: Case, organs: OrganMap) -> dict[str, bool | float | None]:
    """What one case shows; None where a figure does not apply."""
    mask, geometry, report = case.mask.array, case.mask.geometry, case.report
    margin = tuple(int(BOX_TOLERANCE_MM / s) for s in geometry.spacing_mm)
    organ = organs.mask(report.organ)
    site = Site(organ, (organs.volume.array > 0) & ~organ, geometry)
    size = next((m.fits for m in case.measurements if m.attribute == "size"), None)
    extents_mm = axes_to_size(geometry, meters.extents_mm(mask, geometry.spacing_mm))
    sizes = zip(extents_mm, report.size_mm, strict=True)
    fluid_hu = meters.median_hu(case.ct.array, meters.core(mask, geometry.spacing_mm))
    region = allowed_region(region_rule(report), site, report.size_mm)
    return {
        "in its box": case.box.padded(margin).contains(Box.bounding(mask)),
        "in its region": meters.share_inside(mask, region) >= 0.95,
        "of its size": size,
        "strictly of its size": all(abs(mm / asked - 1) <= SIZE_TOLERANCE for mm, asked in sizes),
        "one piece": ndimage.label(mask, np.ones((3, 3, 3)))[1] == 1,
        "fluid-like 0 to 25 HU": FLUID_HU[0] <= fluid_hu <= FLUID_HU[1] if "fluid-like" in report.density else None,
        "step at the edge, HU": round(edge_step_hu(case.ct, mask), 1),
    }


def edge_step_hu(ct: Volume, mask: np.ndarray) -> float:
    """Median difference over the surface of ``mask`` between the next voxels inside and outside, in HU."""
    box = Box.bounding(mask).padded(3).clipped(mask.shape)
    inside, hu = mask[box.slices], ct.array[box.slices].astype(float)
    steps = []
    for axis in range(3):
        before = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        after = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        crossing = inside[before] != inside[after]
        steps.append(np.abs(hu[after] - hu[before])[crossing])
    return float(np.median(np.concatenate(steps)))


def summary(rows: list[dict]) -> dict:
    """Shares in percent, and medians of the figures in HU, over the rows where they apply."""
    figures = {"cases": len(rows)}
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows if row[name] is not None]
        if name.endswith("HU") and name.startswith("step"):
            figures[f"median {name}"] = round(float(np.median(values)), 1)
        else:
            figures[name] = f"{100 * np.mean(values):.1f} % of {len(values)}" if values else "none asked for"
    return figures


def patient(args: argparse.Namespace) -> tuple[Volume, OrganMap]:
    if args.ct is None:
        phantom = make_phantom(np.random.default_rng(100))
        return phantom.ct, phantom.organs
    from LesionDiffusionLib.io import read_ct, read_labels

    ct = read_ct(args.ct).volume
    labels, names = read_labels(args.organs)
    return ct, organ_map(align_to(labels, ct, "organ map"), names, args.labels)


if __name__ == "__main__":
    sys.exit(main())
