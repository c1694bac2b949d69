"""The starter bundle's model card, written from the same data that made the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from LesionDiffusionLib.bundles import Manifest
from LesionDiffusionLib.errors import TrainingError
from LesionDiffusionLib.training.bundling import largest_lesion, size_table
from LesionDiffusionLib.training.starter_recipe import RECIPE, SOURCES

TARGETS = {  # by script; shares in percent
    "measure_bundle": {
        "in its box": (">=", 95),
        "in its region": (">=", 90),
        "of its size": (">=", 80),
        "strictly of its size": (">=", 80),
        "one piece": (">=", 95),
        "fluid-like 0 to 25 HU": (">=", 80),
        "hypo-, iso-, hyperdense in order": (">=", 95),
        "heterogeneous varies more": (">=", 90),
        "ill-defined is wider": (">=", 80),
    },
    "measure_reconstruction": {
        "PSNR dB over [-1000, 1000] HU": (">=", 34),
        "soft-tissue mean absolute error HU": ("<=", 15),
        "share of codebook used": (">=", 0.5),
    },
}


def model_card(manifest: Manifest, tensors: Mapping[str, Mapping], minutes: Mapping[str, float]) -> str:
    """The card without its figures; ``minutes`` are those of the steps that were timed."""
    reworded = f"{RECIPE.word_shards * RECIPE.cases_per_shard} lesions more, each drawn {RECIPE.words} times"
    sources = "\n".join(f"- {source.ct}: {source.origin}" for source in SOURCES)
    loops = {"vqgan": RECIPE.vqgan.loop, "lmnet": RECIPE.lmnet.loop, "linet": RECIPE.linet.loop}
    more = {"lmnet": f" + {RECIPE.lmnet_polish}"}
    training = "\n".join(
        f"| {name} | {loop.steps}{more.get(name, '')} | {loop.batch} | {loop.learning_rate:g} | {loop.seed} "
        f"| {minutes.get(name, '-')} |"
        for name, loop in loops.items()
    )
    return f"""# Starter bundle

{manifest.title}.

**Trained on procedurally rendered lesions.** The lesions these networks learned were drawn by rules from their reports
(`LesionDiffusionLib/training/rendering.py`), not observed in patients. The bundle shows how the software works; it is
not a model of disease. Research use only, not for diagnosis.

{size_table(tensors)}

Lesions up to {largest_lesion(manifest)} mm; the window's voxels scale with the lesion.

## Training data

{RECIPE.phantoms} procedural phantoms and these CTs; KiTS23 and other restricted data were not used:

{sources}

{RECIPE.shards * RECIPE.cases_per_shard} rendered cases; for LINet {reworded}, alike but for the words for
density, variations and margin; {RECIPE.windows} healthy windows. (The VQ-GAN saw windows of an earlier state of the
phantom's generator: trained anew it becomes as good, but not the same to the bit.)

## Training

`{manifest.made_by["command"]}` on CPU, float32, torch {manifest.made_by["torch"]}.

| network | steps | batch | learning rate | seed | minutes on two cores |
|---|---|---|---|---|---|
{training}

The VQ-GAN began as the principal components of 2 x 2 x 2 blocks and was trained with reconstruction and codebook
losses only (no adversarial, no perceptual term). LMNet and LINet hear the text in their transformers and in the time
embedding; noisy timesteps were drawn more often than others, and for LMNet all alike in {RECIPE.lmnet_polish} more
steps at the end. LINet diffuses what the lesion changes and sees the latents it changes, so that it need not invent
the scan's noise.

LMNet learned on the first 2000 cases, whose latents also tell the units of LINet's; with all of them either would
differ a little. **LINet is not one run of its step.** Its body learned in two parts (13,500 steps on the rendered
cases, 1000 on all) under an earlier last layer, in 1000 steps under a draft of the present one, and in 4500 steps at
learning rates from 6e-4 on, with Adam begun anew, under the present one: 94, 7, 6 and 28 minutes on two cores. The
table tells what the step would do.

## What it does badly

Figures that miss their target stand bold in the table below. A size fits where every extent is within 25 % of what was
asked for, or within one voxel of it; "strictly" allows no voxel. Lesions at an organ's margin, and in enhanced kidneys,
come out uneven where what they replace had edges: where "heterogeneous" fails, the homogeneous lesion varies twice as
much as elsewhere. Textures and blurred edges are fainter than those of the rule that drew the examples
(`measure_rule`). Every mask lies in its box and region and is one piece because the program shrinks or cuts it so; what
LMNet draws before that ("before any cut") does in about three of four cases. A case without a place for its lesion is
left out and counted. Soft tissue beside air misses the rule's 28 to 48 HU (unenhanced), by over 50 HU for a nodule in
the lung. Shapes called irregular are only mildly so. Lesions in walls of hollow organs miss their size oftener than
others.
"""


def measured(work: Path) -> str:
    """The card's last section: what the scripts in Testing wrote to ``work/measured`` (--out SCRIPT[.WHAT].json)."""
    files = sorted((work / "measured").glob("*.json"))
    figures = {path.stem: json.loads(path.read_text()) for path in files}
    return "\n".join(["\n## Measured\n", *_against_targets(figures), *map(_told, files)]) if files else ""


def _against_targets(figures: Mapping[str, Mapping]) -> list[str]:
    """Lines of a table with a column for every patient; bold is what misses its target."""
    lines = []
    for script, targets in TARGETS.items():
        columns = [figures[stem] for stem in figures if stem.split(".")[0] == script]
        if columns:
            heads = " | ".join(column["settings"]["ct"] for column in columns)
            lines += [f"| `{script}` | target | {heads} |", "|---|---|" + "---|" * len(columns)]
            for name, (relation, target) in targets.items():
                cells = " | ".join(_judged(column[name], relation, target) for column in columns)
                lines.append(f"| {name} | {relation} {target} | {cells} |")
            lines.append("")
    return lines


def _judged(figure: float | str, relation: str, target: float) -> str:
    """The figure (a number, or a text that begins with one or with "none"), bold if it misses its target."""
    number = str(figure).split()[0]
    if number == "none":
        return str(figure)
    value = float(number)
    met = value >= target if relation == ">=" else value <= target
    return str(figure) if met else f"**{figure}**"


def require_own_figures(work: Path, files: Mapping[str, str]) -> None:
    """TrainingError if a figure in ``work/measured`` is of other weights than ``files`` (name -> hash)."""
    for path in sorted((work / "measured").glob("*.json")):
        measured_with = json.loads(path.read_text())["settings"].get("weights")
        if not measured_with or not measured_with.items() <= files.items():
            raise TrainingError(
                f"the card was to tell {path.name}, which was measured with other weights; measure this bundle "
                "with Testing/measure_starter.sh, or delete the figures"
            )


def _told(path: Path) -> str:
    script, _, _ = path.name.partition(".")
    return f"`Testing/{script}.py`:\n\n```json\n{path.read_text().strip()}\n```\n"
