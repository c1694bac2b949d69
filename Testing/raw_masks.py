"""What LMNet draws, before the program cuts it to box and region and keeps its largest piece."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from LesionDiffusionLib import meters
from LesionDiffusionLib.diffusion.samplers import SamplerStep
from LesionDiffusionLib.lmnet import LMNet
from LesionDiffusionLib.mask_stage import USUAL_THRESHOLD
from LesionDiffusionLib.models import Models
from LesionDiffusionLib.postprocess import largest_component

MOST = 0.95  # of the voxels drawn


@dataclasses.dataclass(frozen=True, eq=False)
class RecordedLMNet(LMNet):
    """LMNet that remembers the conditions and the result of its last run, on its window."""

    last: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def sample(self, maps, context, options, noise) -> Iterator[SamplerStep]:
        for step in super().sample(maps, context, options, noise):
            yield step
        _, self.last["organ"], self.last["box"] = maps[0].cpu().numpy() > 0
        self.last["drawn"] = step.x[0, 0].float().cpu().numpy()


def recorded(models: Models) -> Models:
    """``models`` with an LMNet that remembers."""
    lmnet = models.lmnet
    return dataclasses.replace(models, lmnet=RecordedLMNet(lmnet.denoiser, lmnet.window, lmnet.unconditional))


def judge_drawn(models: Models, inside_organ: bool) -> dict[str, bool | None]:
    """Of the last lesion: do 95 % of the voxels drawn lie in the box (one voxel of the window allowed), in the organ
    (None unless it is to lie inside), and in one piece? All False where nothing was drawn."""
    last, threshold = models.lmnet.last, models.bundle.manifest.lmnet.threshold or USUAL_THRESHOLD
    drawn = last["drawn"] > threshold
    parts = {"box": ndimage.binary_dilation(last["box"]), "organ": last["organ"], "piece": largest_component(drawn)}
    share = {name: meters.share_inside(drawn, part) if drawn.any() else 0.0 for name, part in parts.items()}
    return {
        "drawn in its box, before any cut": bool(share["box"] >= MOST),
        "drawn in its organ, before any cut": bool(share["organ"] >= MOST) if inside_organ else None,
        "drawn in one piece, before any cut": bool(share["piece"] >= MOST),
    }
