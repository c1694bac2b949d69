"""From what the networks return to what goes home: mask choice and seam blending. Numpy and scipy only."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from LesionDiffusionLib.geometry import Box

MAX_SHORT = 0.2  # of an extent; a lesion counts as of its size within a quarter, see `fit`
MAX_NOISE_HU = 40.0  # standard deviation of a scan's noise; where more is left, it is edges between air and tissue
MAX_BIAS_HU = 20.0  # of the autoencoder; more means a saturated or foreign region, such as metal


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest face-connected component of a bool array (all False stays all False)."""
    labels, count = ndimage.label(mask)
    if count <= 1:
        return labels > 0
    return labels == np.bincount(labels.ravel())[1:].argmax() + 1


def threshold_by_volume(probability: np.ndarray, box_voxels: int, thresholds=(0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)):
    """The released model's binarization: the largest component whose size is nearest to the box's (released-model 6.1).

    Args:
        probability: LMNet's sample, about 0 outside and 1 inside.
        box_voxels: number of voxels in the box.
        thresholds: tried from high to low; the first of equally good ones wins.

    Returns:
        The bool mask and the threshold chosen.
    """
    masks = {t: largest_component(probability > t) for t in thresholds}
    best = min(thresholds, key=lambda t: abs(int(masks[t].sum()) - box_voxels))
    return masks[best], best


def threshold_by_extents(probability: np.ndarray, allowed: np.ndarray, thresholds: tuple[float, ...]) -> np.ndarray:
    """The lesion in its box, as large as the box if one of the thresholds makes it so.

    What a network is sure of in the middle and less sure of at the ends (flat lesions of walls, lesions of few voxels)
    is cut short by a fixed threshold. The first of ``thresholds`` whose mask reaches along every axis as far as the
    box, within MAX_SHORT or one voxel, wins; where none does, the one that falls short least.

    Args:
        probability: LMNet's sample on the box, about 0 outside and 1 inside.
        allowed: bool, where the lesion may lie.
        thresholds: from high to low.

    Returns:
        One face-connected component; all False where the sample stays below all thresholds.
    """
    best, least = np.zeros(allowed.shape, bool), np.inf
    for threshold in thresholds:
        mask = largest_component((probability > threshold) & allowed)
        short = _shortness(mask)
        if short < least:
            best, least = mask, short
        if least <= 0:
            break
    return best


def _shortness(mask: np.ndarray) -> float:
    """How far, relative to the box, the worst extent is beyond what MAX_SHORT or one voxel allow; 0 or less is fine."""
    if not mask.any():
        return np.inf
    return max((n - e - max(MAX_SHORT * n, 1)) / n for n, e in zip(mask.shape, Box.bounding(mask).shape, strict=True))


def blend_weight(mask: np.ndarray, spacing_mm: tuple[float, float, float], falloff_mm: float) -> np.ndarray:
    """Weight of the synthesized voxels: 1 in the lesion, a half cosine down to exactly 0 ``falloff_mm`` outside.

    Args:
        mask: bool lesion.
        spacing_mm: voxel size along the mask's axes.
        falloff_mm: at and beyond this distance from the lesion the weight is exactly 0.

    Returns:
        float32 array of the mask's shape; all 0 for an empty mask.
    """
    if not mask.any():
        return np.zeros(mask.shape, np.float32)
    distance_mm = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    weight = 0.5 + 0.5 * np.cos(np.pi * np.clip(distance_mm / falloff_mm, 0, 1))
    return np.where(distance_mm >= falloff_mm, 0, weight).astype(np.float32)


def keep_noise(ct: np.ndarray, reconstruction: np.ndarray, where: np.ndarray, limit: float = 2.5) -> np.ndarray:
    """What the autoencoder cannot carry of the patient's image, clipped to what is noise rather than anatomy.

    A latent code of a few bits a voxel returns a smooth image; a smooth lesion in a noisy scan is visible as a patch.
    The difference between the scan and its own reconstruction is mostly that noise. Values beyond ``limit`` robust
    standard deviations are edges of structures that the lesion replaces, and are cut; where edges are so many that they
    make the standard deviation, it counts as MAX_NOISE_HU. The autoencoder's bias, the residual's median, is kept up to
    MAX_BIAS_HU: the lesion is decoded with the same bias, so the two cancel.

    Args:
        ct: the patient's HU.
        reconstruction: the same region, encoded and decoded.
        where: bool, the lesion: where bias and spread are measured.
        limit: clip in robust standard deviations.

    Returns:
        The residual in HU.
    """
    residual = ct - reconstruction
    sample = residual[where] if where.any() else residual.ravel()
    center = float(np.median(sample))
    spread = min(1.4826 * float(np.median(np.abs(sample - center))), MAX_NOISE_HU)
    return np.clip(residual - center, -limit * spread, limit * spread) + np.clip(center, -MAX_BIAS_HU, MAX_BIAS_HU)
