"""What a lesion changes, as LINet diffuses it.

A soft-tissue lesion changes normalized latents by a tenth, less than the noise at which a diffusion decides anything: a
network that diffuses the latents themselves (paper equation 4) must tell 20 HU from the scan around it, and paints the
mean of what the text allows. Who has the patient without the lesion can diffuse the difference instead, in units in
which 20 HU are about 1, and what does not change is kept for free.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LatentChange:
    """The difference of two latents in units of ``unit``, drawn together for large ones.

    Linear for what is small against ``knee`` units; beyond it as the square root, because stones and air lie dozens of
    units away, and nobody needs them as exactly as 20 HU in a liver. What is drawn together is finer against the
    diffusion's noise, and a texture in it is lost: the knee should lie beyond what organs differ by in their phases.
    """

    unit: float
    knee: float = 1.0

    def __post_init__(self) -> None:
        for name in ("unit", "knee"):
            if not getattr(self, name) > 0:
                raise ValueError(f"LatentChange.{name} must be positive, got {getattr(self, name)}")

    def between(self, known: Tensor, z: Tensor) -> Tensor:
        """What turns ``known`` (B, C, d, h, w) into ``z``: zero where they are equal."""
        return drawn_together((z - known) / self.unit, self.knee)

    def onto(self, known: Tensor, change: Tensor) -> Tensor:
        """``known`` with the change: the inverse of `between`; bit-equal to ``known`` where the change is zero."""
        return known + self.unit * drawn_apart(change, self.knee)

    def shown(self, known: Tensor) -> Tensor:
        """``known`` as the network sees it, in the same units."""
        return drawn_together(known / self.unit, self.knee)


def drawn_together(x: Tensor, knee: float) -> Tensor:
    """sign(x) k (sqrt(1 + 2 |x| / k) - 1) for a knee k, in the form whose slope at 0 autograd finds, too: it is 1."""
    return 2 * x / (1 + torch.sqrt(1 + 2 / knee * x.abs()))


def drawn_apart(y: Tensor, knee: float) -> Tensor:
    """y (1 + |y| / 2k), the inverse of `drawn_together`."""
    return y * (1 + y.abs() / (2 * knee))
