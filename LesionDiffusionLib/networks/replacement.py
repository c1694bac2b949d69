"""The last layer of a network that replaces what it is shown."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from LesionDiffusionLib.latent_change import drawn_apart, drawn_together
from LesionDiffusionLib.networks.convolution import Conv3d

BINOMIAL = (0.25, 0.5, 0.25)


class Replacement(nn.Module):
    """What comes, and how much of what is shown goes: together what changes, as `LatentChange` keeps changes.

    A convolution behind a norm cannot say "water, whatever was there": the norm hides the level, and the answer differs
    from voxel to voxel where a lesion lies on an organ's border. Here two outputs that do not depend on what is shown
    say it: the latents of water come, and all that is shown goes. What is shown is smoothed by a filter that learns,
    so that anatomy goes and the scan's noise may stay. Ours; in no paper.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.seen = Conv3d(channels, channels, 3, padding=1, bias=False)
        tap = torch.tensor(BINOMIAL)
        smoothing = tap[:, None, None] * tap[:, None] * tap
        with torch.no_grad():
            self.seen.weight.copy_(torch.eye(channels)[:, :, None, None, None] * smoothing)

    def forward(self, said_BCDHW: Tensor, shown_BCDHW: Tensor) -> Tensor:
        """Channels (what comes, share that goes) and what is shown, drawn together, to the change (B, C, D, H, W)."""
        comes, share = said_BCDHW.split([shown_BCDHW.shape[1], 1], dim=1)
        goes = share * self.seen(drawn_apart(shown_BCDHW.to(said_BCDHW.dtype)))
        return drawn_together(drawn_apart(comes) - goes)
