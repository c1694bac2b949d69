"""One example of every lesion type, on a real CT where the organ is there: docs/lesion-types.md and its pictures.

    python Testing/draw_examples.py --data ../shared/data --out docs/images/types --page docs/lesion-types.md [--seed 1]
    python Testing/draw_examples.py --data ../shared/data --out FOLDER --lesion TYPE ...

The CTs are those of the starter bundle's training (see its model card). The chest and head CTs come without an organ
map; lungs and brain are found by threshold there.
"""

from __future__ import annotations

import argparse
import functools
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from LesionDiffusionLib.bundles import open_bundle
from LesionDiffusionLib.devices import resolve_device
from LesionDiffusionLib.errors import LesionDiffusionError
from LesionDiffusionLib.io import read_ct, read_labels
from LesionDiffusionLib.labels import OrganMap, load_table, organ_map
from LesionDiffusionLib.lesion_types import all_lesion_types
from LesionDiffusionLib.models import load_models
from LesionDiffusionLib.phantom import make_phantom
from LesionDiffusionLib.preview import preview_image
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.synthesis import Settings, synthesize
from LesionDiffusionLib.training.organ_guess import guess_organs
from LesionDiffusionLib.volume import Volume, align_to
from LesionDiffusionLib.wish import Wish

HEAD = """# The lesion types, one example each

Made with the bundle "{bundle}", seed {seed}: the first result, not the best of several. Rows: axial, coronal, sagittal;
columns: before, after, outlined. What "differs" is shown as it came out.
A size fits where every extent is within 25 % of what was asked for, or within one voxel of it.

    python Testing/draw_examples.py --data ../shared/data --out docs/images/types --page docs/lesion-types.md

"""
WIDTH_PX, COLORS = 720, 64  # small files: these pictures live in the repository


@dataclass(frozen=True)
class Patient:
    """Files of a CT; ``organs`` None: by threshold; ``ct`` None: the embedded phantom."""

    name: str
    ct: str | None
    organs: str | None = None
    numbering: str | None = None

    @functools.cache  # noqa: B019 (the patients live as long as the program)
    def read(self, data: Path) -> tuple[Volume, OrganMap]:
        if self.ct is None:
            phantom = make_phantom(np.random.default_rng(7))
            return phantom.ct, phantom.organs
        ct = read_ct(data / self.ct).volume
        if self.organs is None:
            return ct, OrganMap(Volume(guess_organs(ct), ct.geometry), load_table("totalseg_v1"))
        labels, names = read_labels(data / self.organs)
        return ct, organ_map(align_to(labels, ct, "organ map"), names, self.numbering)


PATIENTS = (
    Patient("torso", "torso/ct.nii.gz", "torso/organs.nii.gz", "totalseg_v1"),
    Patient("abdomen, DICOM", "torso_dicom/series", "torso_dicom/organs_v2.nii.gz"),
    Patient("chest", "ct/chest_abdomen_1mm.nii.gz"),
    Patient("head", "ct/head_3mm.nii.gz"),
    Patient("phantom, for want of a real one with room in that organ", None),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lesion", nargs="*", help="only these types")
    parser.add_argument("--page", type=Path, help="also write a page that shows them")
    args = parser.parse_args()
    if args.page and args.lesion:
        parser.error("expected --page or --lesion, got both: the page shows all types; leave one out")
    models = load_models(open_bundle(args.bundle), resolve_device())
    args.out.mkdir(parents=True, exist_ok=True)
    missed, sections = [], []
    for kind in all_lesion_types():
        if args.lesion and kind.name not in args.lesion:
            continue
        drawn = next(filter(None, (draw(kind, patient, models, args) for patient in PATIENTS)), None)
        missed += [kind.name] if drawn is None else []
        sections += [drawn] if drawn is not None else []
    if args.page:
        args.page.write_text(HEAD.format(bundle=args.bundle, seed=args.seed) + "\n".join(sections), encoding="utf-8")
    if missed:
        print(f"no CT here has a place for: {', '.join(missed)}")
    return 1 if missed else 0


def draw(kind, patient: Patient, models, args: argparse.Namespace) -> str | None:
    """Synthesize and save the picture, and tell of it in Markdown; None where this patient has no such organ or no room
    in it."""
    ct, organs = patient.read(args.data)
    if not any(organs.voxel_count(organ) for organ in kind.organs):
        return None
    try:
        wish = Wish(LesionReport(lesion_type=kind.name))
        case = synthesize(ct, organs, wish, bundle=models, settings=Settings(seed=args.seed))
    except LesionDiffusionError as error:
        print(f"{kind.name} on {patient.name}: {error}")
        return None
    path = args.out / f"{kind.name.replace(' ', '-')}.png"
    picture = preview_image(case)
    height = round(picture.height * WIDTH_PX / picture.width)
    small = picture.resize((WIDTH_PX, height), Image.Resampling.LANCZOS)
    small.quantize(COLORS, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)  # keeps the outline's color
    print(f"{kind.name} on {patient.name}: {case.report.describe()}", flush=True)
    verdicts = {True: "fits", False: "**differs**", None: "not judged"}
    rows = (f"| {m.attribute} | {m.requested} | {m.measured} | {verdicts[m.fits]} |" for m in case.measurements)
    place = path.relative_to(args.page.parent) if args.page else path
    table = "\n".join(("| attribute | asked for | measured | |", "|---|---|---|---|", *rows))
    return f"## {kind.name}\n\nCT: {patient.name}.\n\n![{kind.name}]({place.as_posix()})\n\n{table}\n"


if __name__ == "__main__":
    sys.exit(main())
