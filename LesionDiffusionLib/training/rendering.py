"""Lesions drawn by rule from their reports: training data for the starter bundle, never used at synthesis time.

`render_mask` draws a shape, `render_density` fills it. Both work on a window grid (D, H, W) = (superior, anterior,
left) and take all chance from a generator. What a word means here (how far below the organ "hypodense" lies, how wide
an ill-defined margin is) is general radiological knowledge written down as numbers, not fitted to patients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.phantom import smooth_noise
from LesionDiffusionLib.placement import WALL_MM
from LesionDiffusionLib.postprocess import blend_weight, largest_component
from LesionDiffusionLib.report import LesionReport

HYPO_STEP_HU = (28.0, 55.0)  # hypodense / hyperdense against the organ around it
FLUID_HU = (4.0, 18.0)
SOFT_TISSUE_HU = {"enhanced CT": (45.0, 75.0), "non-contrast CT": (28.0, 48.0)}
GROUND_GLASS_HU = (-680.0, -480.0)
STONE_HU = (250.0, 850.0)
HOMOGENEOUS_STD_HU, HETEROGENEOUS_STD_HU = (0.0, 3.0), (16.0, 28.0)
SHARP_MARGIN_MM, BLURRED_MARGIN_MM = 0.6, (2.5, 4.5)
BLURRED_SURFACES = (
    "ill-defined margin",
    "unclear boundary with the renal parenchyma",
    "poorly defined boundary with normal esophageal tissue",
    "serosal surface irregularity",
)


@dataclass(frozen=True)
class Scene:
    """A healthy window: where a lesion is drawn.

    Attributes:
        ct_hu: float32 (D, H, W).
        organ: bool, the target organ.
        blocked: bool, other organs.
        spacing_mm: isotropic voxel size of the window.
    """

    ct_hu: np.ndarray
    organ: np.ndarray
    blocked: np.ndarray
    spacing_mm: float


def render_mask(report: LesionReport, scene: Scene, box: Box, generator: np.random.Generator) -> np.ndarray:
    """A lesion of the report's shape in ``box``: bool (D, H, W), one component, possibly empty when nothing fits."""
    radius, direction = _polar(scene.organ.shape, box)
    reach = 1 + _boundary(report, box, direction, generator)
    shape = radius < reach
    if report.shape in ("irregular wall thickening", "luminal narrowing"):
        shape = _wall(report, scene, radius, box, generator)
    elif report.shape == "protrusion into the lumen":
        shape &= scene.organ | ndimage.binary_dilation(scene.organ)
    return largest_component(shape & _room(report, scene, box))


def render_density(report: LesionReport, scene: Scene, mask: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The window with the lesion in it: float32 HU. The scan's own noise stays on top of the lesion."""
    target_hu = _target_hu(report, scene, mask, generator)
    smooth = ndimage.gaussian_filter(scene.ct_hu, 1.0)
    residual = scene.ct_hu - smooth
    spread = 1.4826 * np.median(np.abs(residual[mask])) if mask.any() else 0.0
    noise = np.clip(residual, -2.5 * spread, 2.5 * spread)
    weight = _edge_weight(report, mask, scene.spacing_mm, generator)
    return (scene.ct_hu + weight * (target_hu + noise - scene.ct_hu)).astype(np.float32)


def _polar(shape: tuple[int, ...], box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Radius in box radii (1 on the inscribed ellipsoid) and unit direction (..., 3) seen from the box center."""
    axes = [
        (np.arange(n, dtype=np.float32) - c) / (s / 2) for n, c, s in zip(shape, box.center_vox, box.shape, strict=True)
    ]
    offset = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    radius = np.linalg.norm(offset, axis=-1)
    return radius, offset / np.maximum(radius, 1e-6)[..., None]


def _boundary(report: LesionReport, box: Box, direction: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Relative displacement of the surface, a function of direction only, so that the shape is star-like.

    Few smooth waves for round shapes; lobes of many sizes for irregular ones; narrow spikes for spicules.
    """
    lobes = {
        "irregular": (0.30, 14),
        "protrusion into the lumen": (0.12, 8),
        "punctate": (0.08, 6),
        "cystic": (0.02, 4),
    }
    amplitude, count = lobes.get(report.shape or "", (0.05, 6))
    if report.surface in BLURRED_SURFACES:
        amplitude += 0.04
    waves = np.zeros(direction.shape[:-1], np.float32)
    for _ in range(count):
        axis = generator.standard_normal(3)
        axis /= np.linalg.norm(axis)
        sharpness = generator.uniform(1.5, 7.0)
        waves += generator.normal() * np.exp(sharpness * (direction @ axis.astype(np.float32) - 1))
    waves *= amplitude / max(float(waves.std()), 1e-6) if count else 0
    waves = np.clip(waves, -2.2 * amplitude, 2.2 * amplitude) - (1.2 * amplitude if amplitude > 0.1 else 0)
    if "spiculated margins" in report.features:
        waves -= 0.25
        for _ in range(int(generator.integers(14, 26))):
            axis = generator.standard_normal(3)
            axis /= np.linalg.norm(axis)
            cosine = direction @ axis.astype(np.float32)
            waves += generator.uniform(0.3, 0.6) * np.exp(60 * (cosine - 1))
    return waves


def _wall(
    report: LesionReport, scene: Scene, radius: np.ndarray, box: Box, generator: np.random.Generator
) -> np.ndarray:
    """A plaque (or a ring, for luminal narrowing) along the organ's wall, of uneven thickness."""
    depth_mm = ndimage.distance_transform_edt(np.pad(scene.organ, 1))[1:-1, 1:-1, 1:-1] * scene.spacing_mm
    outside_mm = ndimage.distance_transform_edt(~scene.organ) * scene.spacing_mm
    share = generator.uniform(0.28, 0.42) if report.shape == "luminal narrowing" else generator.uniform(0.35, 0.6)
    thickness_mm = max(WALL_MM, share * min(box.shape) * scene.spacing_mm)
    uneven = 1 + 0.3 * smooth_noise(scene.organ.shape, max(1.5, min(box.shape) / 5), generator)
    band = (depth_mm <= thickness_mm * uneven) & (outside_mm <= 0.5 * WALL_MM)
    edge = 1 + 0.10 * smooth_noise(scene.organ.shape, max(1.5, min(box.shape) / 5), generator)
    return band & (radius < edge)


def _room(report: LesionReport, scene: Scene, box: Box) -> np.ndarray:
    """Where the lesion may lie: the box, and the organ (a margin lesion may leave it, but not into other organs)."""
    inside = np.zeros(scene.organ.shape, bool)
    inside[box.clipped(scene.organ.shape).slices] = True
    if report.lesion_location == "inside organ":
        return inside & scene.organ
    return inside & ~(scene.blocked & ~scene.organ)


def _target_hu(report: LesionReport, scene: Scene, mask: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """HU of the lesion without noise, defined on the whole window (it is blended by the edge weight)."""
    around = ndimage.binary_dilation(mask, iterations=6) & scene.organ & ~mask
    organ_hu = float(np.median(scene.ct_hu[around if around.sum() > 20 else mask]))
    depth = ndimage.distance_transform_edt(mask)
    depth = depth / max(depth.max(), 1.0)
    field_size = max(1.5, 0.16 * mask.sum() ** (1 / 3) * 1.24)
    base_hu = _base_hu(report, organ_hu, depth, field_size, generator)
    varied = report.density_variations == "heterogeneous"
    std_hu = generator.uniform(*(HETEROGENEOUS_STD_HU if varied else HOMOGENEOUS_STD_HU))
    if base_hu.max() > 150:  # stones vary in proportion
        std_hu *= 4
    texture = smooth_noise(mask.shape, field_size, generator)
    texture -= texture[mask].mean() if mask.any() else 0
    return base_hu + std_hu * texture + _features_hu(report, mask, field_size, generator)


def _base_hu(
    report: LesionReport, organ_hu: float, depth: np.ndarray, field_size: float, generator: np.random.Generator
) -> np.ndarray:
    """The density word as HU. All words draw the same numbers, so that a seed compares words and nothing else."""
    share, rim = generator.uniform(), generator.uniform(0.25, 0.4)
    blobs = smooth_noise(depth.shape, 1.4 * field_size, generator)
    flat = np.zeros(depth.shape, np.float32)

    def between(bounds: tuple[float, float]) -> float:
        return bounds[0] + share * (bounds[1] - bounds[0])

    density = report.density or "isodense lesion"
    if "stone" in report.features:
        return flat + between(STONE_HU)
    if "fluid-like" in density:
        return flat + between(FLUID_HU)
    if density.startswith("hypodense"):
        return flat + organ_hu - between(HYPO_STEP_HU)
    if density.startswith("hyperdense"):
        return flat + organ_hu + between(HYPO_STEP_HU)
    if density.startswith("mixed"):
        return organ_hu + between((30.0, 50.0)) * np.sign(blobs)
    if density == "ring enhancement":
        return np.where(depth < rim, organ_hu + between((25.0, 50.0)), organ_hu - between((25.0, 50.0)))
    if density == "low-density ground-glass opacity":
        return flat + between(GROUND_GLASS_HU)
    soft = between(SOFT_TISSUE_HU[report.enhancement or "enhanced CT"])
    if density.startswith("isodense soft tissue mass with"):
        return np.where(depth < rim, between(GROUND_GLASS_HU), soft)
    if density.startswith("isodense soft tissue"):
        return flat + soft
    return flat + organ_hu + (share - 0.5) * 8


def _features_hu(
    report: LesionReport, mask: np.ndarray, field_size: float, generator: np.random.Generator
) -> np.ndarray:
    """Areas of decreased (necrosis, fluid) and increased (bleeding, calcification) density inside the lesion."""
    noise = smooth_noise(mask.shape, field_size, generator)
    inner = noise[mask] if mask.any() else noise.ravel()
    change = np.zeros(mask.shape, np.float32)
    text = " ".join(report.features)
    if "decreased" in text or "fluid" in text:
        change -= generator.uniform(30, 50) * (noise < np.quantile(inner, 0.25))
    if "increased" in text:
        change += generator.uniform(40, 90) * (noise > np.quantile(inner, 0.85))
    return ndimage.gaussian_filter(change, 0.6)


def _edge_weight(
    report: LesionReport, mask: np.ndarray, spacing_mm: float, generator: np.random.Generator
) -> np.ndarray:
    """1 in the lesion, 0 outside, one half on the mask's surface; the edge's width is the margin's word."""
    blurred = report.surface in BLURRED_SURFACES
    width_mm = generator.uniform(*BLURRED_MARGIN_MM) if blurred else SHARP_MARGIN_MM
    signed = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    signed_mm = ndimage.gaussian_filter(signed - 0.5 * np.sign(signed), 0.7) * spacing_mm  # without the voxels' stairs
    width_mm = min(width_mm, 0.5 * max(signed_mm.max(), 0.5 * spacing_mm))  # a small lesion keeps its core
    weight = 1 / (1 + np.exp(-np.clip(signed_mm / (0.36 * width_mm), -30, 30)))
    return weight * (blend_weight(mask, (spacing_mm,) * 3, 2 * BLURRED_MARGIN_MM[1]) > 0)
