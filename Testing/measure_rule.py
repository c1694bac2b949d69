"""How much of the words can be measured at all? The lesions of measure_bundle, drawn by rule in place of LINet.

    python Testing/measure_rule.py [--ct CT --organs MAP --labels NUMBERING] [--bundle starter] [--pairs 50]
        [--out FILE]

Masks, windows, autoencoder and the way home are those of the bundle; only the density comes from the rule that LINet
learns (`training.rendering`). Where these lesions fail, it is the ruler or the resolution that fails, not the network.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from exchanged_words import comparable, shares_in_order
from measure_bundle import add_common, patient, reports
from measuring import keep, scan

from LesionDiffusionLib import synthesis
from LesionDiffusionLib.bundles import open_bundle
from LesionDiffusionLib.devices import resolve_device
from LesionDiffusionLib.homecoming import bring_home, falloff_mm
from LesionDiffusionLib.image_stage import lesion_window
from LesionDiffusionLib.labels import OrganMap
from LesionDiffusionLib.models import load_models
from LesionDiffusionLib.placement import Site
from LesionDiffusionLib.resampling import sample_mask
from LesionDiffusionLib.training.rendered_case import scene_of
from LesionDiffusionLib.training.rendering import render_density


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common(parser)
    args = parser.parse_args()
    ct, organs = patient(args)
    models = load_models(open_bundle(args.bundle), resolve_device("cpu"))
    synthesis.inpaint = lambda run, mask, noise: drawn(run, mask, organs)
    lesions = comparable(reports(organs, 12 * args.pairs), args.pairs)
    figures = shares_in_order(ct, organs, models, lesions, seeds=1)
    keep(figures, {"pairs": args.pairs} | scan(args.ct), models, args.out, ("lmnet", "autoencoder"))
    return 0


def drawn(run, mask: np.ndarray, organs: OrganMap):
    """`image_stage.inpaint` with the rule in place of the network."""
    linet, grid, report = run.models.linet, lesion_window(run, mask), run.plan.report
    organ = organs.mask(report.organ)
    site = Site(organ, (organs.volume.array > 0) & ~organ, run.ct.geometry)
    scene = scene_of(run.ct, site, grid)
    lesion = sample_mask(mask, run.ct.geometry, grid)
    lesion_hu = render_density(report, scene, lesion, np.random.default_rng(run.settings.seed))
    region = linet.latent_mask.region(torch.from_numpy(lesion.astype(np.float32))[None, None])
    known, painted = linet.codec.encode(scene.ct_hu), linet.codec.encode(lesion_hu)
    decoded = (linet.codec.decode(z)[0] for z in (region * painted + (1 - region) * known, known))
    reach_mm = falloff_mm(mask, grid, run.ct.geometry)
    return *bring_home(run.ct, mask, grid, tuple(decoded), reach_mm), reach_mm


if __name__ == "__main__":
    sys.exit(main())
