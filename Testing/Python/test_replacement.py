"""Replacement: the same words make water of any organ, the anatomy goes, and the scan's noise stays."""

from __future__ import annotations

import pytest
import torch

from LesionDiffusionLib.latent_change import LatentChange, drawn_apart, drawn_together
from LesionDiffusionLib.networks.replacement import Replacement

CHANGE = LatentChange(1 / 16, knee=4.0)
SURE = 40.0  # before a sigmoid: one, or with a minus nothing


@pytest.fixture
def known():
    """A smooth patient (2, 3, 5, 6, 7): an organ of very different levels in the two samples, with a slope."""
    slope = torch.linspace(-0.1, 0.1, 7).expand(2, 3, 5, 6, 7)
    return slope + torch.tensor([-0.1, 0.4]).reshape(2, 1, 1, 1, 1)


@pytest.fixture
def mask(known):
    """A lesion (2, 1, 5, 6, 7) that covers half of its last column."""
    mask = torch.zeros_like(known[:, :1])
    mask[..., 1:-1, 1:-1, 1:-1] = 1
    mask[..., -2] /= 2
    return mask


def replaced(known, mask, comes, keep, edge=0.0):
    """``known`` after a change whose words are a target (3) and what stands before the two sigmoids, in every voxel."""
    target = CHANGE.shown(torch.tensor(comes)).reshape(1, 3, 1, 1, 1).expand(known.shape)
    said = torch.cat([target, *(torch.full_like(known[:, :1], value) for value in (keep, edge))], dim=1)
    with torch.no_grad():
        return CHANGE.onto(known, Replacement(3, CHANGE.knee)(said, mask, CHANGE.shown(known)))


def core(mask):
    return (mask == 1).expand(-1, 3, -1, -1, -1)


def test_the_same_words_reach_the_same_value_from_any_level(known, mask):
    water = replaced(known, mask, [-0.3, 0.0, 0.2], keep=-SURE, edge=SURE)
    expected = torch.tensor([-0.3, 0.0, 0.2]).reshape(1, 3, 1, 1, 1).expand(known.shape)
    torch.testing.assert_close(water[core(mask)], expected[core(mask)], rtol=0, atol=1e-4)


def test_words_that_keep_the_level_do_not_keep_the_anatomy(known, mask):
    """Darker than the organ by as much, whatever its level, and even: the slope is gone."""
    darker = replaced(known, mask, [-0.2, 0.0, 0.0], keep=SURE, edge=SURE)
    level = (mask * known).sum(dim=(2, 3, 4), keepdim=True) / mask.sum(dim=(2, 3, 4), keepdim=True)
    expected = (level + torch.tensor([-0.2, 0.0, 0.0]).reshape(1, 3, 1, 1, 1)).expand(known.shape)
    torch.testing.assert_close(darker[core(mask)], expected[core(mask)], rtol=0, atol=1e-4)


def test_no_level_is_kept_that_only_air_or_metal_has(known, mask):
    kept = replaced(known - 4.0, mask, [0.0, 0.0, 0.0], keep=SURE, edge=SURE)
    torch.testing.assert_close(kept[core(mask)], torch.full_like(kept, -10 / 16)[core(mask)], rtol=0, atol=1e-4)


def test_the_edge_follows_the_mask_unless_something_else_is_said(known, mask):
    """The share of the patient that goes; the patient is far from zero here, so that a share can be told."""
    known, shares = known + 1.0, {}
    for edge in (-2.0, 0.0, 2.0):
        shares[edge] = 1 - replaced(known, mask, [0.0, 0.0, 0.0], keep=-SURE, edge=edge) / known
    inside, half, outside = ((mask == value).expand_as(known) for value in (1.0, 0.5, 0.0))
    torch.testing.assert_close(shares[0.0][half], torch.full_like(known, 0.5)[half], rtol=0, atol=0.02)
    assert shares[0.0][inside].min() > 0.97
    assert shares[0.0][outside].abs().max() < 0.03
    for where in (inside, half, outside):
        assert (shares[-2.0] < shares[0.0])[where].all()
        assert (shares[0.0] < shares[2.0])[where].all()


def test_without_a_lesion_there_is_no_level_and_no_error(known, mask):
    assert torch.isfinite(replaced(known, 0 * mask, [0.0, 0.0, 0.0], keep=SURE)).all()


def test_the_finest_noise_of_the_scan_stays(known, mask):
    board = (-1.0) ** sum(torch.meshgrid(*map(torch.arange, known.shape[2:]), indexing="ij"))
    without, noisy = (replaced(k, mask, [0.0, 0.0, 0.0], keep=-SURE, edge=SURE) for k in (known, known + 0.01 * board))
    inner = (..., *3 * (slice(2, -2),))  # what a voxel beyond the window shows is not known there
    torch.testing.assert_close((noisy - without)[inner], (0.01 * board).expand_as(noisy)[inner], rtol=0, atol=1e-4)


def test_the_filter_learns_but_what_is_even_stays_as_it_is():
    replacement = Replacement(3, CHANGE.knee)
    with torch.no_grad():
        replacement.sharper.normal_(generator=torch.Generator().manual_seed(0))
    even = torch.tensor([3.0, -1.0, 0.5]).reshape(1, 3, 1, 1, 1).expand(2, 3, 4, 5, 6)
    torch.testing.assert_close(replacement.smoothed(even), even, rtol=0, atol=1e-5)


def test_a_fresh_one_can_learn(known, mask):
    """Half of the level is kept and the edge is the mask's; the slopes are those of the formula."""
    said, replacement = torch.zeros(2, 5, 5, 6, 7, requires_grad=True), Replacement(3, CHANGE.knee)
    change = replacement(said, mask, CHANGE.shown(known))
    drawn_apart(change, CHANGE.knee).sum().backward()
    seen = replacement.smoothed(known / CHANGE.unit).detach()
    level = (mask * seen).sum(dim=(2, 3, 4), keepdim=True) / mask.sum(dim=(2, 3, 4), keepdim=True)
    share = torch.sigmoid(4 * (2 * mask - 1))
    torch.testing.assert_close(drawn_apart(change.detach(), CHANGE.knee), share * (level / 2 - seen))
    torch.testing.assert_close(said.grad[:, :3], torch.ones_like(known))
    torch.testing.assert_close(said.grad[:, 3:4], (share * level / 4).sum(dim=1, keepdim=True))
    moved = share * (1 - share) * (level / 2 - seen)
    torch.testing.assert_close(said.grad[:, 4:], moved.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("knee", [1.0, 4.0])
def test_drawing_apart_undoes_drawing_together_and_both_have_slope_one_at_zero(knee):
    x = torch.tensor([-40.0, -4.0, -1e-6, 0.0, 1.5, 700.0], requires_grad=True)
    torch.testing.assert_close(drawn_apart(drawn_together(x, knee), knee), x)
    for function in (drawn_together, drawn_apart):
        (slope,) = torch.autograd.grad(function(x, knee)[3], x)
        assert slope[3] == 1
