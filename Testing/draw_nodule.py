"""A nodule in a real chest CT, its mask given, no organ map: docs/images/chest-lung-nodule.png.

    python Testing/draw_nodule.py --data ../shared/data --out docs/images/chest-lung-nodule.png [--seed 3]

The mask stands in for one drawn by hand: a few balls that overlap.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from LesionDiffusionLib.io import read_ct
from LesionDiffusionLib.labels import OrganMap
from LesionDiffusionLib.preview import preview_image
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.synthesis import Settings, synthesize
from LesionDiffusionLib.wish import Wish

CT = "ct/chest_abdomen_1mm.nii.gz"  # 1 mm voxels
BALLS = (
    ((260, 156, 158), 7),
    ((265, 159, 160), 6),
    ((257, 160, 154), 5),
    ((262, 151, 162), 5),
)  # center, radius: voxels
NODULE = LesionReport(
    lesion_type="lung cancer",
    organ="left upper lung lobe",
    shape="irregular",
    surface="ill-defined margin",
    density="isodense soft tissue mass",
    density_variations="heterogeneous",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    ct = read_ct(args.data / CT).volume
    wish = Wish(NODULE, mask=balls(ct.array.shape))
    case = synthesize(ct, OrganMap.unknown(ct.geometry), wish, bundle=args.bundle, settings=Settings(seed=args.seed))
    preview_image(case).save(args.out, optimize=True)
    for m in case.measurements:
        print(m.attribute, m.requested, m.measured, m.fits, sep="; ")


def balls(shape: tuple[int, int, int]) -> np.ndarray:
    """Bool (I, J, K): everything inside one of the balls."""
    grid = np.indices(shape, np.int32, sparse=True)
    parts = (sum((axis - c) ** 2 for axis, c in zip(grid, center, strict=True)) < r**2 for center, r in BALLS)
    return np.logical_or.reduce(list(parts))


if __name__ == "__main__":
    main()
