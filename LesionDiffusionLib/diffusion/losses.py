"""Training losses of the two denoisers: the paper's, and those of the released code where they differ.

All take tensors (B, C, D, H, W) with masks (B, 1, D, H, W) of 0 and 1, and return a scalar.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-6


def box_weighted_l2(predicted: Tensor, target: Tensor, box: Tensor, gamma: float = 0.001) -> Tensor:
    """LMNet, paper equation 2: the squared error inside the box plus ``gamma`` times that everywhere, as means."""
    return ((box + gamma) * (predicted - target).square()).mean()


def released_weighted_l2(predicted: Tensor, target: Tensor, box: Tensor, inside: float = 1000.0) -> Tensor:
    """LMNet, released-model 3.2: mean squared error with weight ``inside`` in the box and 1 outside."""
    return (torch.where(box > 0, inside, 1.0) * (predicted - target).square()).mean()


def box_l1(predicted: Tensor, target: Tensor, box: Tensor) -> Tensor:
    """LINet, paper equation 5: absolute error inside the box over the voxels of the box; channels are summed."""
    return _l1_per_box_voxel(predicted, target, inside=box, box=box)


def released_masked_l1(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """LINet, released-model 3.2: absolute error inside the lesion over the voxels of the lesion's tight box."""
    return _l1_per_box_voxel(predicted, target, inside=mask, box=tight_box(mask))


def dice_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """LINet, released-model 3.2: one minus the soft Dice of sigmoid(logits) and the mask, averaged over the batch."""
    probability, mask = logits.sigmoid().flatten(1), mask.flatten(1)
    overlap = 2 * (probability * mask).sum(dim=1) + EPSILON
    return (1 - overlap / (probability.sum(dim=1) + mask.sum(dim=1) + EPSILON)).mean()


def tight_box(mask: Tensor) -> Tensor:
    """1 on each sample's smallest axis-aligned box around its mask, 0 elsewhere; all 0 for an empty mask."""
    box = torch.ones_like(mask)
    for axis in (2, 3, 4):
        others = tuple(other for other in range(1, 5) if other != axis)
        touched = (mask > 0).amax(dim=others, keepdim=True).to(mask.dtype)
        reached_from_low = touched.cummax(dim=axis).values
        reached_from_high = touched.flip(axis).cummax(dim=axis).values.flip(axis)
        box = box * reached_from_low * reached_from_high
    return box


def _l1_per_box_voxel(predicted: Tensor, target: Tensor, inside: Tensor, box: Tensor) -> Tensor:
    total = (inside * (predicted - target)).abs().flatten(1).sum(dim=1)
    return (total / (box.flatten(1).sum(dim=1) + EPSILON)).mean()
