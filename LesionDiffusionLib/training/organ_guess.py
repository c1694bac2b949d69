"""Lungs and brain by threshold, for training CTs that come without an organ map.

Good enough to place training lesions in real lung and brain; no substitute for a segmentation.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from LesionDiffusionLib.geometry import nearest_axes
from LesionDiffusionLib.labels import load_table
from LesionDiffusionLib.postprocess import largest_component
from LesionDiffusionLib.volume import Volume

LUNG_BELOW_HU, BONE_ABOVE_HU, SMALLEST_LUNG_MM3 = -500, 250, 300_000


def guess_organs(ct: Volume) -> np.ndarray:
    """Label map (I, J, K) uint8 in TotalSegmentator v1 numbers holding lungs (as lower lobes) or else the brain."""
    lungs = _lungs(ct)
    return lungs if lungs.any() else _brain(ct)


def _lungs(ct: Volume) -> np.ndarray:
    """Large air-filled components that do not touch the sides of the image, left and right by position."""
    numbers = {name: number for number, name in load_table("totalseg_v1").items()}
    labels = np.zeros(ct.array.shape, np.uint8)
    (lateral, to_right), (depth, _), _ = nearest_axes(ct.geometry)
    components, _ = ndimage.label(ndimage.binary_opening(ct.array < LUNG_BELOW_HU))
    voxel_mm3 = float(np.prod(ct.geometry.spacing_mm))
    middle = ct.array.shape[lateral] / 2
    for number, where in enumerate(ndimage.find_objects(components), start=1):
        outside = any(where[a].start == 0 or where[a].stop == ct.array.shape[a] for a in (lateral, depth))
        component = components[where] == number
        if outside or component.sum() * voxel_mm3 < SMALLEST_LUNG_MM3:
            continue
        position = np.indices(component.shape, sparse=True)[lateral] + where[lateral].start
        right = (position > middle) == (to_right > 0)
        labels[where][component & right] = numbers["lung_lower_lobe_right"]
        labels[where][component & ~right] = numbers["lung_lower_lobe_left"]
    return labels


def _brain(ct: Volume) -> np.ndarray:
    """Soft tissue enclosed by bone, slice by slice."""
    number = next(n for n, name in load_table("totalseg_v1").items() if name == "brain")
    inside = np.zeros(ct.array.shape, bool)
    superior = nearest_axes(ct.geometry)[2][0]
    for k in range(ct.array.shape[superior]):
        index = tuple(k if axis == superior else slice(None) for axis in range(3))
        bone = ct.array[index] > BONE_ABOVE_HU
        inside[index] = ndimage.binary_fill_holes(ndimage.binary_closing(bone, iterations=3)) & ~bone
    soft = inside & (ct.array > -20) & (ct.array < 100)
    core = largest_component(ndimage.binary_erosion(soft, iterations=3))
    brain = ndimage.binary_dilation(core, iterations=3, mask=soft)
    return np.where(brain, np.uint8(number), np.uint8(0))
