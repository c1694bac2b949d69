"""What decides the starter bundle's weights: its CTs and its recipe."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from LesionDiffusionLib.latent_change import LatentChange
from LesionDiffusionLib.training.config import LINetTraining, LMNetTraining, VQGANTraining
from LesionDiffusionLib.training.presets import PRESETS


@dataclass(frozen=True)
class Source:
    """One real CT: file, organ map and its numbering (or None: lungs or brain by threshold), phase, whence, licence."""

    name: str
    ct: str
    organs: str | None
    numbering: str | None
    contrast: bool
    origin: str


TOTALSEGMENTATOR, XCIST = "TotalSegmentator test files, Apache-2.0", "xcist/phantoms-voxelized, BSD-3-Clause, TCIA"
SOURCES = (
    Source("torso", "torso/ct.nii.gz", "torso/organs.nii.gz", "totalseg_v1", False, TOTALSEGMENTATOR),
    Source("torso_dicom", "torso_dicom/series", "torso_dicom/organs_v2.nii.gz", None, True, TOTALSEGMENTATOR),
    Source("chest_abdomen_1mm", "ct/chest_abdomen_1mm.nii.gz", None, None, False, "FNNDSC/data, Apache-2.0"),
    Source("chest_contrast_3mm", "ct/chest_contrast_3mm.nii.gz", None, None, True, f"{XCIST} CPTAC-PDA"),
    Source("abdomen_contrast_3mm", "ct/abdomen_contrast_3mm.nii.gz", None, None, True, f"{XCIST} TCGA-OV"),
    Source("head_3mm", "ct/head_3mm.nii.gz", None, None, True, f"{XCIST} CPTAC-LSCC"),
)
WITHOUT_ORGANS = ("abdomen_contrast_3mm",)  # its anatomy is displaced by a very large mass: for the autoencoder only
UNSEEN_BY_VQGAN = ("torso_dicom",)  # kept for measuring reconstruction on a real CT the autoencoder never saw
ORGANS = {"liver", "right kidney", "left kidney", "pancreas"}  # of many densities, by phase: more examples of each


def _saying_changes(training: LINetTraining) -> LINetTraining:
    """Diffusing what the lesion changes: rendered cases have the patient without it, prepared ones do not.

    A faint lesion counts beside a stone (`relative_l2`). Changes keep their own proportions (no whitening: the density
    is what matters most), lie in the middle of the diffusion's noise (so fewer noisy timesteps than where they are a
    tenth of it), and need no guidance to be seen.
    """
    return dataclasses.replace(
        training,
        network=dataclasses.replace(training.network, in_channels=9, replaces_shown=True),
        loop=dataclasses.replace(training.loop, steps=13_500),
        sampling=dataclasses.replace(training.sampling, guidance=1.0),
        change=LatentChange(1 / 16),
        loss="relative_l2",
        whitening=0.0,
        noise_bias=2.0,
    )


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    phantoms: int = 14  # the last two are heads
    windows: int = 2500
    window_spacing_mm: tuple[float, float] = (0.5, 5.0)
    shards: int = 24
    organ_shards: int = 8  # the last ones: lesions of ORGANS alone
    cases_per_shard: int = 250
    word_shards: int = 12  # of cases_per_shard lesions, each drawn `words` times, alike but for its words
    words: int = 4
    real_share: int = 3  # a real CT is drawn this much more often than a phantom
    vqgan: VQGANTraining = PRESETS["starter"]["vqgan"]
    lmnet: LMNetTraining = PRESETS["starter"]["lmnet"]
    linet: LINetTraining = _saying_changes(PRESETS["starter"]["linet"])
    tissue_hu: float = 40.0  # the latents of even soft tissue become zero: LINet sees them finest there
    lmnet_polish: int = 600  # more steps, see `_polishing`


RECIPE = Recipe()
