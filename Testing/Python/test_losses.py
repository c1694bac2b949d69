"""Training losses against sums written out by hand."""

from __future__ import annotations

import pytest
import torch

from LesionDiffusionLib.diffusion.losses import (
    box_l1,
    box_weighted_l2,
    dice_loss,
    released_masked_l1,
    released_weighted_l2,
    tight_box,
)


def blank(batch: int = 1, channels: int = 1) -> torch.Tensor:
    return torch.zeros(batch, channels, 4, 5, 6)


def corners(*voxels: tuple[int, int, int]) -> torch.Tensor:
    mask = blank()
    for voxel in voxels:
        mask[(0, 0, *voxel)] = 1
    return mask


def test_tight_box_reaches_from_the_first_to_the_last_voxel_of_each_axis():
    box = tight_box(corners((1, 4, 2), (3, 1, 2), (2, 2, 4)))
    expected = blank()
    expected[0, 0, 1:4, 1:5, 2:5] = 1
    assert torch.equal(box, expected)


def test_tight_boxes_of_a_batch_are_independent_and_an_empty_mask_has_none():
    masks = torch.cat([corners((0, 0, 0)), blank(), corners((3, 4, 5), (3, 4, 3))])
    assert tight_box(masks).flatten(1).sum(dim=1).tolist() == [1, 0, 3]


def test_losses_of_the_mask_network_weigh_an_error_inside_and_outside_the_box():
    box, inside, outside = corners((1, 1, 1)), corners((1, 1, 1)) * 3, corners((2, 2, 2)) * 3
    voxels = box.numel()
    assert box_weighted_l2(inside, blank(), box).item() == pytest.approx(9 * 1.001 / voxels)
    assert box_weighted_l2(outside, blank(), box, gamma=0.5).item() == pytest.approx(9 * 0.5 / voxels)
    assert released_weighted_l2(inside, blank(), box).item() == pytest.approx(9000 / voxels)
    assert released_weighted_l2(outside, blank(), box).item() == pytest.approx(9 / voxels)


def test_released_and_paper_loss_of_the_mask_network_agree_up_to_1000_and_1001():
    generator = torch.Generator().manual_seed(0)
    target, box = torch.randn(2, 1, 4, 5, 6, generator=generator), tight_box(corners((0, 1, 1), (2, 3, 4)))
    paper, released = box_weighted_l2(target * 0, target, box), released_weighted_l2(target * 0, target, box)
    assert 1000 * paper.item() == pytest.approx(released.item(), rel=1e-3)


def test_l1_of_the_inpainting_network_counts_the_box_or_only_the_lesion_in_it():
    mask = corners((1, 1, 1), (2, 2, 2))  # 2 voxels in a box of 8
    error = torch.full((1, 4, 4, 5, 6), -0.5)
    assert box_l1(error, error * 0, tight_box(mask)).item() == pytest.approx(4 * 8 * 0.5 / 8)
    assert released_masked_l1(error, error * 0, mask).item() == pytest.approx(4 * 2 * 0.5 / 8)


def test_l1_is_averaged_over_the_batch_and_zero_without_a_lesion():
    masks = torch.cat([corners((1, 1, 1)), blank()])
    error = torch.ones(2, 4, 4, 5, 6)
    assert released_masked_l1(error, error * 0, masks).item() == pytest.approx((4 + 0) / 2)


def test_dice_is_zero_for_the_mask_one_for_its_complement_and_known_in_between():
    mask = corners((1, 1, 1), (2, 2, 2))
    assert dice_loss(mask * 200 - 100, mask).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(100 - mask * 200, mask).item() == pytest.approx(1, abs=1e-6)
    assert dice_loss(mask * 0, mask).item() == pytest.approx(1 - 2 * 2 * 0.5 / (0.5 * mask.numel() + 2), rel=1e-5)


@pytest.mark.parametrize("loss", [box_weighted_l2, released_weighted_l2, box_l1, released_masked_l1])
def test_losses_vanish_only_where_nothing_is_wrong_and_have_gradients(loss):
    target = torch.randn(1, 1, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    mask = corners((1, 1, 1), (2, 2, 2))
    predicted = (target + 1).requires_grad_()
    assert loss(target, target, mask) == 0
    loss(predicted, target, mask).backward()
    assert predicted.grad[0, 0, 1, 1, 1] > 0
