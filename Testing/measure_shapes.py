"""Do the mask network's shapes follow their word, and do they look like real ones? (LesionDiffusion paper, Fig. 4a)

    lesiondiffusion prepare --layout kits23 --data KITS23 --limit 160 --round-sphericity 0.925 --out runs/kits
    lesiondiffusion train lmnet --preset starter --data runs/kits --out runs/kits_lmnet --set loop.steps=1500
    python Testing/measure_shapes.py --data runs/kits --lmnet runs/kits_lmnet --out FILE.json --plot FILE.png

These are the settings of docs/shapes.md; --plot needs matplotlib (pip install -e ".[eval]").

For every held-out lesion, LMNet is given its organ and its box and asked for a round-like and for an irregular one.
Sphericity and convexity of what it draws are compared with those of the held-out lesions that bear that word, by
Wasserstein distances; the ellipsoid in the box is the baseline. All are measured on the network's own window, so that
voxels flatter nobody.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from LesionDiffusionLib import meters
from LesionDiffusionLib.devices import resolve_device
from LesionDiffusionLib.diffusion.denoiser import Denoiser
from LesionDiffusionLib.diffusion.samplers import SampleNoise
from LesionDiffusionLib.diffusion.schedule import NoiseSchedule
from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.lmnet import LMNet, condition_maps
from LesionDiffusionLib.networks.unet import UNet3D
from LesionDiffusionLib.networks.vocabulary_encoder import VocabularyEncoder
from LesionDiffusionLib.placement import inscribed_ellipsoid
from LesionDiffusionLib.postprocess import largest_component
from LesionDiffusionLib.report import mask_strings
from LesionDiffusionLib.training.bundling import Part, parts_of
from LesionDiffusionLib.training.prepared import PreparedCases
from LesionDiffusionLib.training.sources import PreparedMasks

WORDS = ("round-like", "irregular")
METERS = {"sphericity": meters.sphericity, "convexity": meters.convexity}
LEAST_VOXELS = 100
VOXEL = (1.0, 1.0, 1.0)  # both meters do not depend on the scale, and windows are isotropic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset; its split 'test' is used")
    parser.add_argument("--lmnet", required=True, help="folder of a training, or a bundle")
    parser.add_argument("--limit", type=int, default=60, help="held-out lesions (default: 60)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--plot", type=Path, help="PNG; needs matplotlib")
    args = parser.parse_args()
    if args.plot and importlib.util.find_spec("matplotlib") is None:  # told before anything is drawn
        parser.exit(2, "error: --plot needs matplotlib: pip install matplotlib, or leave it out\n")
    part, device = parts_of(args.lmnet).get("lmnet"), resolve_device(args.device)
    if part is None:
        parser.error(f"expected an LMNet in {args.lmnet}; give a training of lmnet, or a bundle")
    if part.text.encoder != "vocabulary":
        parser.error(f"expected an LMNet with a vocabulary text encoder, got {part.text.encoder}; train another preset")
    cases = PreparedCases(args.data, "test", part.spec.window)
    found = shapes(part, cases, device, args.limit)
    figures = judged(found) | {"made_by": dict(part.made_by), "lesions": len(found["real"])}
    print(json.dumps(figures, indent=2))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n")
    if args.plot:
        plot(found, args.plot)


def shapes(part: Part, cases: PreparedCases, device: torch.device, limit: int) -> dict[str, list[dict[str, float]]]:
    """The meters of real lesions, of their ellipsoids and of generated masks; one entry per held-out lesion each.

    Entries of "real" also hold the lesion's word.
    """
    network, text = _networks(part, device)
    source = PreparedMasks(cases, part.spec.window, part.text.spelling)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ("real", "ellipsoid", *WORDS)}
    for n in range(min(limit, len(cases))):
        labels, organ, box, share = source.windows(n)
        real = share > 0.5
        if cases[n].report.shape not in WORDS or real.sum() < LEAST_VOXELS:
            continue
        drawn = {
            word: _draw(network, text, condition_maps(labels, organ, box).to(device), _asked(cases, n, word), n, part)
            for word in WORDS
        }
        if min(mask.sum() for mask in drawn.values()) < LEAST_VOXELS:
            print(f"lesion {n}: too few voxels drawn, left out")
            continue
        found["real"].append(_measured(real) | {"word": cases[n].report.shape})
        found["ellipsoid"].append(_measured(_ellipsoid(box)))
        for word, mask in drawn.items():
            found[word].append(_measured(mask))
        print(f"lesion {n}: real {found['real'][-1]}, { ({word: found[word][-1] for word in WORDS}) }", flush=True)
    return found


def judged(found: dict[str, list[dict[str, float]]]) -> dict:
    """Means, the paired difference between the words with its 95 % interval, and Wasserstein distances to real."""
    figures = {}
    for meter in METERS:
        values = {name: np.array([entry[meter] for entry in entries]) for name, entries in found.items()}
        words = np.array([entry["word"] for entry in found["real"]])
        of_word = {word: values["real"][words == word] for word in WORDS}
        difference = values[WORDS[0]] - values[WORDS[1]]
        interval = stats.t.interval(0.95, len(difference) - 1, difference.mean(), stats.sem(difference))
        distances = {
            f"{name} to real {word}": stats.wasserstein_distance(values[name], of_word[word])
            for word in WORDS
            for name in (word, "ellipsoid")
        }
        means = {name: value.mean() for name, value in values.items()}
        means |= {f"real {word}": value.mean() for word, value in of_word.items()}
        figures[meter] = {
            "mean": _rounded(means),
            "round-like minus irregular": round(float(difference.mean()), 4),
            "95 % interval": [round(float(end), 4) for end in interval],
            "Wasserstein distance": _rounded(distances),
        }
    return figures


def plot(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Both meters of all groups, side by side."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(METERS), figsize=(9, 3.6), constrained_layout=True)
    for axis, meter in zip(axes, METERS, strict=True):
        groups = {"ellipsoid": [e[meter] for e in found["ellipsoid"]]}
        for word in WORDS:
            groups[f"real\n{word}"] = [e[meter] for e in found["real"] if e["word"] == word]
            groups[f"LMNet\n{word}"] = [e[meter] for e in found[word]]
        axis.boxplot(list(groups.values()), showfliers=False)
        for place, values in enumerate(groups.values(), start=1):
            jitter = np.random.default_rng(place).uniform(-0.15, 0.15, len(values))
            axis.plot(place + jitter, values, ".", alpha=0.4)
        axis.set_xticks(range(1, len(groups) + 1), list(groups), fontsize=8)
        axis.set_ylabel(meter)
    figure.savefig(path, dpi=110)


def _networks(part: Part, device: torch.device) -> tuple[LMNet, VocabularyEncoder]:
    def of(prefix: str) -> dict:
        return {k.removeprefix(prefix): v.float() for k, v in part.tensors.items() if k.startswith(prefix)}

    unet, text = UNet3D(part.spec.unet), VocabularyEncoder(part.text.phrases, part.spec.unet.context_dim)
    unet.load_state_dict(of("unet."))
    text.load_state_dict(of("text."))
    schedule = NoiseSchedule(part.tensors["alphas_cumprod"])
    denoiser = Denoiser(unet.to(device).eval(), schedule, part.spec.prediction)
    null = text.encode([""])[None].detach().to(device)
    return LMNet(denoiser, part.spec.window, null), text


@torch.inference_mode()
def _draw(network: LMNet, text: VocabularyEncoder, maps: torch.Tensor, strings: list[str], n: int, part: Part):
    """The mask for one text; both words of a lesion start from the same noise."""
    context = text.encode(strings)[None].to(maps.device)
    *_, end = network.sample(maps, context, part.spec.sampling, SampleNoise.from_seeds([n]))
    return largest_component(end.x[0, 0].float().cpu().numpy() > (part.spec.threshold or 0.5))


def _asked(cases: PreparedCases, n: int, word: str) -> list[str]:
    return mask_strings(dataclasses.replace(cases[n].report, shape=word))


def _ellipsoid(box: np.ndarray) -> np.ndarray:
    mask, tight = np.zeros(box.shape, bool), Box.bounding(box)
    mask[tight.slices] = inscribed_ellipsoid(tight.shape)
    return mask


def _measured(mask: np.ndarray) -> dict[str, float]:
    return {name: round(float(meter(mask, VOXEL)), 4) for name, meter in METERS.items()}


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in values.items()}


if __name__ == "__main__":
    main()
