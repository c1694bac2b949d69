"""How large a model's window is and how fine its voxels: fixed, or scaled to the lesion's box."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from LesionDiffusionLib.errors import PlacementError


@dataclass(frozen=True)
class WindowRule:
    """A model's window.

    With ``box_voxels`` None every window has ``min_spacing_mm`` voxels (the released models: 1 mm). Otherwise the
    spacing is chosen so that the lesion's longest extent takes about ``box_voxels`` voxels: a small network then sees
    a stone and a large tumor equally well, and the compute per lesion is constant.

    Attributes:
        shape: voxels (D, H, W) along superior, anterior, left.
        min_spacing_mm: finest voxel, or the only one.
        max_spacing_mm: coarsest voxel.
        box_voxels: voxels along the lesion's longest extent, or None.
    """

    shape: tuple[int, int, int]
    min_spacing_mm: float
    max_spacing_mm: float
    box_voxels: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if len(self.shape) != 3 or min(self.shape) < 4:
            raise ValueError(f"WindowRule.shape needs three sizes of at least 4, got {self.shape}")
        if not 0 < self.min_spacing_mm <= self.max_spacing_mm:
            raise ValueError(f"WindowRule needs 0 < min_spacing_mm <= max_spacing_mm, got {self}")
        if self.box_voxels is not None and not 1 <= self.box_voxels < min(self.shape):
            raise ValueError(f"WindowRule.box_voxels must lie in 1..{min(self.shape) - 1}, got {self.box_voxels}")

    def is_multiple_of(self, divisor: int) -> bool:
        """Whether a network that divides every edge by ``divisor`` takes the window."""
        return all(n % divisor == 0 for n in self.shape)

    @property
    def largest_lesion_mm(self) -> tuple[float, float, float]:
        """Largest lesion box (X, Y, Z) the window takes; a scaled window takes the same along all axes.

        A fixed one takes a voxel less than it has: on whole voxels it may begin one before the lesion (released-model
        5.4), and would then end before it.
        """
        if self.box_voxels is not None:
            return (self.box_voxels * self.max_spacing_mm,) * 3
        depth, height, width = self.shape
        return tuple((n - 1) * self.min_spacing_mm for n in (width, height, depth))

    def spacing_for(self, size_mm: tuple[float, float, float]) -> float:
        """Voxel size in mm for a lesion box of ``size_mm`` (X, Y, Z).

        Raises:
            PlacementError: the lesion is larger than the window; says the limit.
        """
        if any(s > limit + 1e-6 for s, limit in zip(size_mm, self.largest_lesion_mm, strict=True)):
            size, limit = ("x".join(f"{v:.0f}" for v in t) for t in (size_mm, self.largest_lesion_mm))
            raise PlacementError(
                f"expected a lesion of at most {limit} mm (X x Y x Z) for this model, got {size} mm; "
                "make it smaller or choose a bundle with a larger window"
            )
        if self.box_voxels is None:
            return self.min_spacing_mm
        return min(max(max(size_mm) / self.box_voxels, self.min_spacing_mm), self.max_spacing_mm)

    def reach_mm(self, size_mm: tuple[float, float, float]) -> float:
        """How far the window reaches beyond a lesion of ``size_mm`` (X, Y, Z) in its middle, at most.

        Raises PlacementError as `spacing_for`.
        """
        spacing_mm, (depth, height, width) = self.spacing_for(size_mm), self.shape
        return max((n * spacing_mm - s) / 2 for n, s in zip((width, height, depth), size_mm, strict=True))


def largest_in_all(rules: Iterable[WindowRule]) -> tuple[float, float, float]:
    """Largest lesion box (X, Y, Z) in mm that the windows of all these networks take."""
    return tuple(map(min, zip(*(rule.largest_lesion_mm for rule in rules), strict=True)))
