"""Plot how the cost grows, from what `lesiondiffusion benchmark --growth --out FOLDER` wrote; needs matplotlib.

python Testing/plot_benchmark.py FOLDER/benchmark.json docs/images/cost.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

NAMES = {
    "lesion_mm": "lesion, mm",
    "ct_voxels": "CT, million voxels",
    "steps": "steps",
    "candidates": "candidates",
    "processes": "processes",
}


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    growth = json.loads(source.read_text())["growth"]
    figure, axes = plt.subplots(1, len(growth), figsize=(2.6 * len(growth), 2.6), constrained_layout=True)
    for axis, (name, points) in zip(axes, growth.items(), strict=True):
        unit = next(key for key in points[0] if key != "x")
        scale = 1e-6 if name == "ct_voxels" else 1.0
        axis.plot([point["x"] * scale for point in points], [point[unit] for point in points], "o-")
        axis.set_ylim(0, 1.1 * max(point[unit] for point in points))
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=name != "ct_voxels"))
        axis.set_xlabel(NAMES[name])
        axis.set_ylabel(unit.replace("_", " "))
    figure.savefig(target, dpi=90)


if __name__ == "__main__":
    main()
