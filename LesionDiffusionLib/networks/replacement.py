"""The last layer of a network that replaces what it is shown."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from LesionDiffusionLib.latent_change import drawn_apart, drawn_together
from LesionDiffusionLib.networks.convolution import conv3d

BINOMIAL = (0.25, 0.5, 0.25)
EDGE = 4.0  # of a latent that is all lesion 98 % go, if nothing else is said; of one that is half lesion 50 %
LEVEL_LIMIT = 10.0  # units of the change, some 200 HU: what air and bone are beyond it, no lesion is


class Replacement(nn.Module):
    """What comes in place of what is shown: comes + w (keep * level - seen), as `LatentChange` keeps changes.

    The share w of every voxel that goes follows the mask, and what is said moves it. What comes is said in absolute
    terms ("water") or, with ``keep``, against the lesion's mean level in the patient ("darker than the liver"): a
    convolution behind a norm hears no level. What is seen is smoothed, so that the scan's noise stays; the filter
    learns, but leaves what is even. (A free filter shrank to a gain of 0.04, and nothing was taken off.) Ours; in no
    paper.
    """

    OUTPUTS = 2  # besides what comes: how much of the level is kept, and where the edge lies

    def __init__(self, channels: int, knee: float) -> None:
        super().__init__()
        self.knee = knee  # of the `LatentChange` that is diffused
        tap = torch.tensor(BINOMIAL)
        smoothing = torch.eye(channels)[:, :, None, None, None] * (tap[:, None, None] * tap[:, None] * tap)
        self.register_buffer("smoothing", smoothing, persistent=False)
        self.sharper = nn.Parameter(torch.zeros_like(smoothing))

    def forward(self, said_BCDHW: Tensor, mask_B1DHW: Tensor, shown_BCDHW: Tensor) -> Tensor:
        """The change (B, C, D, H, W), drawn together as what is shown.

        Args:
            said_BCDHW: what comes (C channels), and before their sigmoids the level that is kept and the edge.
            mask_B1DHW: the lesion's share of every voxel.
            shown_BCDHW: what is there, drawn together.
        """
        comes, keep, edge = said_BCDHW.split([shown_BCDHW.shape[1], 1, 1], dim=1)
        shown, mask = (part.to(said_BCDHW.dtype) for part in (shown_BCDHW, mask_B1DHW))
        seen = self.smoothed(drawn_apart(shown, self.knee))
        volume = mask.sum(dim=(2, 3, 4), keepdim=True).clamp(min=1e-3)
        level = ((mask * seen).sum(dim=(2, 3, 4), keepdim=True) / volume).clamp(-LEVEL_LIMIT, LEVEL_LIMIT)
        replaced = torch.sigmoid(edge + EDGE * (2 * mask - 1))
        goes = replaced * (torch.sigmoid(keep) * level - seen)
        return drawn_together(drawn_apart(comes, self.knee) + goes, self.knee)

    def smoothed(self, x_BCDHW: Tensor) -> Tensor:
        """The patient without the scan's noise; what is even stays as it is, up to the window's border."""
        sharper = self.sharper - self.sharper.mean(dim=(2, 3, 4), keepdim=True)
        padded = functional.pad(x_BCDHW, 6 * [1], mode="replicate")
        return conv3d(padded, self.smoothing + sharper, None)
