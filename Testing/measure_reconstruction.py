"""How well does a bundle's VQ-GAN carry a CT? Measured on windows of a real scan.

    python Testing/measure_reconstruction.py --ct CT [--bundle starter] [--windows 24] [--spacing-mm 1.5] [--out FILE]

Windows are centered at random in the body. PSNR is over [-1000, 1000] HU; the mean absolute error is also given for
soft tissue alone (-150 to 250 HU); codebook use is the share of codes chosen at least once. The noise of the scan
counts as error, although it is not lost: synthesis adds it back.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch
from measuring import keep, scan

from LesionDiffusionLib.bundles import open_bundle
from LesionDiffusionLib.devices import resolve_device
from LesionDiffusionLib.intensity import to_network
from LesionDiffusionLib.io import read_ct
from LesionDiffusionLib.models import load_models
from LesionDiffusionLib.training.volumes import TrainingVolume
from LesionDiffusionLib.training.windows import random_windows

SOFT_TISSUE_HU = (-150, 250)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ct", type=Path, required=True)
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--spacing-mm", type=float, default=1.5)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    models = load_models(open_bundle(args.bundle), resolve_device())
    volume = TrainingVolume("measured", read_ct(args.ct).volume, None, contrast=False)
    size = models.linet.window.shape[0]
    spacing_mm = (args.spacing_mm, args.spacing_mm * 1.0001)
    windows_hu = random_windows([volume], args.windows, size, spacing_mm, np.random.default_rng(0))
    figures = measure(models, np.clip(windows_hu, -1000, 1000).astype(np.float32))
    settings = scan(args.ct) | {"windows": args.windows, "spacing_mm": args.spacing_mm}
    keep(figures, settings, models, args.out, ("autoencoder",))
    return 0


@torch.no_grad()
def measure(models, windows_hu: np.ndarray) -> dict:
    """Figures for HU windows (N, D, H, W) within [-1000, 1000]."""
    codec, used = models.linet.codec, set()
    decoded_hu = np.empty_like(windows_hu)
    for n, window_hu in enumerate(windows_hu):
        decoded_hu[n] = codec.decode(codec.encode(window_hu, models.device))[0]
        network = torch.from_numpy(to_network(window_hu)).to(models.device)[None, None]
        used.update(codec.autoencoder.quantize(codec.autoencoder.encode(network)).indices.unique().tolist())
    error_hu = decoded_hu - windows_hu
    soft = (windows_hu >= SOFT_TISSUE_HU[0]) & (windows_hu <= SOFT_TISSUE_HU[1])
    return {
        "PSNR dB over [-1000, 1000] HU": round(20 * math.log10(2000 / math.sqrt((error_hu**2).mean())), 2),
        "soft-tissue mean absolute error HU": round(float(np.abs(error_hu[soft]).mean()), 2),
        "soft-tissue bias HU": round(float(error_hu[soft].mean()), 2),
        "share of codebook used": round(len(used) / codec.autoencoder.config.codebook_size, 3),
    }


if __name__ == "__main__":
    sys.exit(main())
