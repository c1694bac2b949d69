"""Preview pictures: three planes through the lesion, before, after and outlined, hung as in radiology."""

from __future__ import annotations

import textwrap

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from LesionDiffusionLib.case import Case
from LesionDiffusionLib.geometry import Box, Geometry, nearest_axes
from LesionDiffusionLib.report import LesionReport

TILE_PX, GAP_PX, LINE_PX, FIELD_MM, LEAST_FIELD_MM = 300, 2, 16, 3.2, 110.0
CAPTION_LETTERS = 165  # of a line, at the width of the picture
OUTLINE_RGB = (255, 190, 40)
# (center, width) in HU, by what has to be seen
WINDOWS_HU = {"lung": (-500.0, 1500.0), "brain": (40.0, 90.0), "stone": (150.0, 700.0), "": (40.0, 400.0)}
# Plane -> (world axis across the picture, world axis down it); both run as hung: patient's right on the left side.
PLANES = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}
SENSE = {0: -1, 1: -1, 2: -1}  # R to L across, A to P down and across, S to I down


def preview_image(case: Case) -> Image.Image:
    """Picture of 3 planes (rows) by before, after, after with outline (columns), cropped round the lesion."""
    center = _middle_voxel(case.mask.array)
    window = display_window(case.report)
    caption = textwrap.wrap(f"SYNTHETIC, research use only. {case.report.describe()}", CAPTION_LETTERS)
    top, pitch = (len(caption) + 1) * LINE_PX + 2, TILE_PX + GAP_PX
    picture = Image.new("RGB", (3 * pitch - GAP_PX, top + 3 * pitch - GAP_PX))
    draw = ImageDraw.Draw(picture)
    for line, text in enumerate(caption):
        draw.text((6, 2 + line * LINE_PX), text, fill=(200, 200, 200))
    for column, title in enumerate(("before", "after", "after, outline")):
        draw.text((6 + column * pitch, top - LINE_PX), title, fill=(140, 140, 140))
    field_mm = max(LEAST_FIELD_MM, FIELD_MM * max(Box.bounding(case.mask.array).size_mm(case.mask.geometry)))
    for row, plane in enumerate(PLANES):
        for column, tile in enumerate(_tiles(case, plane, center, window, field_mm)):
            picture.paste(tile, (column * pitch, top + row * pitch))
        place = (6, top + row * pitch + 4)
        draw.rectangle(draw.textbbox(place, plane), fill=(0, 0, 0))
        draw.text(place, plane, fill=(170, 170, 170))
    return picture


def display_window(report: LesionReport) -> tuple[float, float]:
    """Window center and width in HU that shows this lesion."""
    text = " ".join((report.organ or "", *report.features))
    return next(window for word, window in WINDOWS_HU.items() if word in text)


def hung_slice(array: np.ndarray, geometry: Geometry, plane: str, center_vox: np.ndarray) -> np.ndarray:
    """The slice of ``array`` (I, J, K) through ``center_vox`` as hung: (down, across)."""
    axes = nearest_axes(geometry)
    across, down = (axes[world][0] for world in PLANES[plane])
    through = 3 - across - down
    picture = array[tuple(int(center_vox[a]) if a == through else slice(None) for a in range(3))]
    if across < down:
        picture = picture.T
    flip_across, flip_down = _flips(geometry, plane)
    return picture[:: -1 if flip_down else 1, :: -1 if flip_across else 1]


def _tiles(
    case: Case, plane: str, center: np.ndarray, window: tuple[float, float], field_mm: float
) -> list[Image.Image]:
    geometry = case.ct.geometry
    axes = nearest_axes(geometry)
    spacing_mm = [geometry.spacing_mm[axes[world][0]] for world in reversed(PLANES[plane])]  # (down, across)
    slices = [hung_slice(v.array, geometry, plane, center) for v in (case.before, case.ct, case.mask)]
    middle = _hung_position(geometry, plane, center)
    # A picture pixel's position in the slice; the slice's border repeats as black.
    offsets_mm = (np.arange(TILE_PX) + 0.5 - TILE_PX / 2) * field_mm / TILE_PX
    rows, columns = (middle[d] + offsets_mm / spacing_mm[d] for d in range(2))
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"))
    low = window[0] - window[1] / 2
    gray = [
        np.clip((ndimage.map_coordinates(s.astype(np.float32), grid, order=1, cval=-1024) - low) / window[1], 0, 1)
        for s in slices[:2]
    ]
    mask = ndimage.map_coordinates(slices[2].astype(np.float32), grid, order=1) > 0.5
    before, after = (np.repeat((g * 255).astype(np.uint8)[..., None], 3, axis=2) for g in gray)
    outlined = after.copy()
    outlined[mask ^ ndimage.binary_erosion(mask, iterations=2)] = OUTLINE_RGB
    return [Image.fromarray(tile) for tile in (before, after, outlined)]


def _flips(geometry: Geometry, plane: str) -> tuple[bool, bool]:
    """Whether the slice is mirrored across and down to hang it."""
    axes = nearest_axes(geometry)
    return tuple(axes[world][1] * SENSE[world] < 0 for world in PLANES[plane])


def _hung_position(geometry: Geometry, plane: str, center_vox: np.ndarray) -> tuple[int, int]:
    """Where (down, across) a voxel lies in its hung slice."""
    axes = nearest_axes(geometry)
    position = []
    for world, flip in zip(PLANES[plane], _flips(geometry, plane), strict=True):
        axis = axes[world][0]
        position.append(geometry.shape[axis] - 1 - center_vox[axis] if flip else center_vox[axis])
    return position[1], position[0]


def _middle_voxel(mask: np.ndarray) -> np.ndarray:
    """The mask's voxel nearest to its centroid: the centroid of a ring lies outside it."""
    box = Box.bounding(mask)
    inside = np.argwhere(mask[box.slices])
    nearest = inside[np.argmin(((inside - inside.mean(axis=0)) ** 2).sum(axis=1))]
    return nearest + box.start
