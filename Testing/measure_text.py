"""Does the text act? Measured on the phantom, over same-seed pairs, with the networks of a bundle.

    python Testing/measure_text.py [--bundle starter] [--seeds 20] [--out FILE.json]

Density: for every seed one liver lesion is drawn three times, as hypodense, isodense and hyperdense, and otherwise
alike. A triple succeeds when the median HU inside the lesion rises in that order. Shape: for every seed one mask is
drawn as round-like and one as irregular; the difference of their sphericities is given with its 95 % interval (paired
t). Shuffled text: the networks hear a word drawn at random in place of the one that is asked for. A sample depends on
the seed and the word heard alone, so the shuffled samples are the same samples under other names; they are judged by
the name asked for.

Exit code 1 if the text does not act as claimed: at least 90 % of triples in order, a sphericity interval above 0, and
neither under shuffled text.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch
from measuring import keep
from scipy import stats

from LesionDiffusionLib import meters
from LesionDiffusionLib.bundles import open_bundle
from LesionDiffusionLib.devices import resolve_device
from LesionDiffusionLib.models import load_models
from LesionDiffusionLib.phantom import Phantom, make_phantom
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.synthesis import Settings, synthesize
from LesionDiffusionLib.wish import Wish

DENSITIES = ("hypodense lesion", "isodense lesion", "hyperdense lesion")
SHAPES = ("round-like", "irregular")
LESION = LesionReport(
    lesion_type="liver cancer",
    organ="liver",
    lesion_location="inside organ",
    size_mm=(30.0, 30.0, 30.0),
    shape="round-like",
    surface="well-defined margin",
    density="hypodense lesion",
    density_variations="homogeneous",
    enhancement="enhanced CT",
)
WANTED_SHARE = 0.9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    models = load_models(open_bundle(args.bundle), resolve_device(args.device))
    phantom = make_phantom(np.random.default_rng(100))
    density_hu, sphericity = np.empty((args.seeds, 3)), np.empty((args.seeds, 2))
    for seed in range(args.seeds):
        density_hu[seed] = median_hu_by_word(phantom, models, seed)
        sphericity[seed] = sphericity_by_word(phantom, models, seed)
        print(f"seed {seed}: HU {np.round(density_hu[seed])}, sphericity {np.round(sphericity[seed], 3)}", flush=True)
    figures = judge(density_hu, sphericity, np.random.default_rng(0))
    keep(figures, {"seeds": args.seeds, "torch": torch.__version__}, models, args.out)
    return 0 if figures["text acts"] and figures["shuffled text loses the effect"] else 1


def median_hu_by_word(phantom: Phantom, models, seed: int) -> list[float]:
    """Median HU inside the lesion for each density word; the mask network does not hear them, so the mask is shared."""
    values, mask = [], None
    for word in DENSITIES:
        wish = Wish(dataclasses.replace(LESION, density=word), mask=mask)
        case = synthesize(phantom.ct, phantom.organs, wish, bundle=models, settings=Settings(seed))
        mask = case.mask.array
        values.append(meters.median_hu(case.ct.array, mask))
    return values


def sphericity_by_word(phantom: Phantom, models, seed: int) -> list[float]:
    """Sphericity of the mask for each shape word. One step suffices for the image, which is not looked at."""
    values = []
    for word in SHAPES:
        wish = Wish(dataclasses.replace(LESION, shape=word))
        case = synthesize(phantom.ct, phantom.organs, wish, bundle=_without_image(models), settings=Settings(seed))
        values.append(meters.sphericity(case.mask.array, phantom.ct.geometry.spacing_mm))
    return values


def _without_image(models):
    manifest = models.bundle.manifest
    linet = dataclasses.replace(manifest.linet, sampling=dataclasses.replace(manifest.linet.sampling, steps=1))
    bundle = dataclasses.replace(models.bundle, manifest=dataclasses.replace(manifest, linet=linet))
    return dataclasses.replace(models, bundle=bundle)


def judge(density_hu: np.ndarray, sphericity: np.ndarray, generator: np.random.Generator) -> dict:
    """Figures for the text as asked and for shuffled text.

    Args:
        density_hu: (seeds, 3) median HU for DENSITIES.
        sphericity: (seeds, 2) for SHAPES.
        generator: draws the shuffles.
    """
    figures = {}
    for name, shuffle in (("as asked", False), ("shuffled", True)):
        hu = generator.permuted(density_hu, axis=1) if shuffle else density_hu
        pair = generator.permuted(sphericity, axis=1) if shuffle else sphericity
        difference = pair[:, 0] - pair[:, 1]
        interval = stats.t.interval(0.95, len(pair) - 1, difference.mean(), stats.sem(difference))
        figures[name] = {
            "share of triples in order": float(((hu[:, 0] < hu[:, 1]) & (hu[:, 1] < hu[:, 2])).mean()),
            "mean HU": np.round(hu.mean(axis=0), 1).tolist(),
            "sphericity, round-like minus irregular": float(difference.mean()),
            "95 % interval": [float(end) for end in interval],
        }
    asked, shuffled = figures["as asked"], figures["shuffled"]
    figures["text acts"] = asked["share of triples in order"] >= WANTED_SHARE and asked["95 % interval"][0] > 0
    lost = shuffled["share of triples in order"] < WANTED_SHARE and shuffled["95 % interval"][0] <= 0
    figures["shuffled text loses the effect"] = lost
    return figures


if __name__ == "__main__":
    sys.exit(main())
