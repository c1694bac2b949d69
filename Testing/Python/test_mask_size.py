"""A lesion as large as asked for, however unsure LMNet is of it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from patients import EllipsoidBackbone, fake_models, make_patient
from torch import nn

from LesionDiffusionLib.errors import PlacementError
from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.mask_stage import LEAST_SHRUNK_VOX
from LesionDiffusionLib.models import Models
from LesionDiffusionLib.placement import inscribed_ellipsoid
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.run import Settings
from LesionDiffusionLib.synthesis import synthesize
from LesionDiffusionLib.wish import Wish

CYST = Wish(LesionReport(lesion_type="liver cyst", size_mm=(20, 20, 20)))


class UnsureBackbone(nn.Module):
    """The ellipsoid at a share of what LMNet should say: below the threshold of 0.5."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x, timesteps, context):
        return self.share * EllipsoidBackbone()(x, timesteps, context)


def unsure_models(folder, share: float, threshold: float | None) -> Models:
    return drawing_models(folder, UnsureBackbone(share), threshold)


def drawing_models(folder, backbone: nn.Module, threshold: float | None) -> Models:
    """Fakes whose LMNet draws as ``backbone`` does, cut at ``threshold``."""
    models = fake_models(folder)
    spec = dataclasses.replace(models.bundle.manifest.lmnet, threshold=threshold)
    manifest = dataclasses.replace(models.bundle.manifest, lmnet=spec)
    denoiser = dataclasses.replace(models.lmnet.denoiser, backbone=backbone)
    return dataclasses.replace(
        models,
        bundle=dataclasses.replace(models.bundle, manifest=manifest),
        lmnet=dataclasses.replace(models.lmnet, denoiser=denoiser),
    )


@pytest.mark.parametrize("share", [1.0, 0.6, 0.45])
def test_a_threshold_is_lowered_until_the_size_is_right(tmp_path, share):
    case = synthesize(*make_patient(), CYST, bundle=unsure_models(tmp_path, share, 0.5), settings=Settings(2))
    extents = Box.bounding(case.mask.array).shape
    for extent, box in zip(extents, case.box.shape, strict=True):
        assert extent >= min(0.8 * box, box - 1)
        assert extent <= box


class LargeBackbone(nn.Module):
    """The ellipsoid of a box that is larger by three voxels on every side."""

    def forward(self, x, timesteps, context):
        box = x[:, 3:4]
        grown = torch.cat([x[:, :3], torch.where(nn.functional.max_pool3d(box, 7, 1, 3) > 0, 1.0, 0.0)], dim=1)
        return EllipsoidBackbone()(grown, timesteps, context)


def test_a_lesion_drawn_too_large_is_shrunk_into_its_box_and_has_no_flat_faces(tmp_path):
    large = drawing_models(tmp_path, LargeBackbone(), 0.5)
    for report in (CYST, Wish(dataclasses.replace(CYST.report, lesion_location="organ margin"))):
        case = synthesize(*make_patient(), report, bundle=large, settings=Settings(2))
        mask = case.mask.array[case.box.slices]
        assert mask.sum() < 1.1 * inscribed_ellipsoid(mask.shape).sum()
        assert all(abs(e - n) <= max(1, 0.2 * n) for e, n in zip(Box.bounding(mask).shape, mask.shape, strict=True))
        ends = [mask.take(end, axis).mean() for axis in range(3) for end in (0, -1)]
        assert max(ends) < 0.5, "a cut ellipsoid fills the faces of its box"


def test_in_a_box_of_few_voxels_a_lesion_is_cut(tmp_path):
    """Every face is flat there, and an irregular lesion would shrink to a single voxel."""
    large = drawing_models(tmp_path, LargeBackbone(), 0.5)
    case = synthesize(
        *make_patient(), Wish(dataclasses.replace(CYST.report, size_mm=(8, 8, 8))), bundle=large, settings=Settings(2)
    )
    mask = case.mask.array[case.box.slices]
    assert min(mask.shape) < LEAST_SHRUNK_VOX
    assert mask.sum() > inscribed_ellipsoid(mask.shape).sum()


@pytest.mark.parametrize("threshold", [0.5, None])
def test_what_is_almost_nothing_is_no_lesion(tmp_path, threshold):
    with pytest.raises(PlacementError, match="LMNet drew none in 3 tries"):
        synthesize(*make_patient(), CYST, bundle=unsure_models(tmp_path, 0.05, threshold), settings=Settings(2))


def test_the_released_sweep_also_finds_a_lesion_below_its_lowest_threshold(tmp_path):
    """On thick slices a small lesion never reaches 0.3, and must not vanish."""
    case = synthesize(*make_patient(), CYST, bundle=unsure_models(tmp_path, 0.26, None), settings=Settings(2))
    assert case.mask.array.any()
