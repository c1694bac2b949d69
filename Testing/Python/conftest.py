"""Fixtures shared by all tests. Nothing here needs a GPU, a network connection or Slicer."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from LesionDiffusionLib.geometry import Geometry

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The development data beside the checkout (never part of the project)."""
    path = Path(os.environ.get("LESIONDIFFUSION_SHARED", REPOSITORY.parent / "shared"))
    if not (path / "data").is_dir():
        pytest.skip(f"SKIPPED, not passed: the development data {path} is absent")
    return path


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a CT, its organ map, a mask drawn by hand and a bundle of tiny random networks."""
    from patients import tiny_bundle, write_patient  # which imports from here

    write_patient(tmp_path)
    tiny_bundle(tmp_path / "tiny")
    return tmp_path


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(20240)


def rotation(degrees_xyz: tuple[float, float, float]) -> np.ndarray:
    """Rotation matrix from Euler angles about x, y, z, applied in that order."""
    ax, ay, az = np.deg2rad(degrees_xyz)
    rx = np.array([[1, 0, 0], [0, np.cos(ax), -np.sin(ax)], [0, np.sin(ax), np.cos(ax)]])
    ry = np.array([[np.cos(ay), 0, np.sin(ay)], [0, 1, 0], [-np.sin(ay), 0, np.cos(ay)]])
    rz = np.array([[np.cos(az), -np.sin(az), 0], [np.sin(az), np.cos(az), 0], [0, 0, 1]])
    return rz @ ry @ rx


def make_geometry(
    shape, spacing_mm=(1.0, 1.0, 1.0), axes=None, degrees_xyz=(0, 0, 0), origin_ras=(0, 0, 0)
) -> Geometry:
    """A geometry with permuted/flipped ``axes`` (a signed permutation matrix) and an optional rotation."""
    axes = np.eye(3) if axes is None else np.asarray(axes, float)
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees_xyz) @ axes @ np.diag(spacing_mm)
    affine[:3, 3] = origin_ras
    return Geometry(tuple(shape), affine)
