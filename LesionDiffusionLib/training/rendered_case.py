"""Rendered training cases: a report, the windows both networks see, and the lesion they should draw."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from LesionDiffusionLib.errors import PlacementError
from LesionDiffusionLib.geometry import Box, Geometry, axes_to_size
from LesionDiffusionLib.lesion_types import LesionType, all_lesion_types, draw_report
from LesionDiffusionLib.placement import Site, sample_box
from LesionDiffusionLib.report import LesionReport, image_strings, mask_strings, region_rule
from LesionDiffusionLib.resampling import box_on_grid, sample, window_grid
from LesionDiffusionLib.training.rendering import Scene, render_density, render_mask
from LesionDiffusionLib.training.volumes import TrainingVolume
from LesionDiffusionLib.vocabulary import vocabulary
from LesionDiffusionLib.volume import Volume
from LesionDiffusionLib.windowing import WindowRule

FREE_CHOICE = 0.5  # share of reports in which density, shape and surface ignore what is usual for the lesion type


@dataclass(frozen=True)
class DrawnLesion:
    """A lesion's shape in its place, before it has a density.

    Attributes:
        report: what is drawn; its size is that of the mask.
        scene: the LINet window around it.
        mask: bool, on that window.
        for_lmnet: arrays on the LMNet window, see `lmnet_windows`.
    """

    report: LesionReport
    scene: Scene
    mask: np.ndarray
    for_lmnet: tuple[np.ndarray, ...]

    def filled(self, report: LesionReport, generator: np.random.Generator) -> RenderedCase:
        """The case with the density, variations and margin of ``report``."""
        lesion_hu = render_density(report, self.scene, self.mask, generator)
        windows = (np.round(hu).astype(np.int16) for hu in (self.scene.ct_hu, lesion_hu))
        return RenderedCase(report, *windows, self.mask, *self.for_lmnet)


@dataclass(frozen=True)
class RenderedCase:
    """Arrays on the LINet window (D, H, W) unless named otherwise.

    Attributes:
        report: what was drawn; its size is the rendered lesion's.
        healthy_hu, lesion_hu: int16, without and with the lesion.
        mask: bool.
        lmnet_labels: organ labels (v1 numbers) on the LMNet window.
        lmnet_organ, lmnet_box: bool, on the LMNet window.
        lmnet_mask: float16 occupancy of the lesion on the LMNet window.
    """

    report: LesionReport
    healthy_hu: np.ndarray
    lesion_hu: np.ndarray
    mask: np.ndarray
    lmnet_labels: np.ndarray
    lmnet_organ: np.ndarray
    lmnet_box: np.ndarray
    lmnet_mask: np.ndarray

    @property
    def mask_strings(self) -> list[str]:
        return mask_strings(self.report)

    @property
    def image_strings(self) -> list[str]:
        return image_strings(self.report)


def random_case(
    volumes: list[TrainingVolume],
    lmnet: WindowRule,
    linet: WindowRule,
    generator: np.random.Generator,
    kinds: Sequence[LesionType] | None = None,
) -> RenderedCase | None:
    """Draw a volume, a report of one of ``kinds`` (by default of any), a place and a lesion; None when this draw does
    not work out (draw again)."""
    drawn = _drawn_lesion(volumes, lmnet, linet, generator, kinds)
    return None if drawn is None else drawn.filled(drawn.report, generator)


def reworded_cases(
    volumes: list[TrainingVolume],
    lmnet: WindowRule,
    linet: WindowRule,
    generator: np.random.Generator,
    kinds: Sequence[LesionType] | None,
    count: int,
) -> list[RenderedCase]:
    """One lesion drawn ``count`` times, with words of its own for density, variations and margin each time; none when
    the draw does not work out. What differs between them is what the words mean, and chance."""
    drawn = _drawn_lesion(volumes, lmnet, linet, generator, kinds)
    if drawn is None or "stone" in drawn.report.features:
        return []
    reports = (_changed(drawn.report, _free_density(drawn.report, generator)) for _ in range(count))
    return [drawn.filled(report, generator) for report in reports]


def _drawn_lesion(
    volumes: list[TrainingVolume],
    lmnet: WindowRule,
    linet: WindowRule,
    generator: np.random.Generator,
    kinds: Sequence[LesionType] | None,
) -> DrawnLesion | None:
    """A lesion's shape in a random place of a random volume, see `random_case`."""
    volume = volumes[generator.integers(len(volumes))]
    present = volume.organs.organs_present()
    kinds = [kind for kind in kinds or all_lesion_types() if set(kind.organs) & set(present)]
    if not kinds:
        return None
    report = random_report(kinds[generator.integers(len(kinds))], present, volume.contrast, generator)
    labels = vocabulary().organ(report.organ).labels
    organ = volume.organs.mask(labels)
    site = Site(organ, (volume.organs.volume.array > 0) & ~organ, volume.ct.geometry)
    try:
        box = sample_box(region_rule(report), site, report.size_mm, generator)
    except PlacementError:
        return None
    return _in_box(volume, report, site, box, lmnet, linet, generator)


def random_report(kind: LesionType, present: list[str], contrast: bool, generator: np.random.Generator) -> LesionReport:
    """A report of ``kind``; often with freely chosen words, so that each word learns its own meaning."""
    enhancement = "enhanced CT" if contrast else "non-contrast CT"
    report = draw_report(kind, generator, present, LesionReport(enhancement=enhancement))
    if generator.uniform() < FREE_CHOICE and "stone" not in report.features:
        report = _with_free_words(report, generator)
    return report


def _with_free_words(report: LesionReport, generator: np.random.Generator) -> LesionReport:
    changes = _free_density(report, generator)
    changes["specific_features"] = ((), ("spiculated margins",), ())[generator.integers(3)]
    if report.organ_type == "parenchymal organ":
        changes["shape"] = ("round-like", "irregular", "irregular", "cystic", "punctate")[generator.integers(5)]
    return _changed(report, changes)


def _free_density(report: LesionReport, generator: np.random.Generator) -> dict[str, object]:
    """Words that the mask does not depend on, all alike likely."""
    words = vocabulary().values("density")
    densities = [d for d in words if ("ground-glass" in d) == (report.organ.endswith("lobe"))]
    return {
        "density": densities[generator.integers(len(densities))],
        "density_variations": ("homogeneous", "heterogeneous")[generator.integers(2)],
        "surface": ("well-defined margin", "ill-defined margin")[generator.integers(2)],
    }


def _changed(report: LesionReport, changes: dict[str, object]) -> LesionReport:
    """The report with ``changes``; as it was, where they contradict the rest."""
    words = vocabulary()
    free = dataclasses.replace(report, **changes)
    stated = {name: free.stated(name) for name in words.attributes}
    return report if words.contradiction(stated) else free


def _in_box(
    volume: TrainingVolume,
    report: LesionReport,
    site: Site,
    box: Box,
    lmnet: WindowRule,
    linet: WindowRule,
    generator: np.random.Generator,
) -> DrawnLesion | None:
    """Draw the report's lesion into ``box`` of a volume; None when the rule leaves too little of it."""
    patient = volume.ct.geometry
    grid = window_grid(patient, box.center_vox, linet.spacing_for(report.size_mm), linet.shape)
    scene = scene_of(volume.ct, site, grid)
    mask = render_mask(report, scene, box_on_grid(box, patient, grid), generator)
    if mask.sum() < 8:
        return None
    # The report and the box channel tell the size of the lesion that was drawn, not of the one that was asked for.
    tight = Box.bounding(mask)
    report = dataclasses.replace(report, size_mm=axes_to_size(grid, tight.size_mm(grid)))
    center_vox = grid.to_voxel_of(patient, tight.center_vox)
    coarse = window_grid(patient, center_vox, lmnet.spacing_for(report.size_mm), lmnet.shape)
    windows = lmnet_windows(volume.organs.volume, site.organ, Volume(mask, grid), coarse)
    return DrawnLesion(report, scene, mask, windows)


def scene_of(ct: Volume, site: Site, grid: Geometry) -> Scene:
    """What a lesion is drawn into, on a window's grid; ``site`` is on the CT's."""
    organ, blocked = (sample(dataclasses.replace(ct, array=a), grid, order=0) for a in (site.organ, site.blocked))
    return Scene(sample(ct, grid), organ, blocked, grid.spacing_mm[0])


def lmnet_windows(labels: Volume, organ: np.ndarray, lesion: Volume, window: Geometry) -> tuple[np.ndarray, ...]:
    """What LMNet learns from, on its window: organ labels, target organ, the lesion's tight box, and the lesion.

    Args:
        labels: organ map of the patient.
        organ: bool, the target organ, on the grid of ``labels``.
        lesion: bool, on a grid of its own or the patient's.
        window: grid of the result.

    Returns:
        Arrays (D, H, W); the lesion as float16 share of each voxel it fills: that keeps the surface finer than voxels.
    """
    box = np.zeros(window.shape, bool)
    box[box_on_grid(Box.bounding(lesion.array), lesion.geometry, window).clipped(window.shape).slices] = True
    return (
        sample(labels, window, order=0),
        sample(dataclasses.replace(labels, array=organ), window, order=0),
        box,
        sample(dataclasses.replace(lesion, array=lesion.array.astype(np.float32)), window).astype(np.float16),
    )
