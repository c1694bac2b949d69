"""Random windows of healthy CTs: what the autoencoder learns from."""

from __future__ import annotations

import numpy as np

from LesionDiffusionLib.resampling import sample, window_grid
from LesionDiffusionLib.training.volumes import TrainingVolume


def random_windows(
    volumes: list[TrainingVolume],
    count: int,
    size: int,
    spacing_mm: tuple[float, float],
    generator: np.random.Generator,
) -> np.ndarray:
    """``count`` cubes of ``size`` voxels: int16 HU (count, D, H, W).

    The voxel size is log-uniform in ``spacing_mm``; centers lie in the body. Volumes are drawn by the root of their
    extent, so that a large scan does not crowd out the others.
    """
    weights = np.array([np.prod(v.ct.array.shape) * np.prod(v.ct.geometry.spacing_mm) for v in volumes]) ** 0.25
    windows = np.empty((count, size, size, size), np.int16)
    for n in range(count):
        volume = volumes[generator.choice(len(volumes), p=weights / weights.sum())]
        spacing = float(np.exp(generator.uniform(*np.log(spacing_mm))))
        grid = window_grid(volume.ct.geometry, _center_in_body(volume, generator), spacing, (size,) * 3)
        windows[n] = np.clip(np.round(sample(volume.ct, grid)), -1024, 3071)
    return windows


def _center_in_body(volume: TrainingVolume, generator: np.random.Generator) -> tuple[float, float, float]:
    """A voxel that is not air; lungs count as body now and then."""
    ct_hu = volume.ct.array
    for _ in range(50):
        center = tuple(int(generator.integers(n)) for n in ct_hu.shape)
        if ct_hu[center] > -300 or generator.uniform() < 0.1:
            break
    return center
