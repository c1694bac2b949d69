"""A procedural CT phantom: a torso (or a head) with organs, textures and noise, and its organ map.

The phantom exists so that the demo, the tests and the starter bundle's training need no download. It is drawn from
implicit shapes in millimeters (x to the patient's right, y to anterior, z to superior) that are bent by one smooth
random displacement field; organs are painted from the outside in, so later structures win.

Anatomy is schematic: sizes, positions and HU are those of general anatomical knowledge, not measured from patients.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy import ndimage

from LesionDiffusionLib.geometry import Geometry
from LesionDiffusionLib.labels import OrganMap, load_table
from LesionDiffusionLib.volume import Volume

AIR_HU, FAT_HU, MUSCLE_HU, WATER_HU = -1000.0, -100.0, 55.0, 8.0

# Mean HU of organs without contrast and in the portal venous phase.
ORGAN_HU = {
    "liver": (58, 108), "spleen": (48, 118), "kidney": (34, 165), "pancreas": (40, 92), "gallbladder": (9, 11),
    "stomach": (42, 75), "colon": (40, 70), "small_bowel": (38, 78), "urinary_bladder": (5, 7), "esophagus": (38, 62),
    "aorta": (42, 150), "vein": (40, 140), "heart": (42, 125), "lung": (-860, -845), "muscle": (52, 62),
    "brain": (34, 38), "adrenal": (25, 70),
}  # fmt: skip


@dataclass
class Phantom:
    """CT in HU (float32) and organ map on the same grid."""

    ct: Volume
    organs: OrganMap


@dataclass
class _Canvas:
    """The picture while it is painted: HU, label numbers and the bent coordinates of every voxel in mm."""

    points_mm: tuple[np.ndarray, np.ndarray, np.ndarray]
    generator: np.random.Generator
    spacing_mm: float
    contrast: bool
    ct_hu: np.ndarray = field(init=False)
    labels: np.ndarray = field(init=False)
    _fields: dict[float, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.numbers = {name: number for number, name in load_table("totalseg_v1").items()}
        self.ct_hu = np.full(self.points_mm[0].shape, AIR_HU, np.float32)
        self.labels = np.zeros(self.ct_hu.shape, np.uint8)

    def hu(self, organ: str) -> float:
        """The organ's mean HU in this phantom's phase, with a little person-to-person spread."""
        plain, enhanced = ORGAN_HU[organ]
        return (enhanced if self.contrast else plain) * self.generator.normal(1.0, 0.05)

    def noise(self, size_mm: float) -> np.ndarray:
        """Smooth noise with unit standard deviation and features of about ``size_mm``.

        One field per size is drawn and then mirrored at random: organs lie apart, and drawing takes most of the time.
        """
        if size_mm not in self._fields:
            self._fields[size_mm] = smooth_noise(self.ct_hu.shape, size_mm / self.spacing_mm / 2, self.generator)
        steps = self.generator.choice((1, -1), 3)
        return self._fields[size_mm][tuple(slice(None, None, step) for step in steps)]

    def paint(self, inside: np.ndarray, hu: float | np.ndarray, name: str | None = None) -> np.ndarray:
        """Fill ``inside`` with ``hu``; ``name`` also labels it. Returns ``inside``."""
        self.ct_hu[inside] = hu[inside] if isinstance(hu, np.ndarray) else hu
        if name is not None:
            self.labels[inside] = self.numbers[name]
        return inside

    def ellipsoid(self, center_mm, radii_mm, tilt_degrees: float = 0.0) -> np.ndarray:
        """Implicit value: < 1 inside. ``tilt_degrees`` turns the x and z axes into each other."""
        x, y, z = (p - c for p, c in zip(self.points_mm, center_mm, strict=True))
        if tilt_degrees:
            c, s = np.cos(np.deg2rad(tilt_degrees)), np.sin(np.deg2rad(tilt_degrees))
            x, z = c * x + s * z, -s * x + c * z
        rx, ry, rz = radii_mm
        return np.sqrt((x / rx) ** 2 + (y / ry) ** 2 + (z / rz) ** 2)

    def tube(self, path_mm) -> np.ndarray:
        """Distance in mm to the polyline ``path_mm``."""
        distance = np.full(self.ct_hu.shape, np.inf, np.float32)
        for a, b in pairwise(path_mm):
            a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
            direction = b - a
            t = sum((p - o) * d for p, o, d in zip(self.points_mm, a, direction, strict=True)) / (direction @ direction)
            t = np.clip(t, 0, 1)
            offsets = (p - o - t * d for p, o, d in zip(self.points_mm, a, direction, strict=True))
            np.minimum(distance, np.sqrt(sum(o * o for o in offsets)), out=distance)
        return distance


def smooth_noise(shape: tuple[int, ...], sigma_vox: float, generator: np.random.Generator) -> np.ndarray:
    """Gaussian noise of unit standard deviation, smoothed with ``sigma_vox`` (drawn coarsely when that is large)."""
    step = max(1, int(sigma_vox))
    coarse = generator.standard_normal([-(-n // step) + 3 for n in shape], dtype=np.float32)
    coarse = ndimage.gaussian_filter(coarse, sigma_vox / step, mode="wrap")
    coarse /= max(coarse.std(), 1e-12)
    if step > 1:
        offsets = np.ones(len(shape))
        coarse = ndimage.affine_transform(
            coarse, np.full(len(shape), 1 / step), offset=offsets, output_shape=shape, order=1
        )
    return np.asarray(coarse[tuple(slice(n) for n in shape)], np.float32)


def make_phantom(
    generator: np.random.Generator,
    region: str = "torso",
    spacing_mm: float = 2.5,
    contrast: bool = True,
    noise_hu: float = 12.0,
) -> Phantom:
    """Draw a phantom.

    Args:
        generator: source of all chance; the same state gives the same phantom.
        region: ``"torso"`` (lungs to bladder, 345 x 250 x 450 mm) or ``"head"`` (180 x 220 x 190 mm).
        spacing_mm: isotropic voxel size.
        contrast: portal venous phase rather than non-contrast.
        noise_hu: standard deviation of the scanner's noise.

    Returns:
        CT (I, J, K) float32 HU and organ map in TotalSegmentator v1 numbers; voxel axes run to left, posterior and
        superior, as most scanners store them.
    """
    extent_mm, draw = {"torso": ((345, 250, 450), _draw_torso), "head": ((180, 220, 190), _draw_head)}[region]
    shape = tuple(round(e / spacing_mm) for e in extent_mm)
    affine = np.diag([-spacing_mm, -spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = [(n - 1) / 2 * spacing_mm * sign for n, sign in zip(shape, (1, 1, -1), strict=True)]
    geometry = Geometry(shape, affine)
    canvas = _Canvas(_bent_points_mm(geometry, generator), generator, spacing_mm, contrast)
    draw(canvas)
    ct_hu = _scan(canvas.ct_hu, spacing_mm, noise_hu, generator)
    organs = OrganMap(Volume(canvas.labels, geometry), load_table("totalseg_v1"))
    return Phantom(Volume(ct_hu, geometry), organs)


def _bent_points_mm(geometry: Geometry, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """World coordinates of all voxels plus a smooth displacement of a few mm, so that no two phantoms are alike."""
    spacing_mm = geometry.spacing_mm[0]
    points = []
    for axis in range(3):
        line = geometry.affine_ras[axis, axis] * np.arange(geometry.shape[axis]) + geometry.affine_ras[axis, 3]
        line = line.reshape([-1 if a == axis else 1 for a in range(3)]).astype(np.float32)
        coarse = 4.0 * smooth_noise(geometry.shape, 28 / spacing_mm, generator)
        fine = 0.8 * smooth_noise(geometry.shape, 8 / spacing_mm, generator)
        points.append(line * np.float32(generator.normal(1, 0.03)) + coarse + fine)
    return tuple(points)


def _scan(ct_hu: np.ndarray, spacing_mm: float, noise_hu: float, generator: np.random.Generator) -> np.ndarray:
    """Scanner: point spread (partial volume), correlated noise, and values a 12-bit scanner would store."""
    blurred = ndimage.gaussian_filter(ct_hu, 0.8 / spacing_mm + 0.3)
    noise = smooth_noise(ct_hu.shape, 0.6, generator)
    return np.clip(np.round(blurred + noise_hu * noise), -1024, 3071).astype(np.float32)


def _draw_torso(c: _Canvas) -> None:
    cavity = _draw_body_wall(c)
    _draw_spine_and_ribs(c, cavity)
    _draw_chest(c, cavity)
    _draw_solid_organs(c, cavity)
    _draw_hollow_organs(c, cavity)
    _draw_pelvis(c)


def _draw_body_wall(c: _Canvas) -> np.ndarray:
    """Skin, subcutaneous fat, muscle; returns the cavity that holds the organs."""
    x, y, _ = c.points_mm
    body = ((np.abs(x) / 158) ** 2.4 + (np.abs(y) / 112) ** 2.4) ** (1 / 2.4)
    c.paint(body < 1, FAT_HU + 12 * c.noise(6))
    c.paint((body < 1) & (body > 0.985), 30.0)
    muscle = c.hu("muscle") + 14 * c.noise(5)
    fat_share = c.generator.uniform(0.04, 0.14)
    c.paint(body < 0.98 - fat_share, muscle)
    cavity = (body < 0.84 - fat_share) & (y > -88)
    c.paint(cavity, FAT_HU + 10 * c.noise(8))
    for side, name in ((1, "right"), (-1, "left")):
        c.paint(c.ellipsoid((38 * side, -88, -20), (32, 22, 230)) < 1, muscle, f"autochthon_{name}")
        c.paint(c.ellipsoid((48 * side, -42, -130), (22, 24, 95)) < 1, muscle, f"iliopsoas_{name}")
    return cavity


def _draw_spine_and_ribs(c: _Canvas, cavity: np.ndarray) -> None:
    x, y, z = c.points_mm
    names = [f"vertebrae_L{n}" for n in range(5, 0, -1)] + [f"vertebrae_T{n}" for n in range(12, 1, -1)]
    trabecular = 170 + 45 * c.noise(4)
    body, arch = np.hypot(x, y + 62) / 21, np.abs(np.hypot(x / 15, (y + 92) / 13) - 1) / 0.35
    for k, name in enumerate(names):
        height = np.abs(z + 130 - 27 * k)
        c.paint((body < 1) & (height < 11.5), 520.0, name)
        c.paint((arch < 1) & (height < 9), 520.0, name)
        c.paint((body < 0.86) & (height < 9.9), trabecular, name)
    discs = (body < 0.95) & (c.labels == 0) & (z > -145)
    c.paint(discs, 75.0)
    c.paint((np.hypot(x, y + 92) < 9) & (z > -145), 32.0)
    ring = ((np.abs(x) / 132) ** 2.3 + (np.abs(y + 2) / 96) ** 2.3) ** (1 / 2.3)
    shell, slope = np.abs(ring - 1) / 0.045, (z - 30 + 0.35 * y) / 6
    sides = {
        "right": (shell < 1) & (x > 4) & (y < 84) & (z > -20),
        "left": (shell < 1) & (x < -4) & (y < 84) & (z > -20),
    }
    for k in range(11):
        height = np.abs(slope - 4 * k)
        for name, side in sides.items():
            c.paint(side & (height < 1), 420.0, f"rib_{name}_{12 - k}")
            c.paint(side & (height < 0.6) & (shell < 0.6), 190.0)
    c.paint((np.abs(x) < 16) & (np.abs(y - 94) < 6) & (z > 90), 260.0)


def _draw_chest(c: _Canvas, cavity: np.ndarray) -> None:
    x, y, z = c.points_mm
    dome = 78 - 0.004 * (x - 70) ** 2 - 0.005 * y**2
    chest = cavity & (z > dome)
    lung_hu = c.hu("lung")
    vessels = np.abs(c.noise(7)) < 0.055
    texture = lung_hu + 28 * c.noise(4) + 700 * ndimage.gaussian_filter(vessels.astype(np.float32), 0.4)
    for side, name in ((1, "right"), (-1, "left")):
        lung = chest & (c.ellipsoid((70 * side, -4, 145), (58, 82, 112)) < 1) & (np.abs(x) > 12)
        upper = z > 150 - 0.9 * y
        c.paint(lung & ~upper, texture, f"lung_lower_lobe_{name}")
        c.paint(lung & upper, texture, f"lung_upper_lobe_{name}")
        if name == "right":
            c.paint(lung & upper & (z < 150) & (y > 0), texture, "lung_middle_lobe_right")
    mediastinum = chest & (c.ellipsoid((0, 0, 170), (26, 70, 110)) < 1) & (c.labels == 0)
    c.paint(mediastinum, FAT_HU + 25 + 15 * c.noise(8))
    heart = c.hu("heart") + 14 * c.noise(6)
    c.paint(chest & (c.ellipsoid((-22, 32, 128), (46, 40, 44), 25) < 1), 0.8 * heart, "heart_myocardium")
    c.paint(chest & (c.ellipsoid((-30, 34, 122), (28, 24, 28), 25) < 1), heart + 20, "heart_ventricle_left")
    c.paint(c.tube([(2, -8, 222), (2, -12, 172)]) < 9, AIR_HU, "trachea")


def _draw_solid_organs(c: _Canvas, cavity: np.ndarray) -> None:
    room = cavity | (c.labels > 0)
    vessel = ndimage.gaussian_filter((np.abs(c.noise(26)) < 0.05).astype(np.float32), 0.5)
    liver_hu = c.hu("liver")
    liver = np.minimum(c.ellipsoid((62, 4, 30), (72, 74, 68), -12), c.ellipsoid((-2, 38, 52), (62, 36, 30), 10))
    enhancement = (45 if c.contrast else -12) * vessel
    c.paint(room & (liver < 1), liver_hu + 7 * c.noise(5) + enhancement, "liver")
    spleen = c.ellipsoid((-100, -36, 48), (27, 40, 50), 15) < 1
    c.paint(room & spleen, c.hu("spleen") + 7 * c.noise(5), "spleen")
    for side, name, height in ((1, "right", -38), (-1, "left", -22)):
        kidney_hu = c.hu("kidney")
        kidney = c.ellipsoid((64 * side, -44, height), (26, 25, 52), 10 * side)
        c.paint(kidney < 1, kidney_hu + 8 * c.noise(4), f"kidney_{name}")
        pyramids = (kidney < 0.72) & (c.noise(9) > -0.2)
        c.paint(pyramids, (0.75 if c.contrast else 0.95) * kidney_hu + 6 * c.noise(4))
        c.paint(c.ellipsoid((50 * side, -40, height), (13, 9, 20)) < 1, FAT_HU + 40 + 20 * c.noise(5))
        adrenal = c.ellipsoid((42 * side, -40, height + 62), (6, 12, 12)) < 1
        c.paint(adrenal, c.hu("adrenal"), f"adrenal_gland_{name}")
    pancreas = c.tube([(38, 14, -14), (12, 22, 0), (-30, 6, 12), (-78, -16, 26)]) - 2.0 * c.noise(7)
    c.paint(pancreas < 13, c.hu("pancreas") + 12 * c.noise(5), "pancreas")
    artery, vein = c.hu("aorta"), c.hu("vein")
    c.paint(c.tube([(-10, -28, 205), (-14, -34, 120), (-8, -26, -95)]) < 10.5, artery + 5 * c.noise(4), "aorta")
    c.paint(c.tube([(20, -22, 110), (18, -22, -95)]) < 10.5, vein + 5 * c.noise(4), "inferior_vena_cava")
    portal = c.tube([(-60, -6, 16), (10, 6, 6), (34, 8, 30)]) < 6
    c.paint(portal, vein + 5 * c.noise(4), "portal_vein_and_splenic_vein")


def _hollow(c: _Canvas, depth_mm: np.ndarray, wall_mm: float, wall_hu, content_hu, name: str) -> None:
    """A hollow organ from its implicit depth (> 0 inside, in mm): wall outside, content inside, one label."""
    c.paint(depth_mm > 0, wall_hu, name)
    c.paint(depth_mm > wall_mm, content_hu)


def _draw_hollow_organs(c: _Canvas, cavity: np.ndarray) -> None:
    y = c.points_mm[1]
    loops = c.noise(24)
    bowel = cavity & (c.labels == 0) & (c.ellipsoid((0, 30, -85), (88, 55, 75)) < 1) & (loops > -0.5)
    c.paint(bowel, c.hu("small_bowel") + 8 * c.noise(5), "small_bowel")
    c.paint(bowel & (loops > 0.35), np.where(c.noise(18) > 1.4, AIR_HU + 100, 22.0) + 8 * c.noise(6))
    duodenum = c.tube([(40, 24, 4), (52, 4, -14), (46, -8, -60), (0, -6, -66)]) < 12
    c.paint(duodenum, c.hu("small_bowel") + 8 * c.noise(6), "duodenum")
    bile = c.ellipsoid((58, 48, -26), (17, 16, 30), -20)
    _hollow(c, (1 - bile) * 17, 2.0, 70.0, c.hu("gallbladder") + 3 * c.noise(6), "gallbladder")
    stomach = np.minimum(c.ellipsoid((-62, 20, 58), (40, 40, 44)), c.ellipsoid((-34, 44, 14), (52, 26, 24), 20))
    content = np.where(y > 34 + 3 * c.noise(20), -930.0, 28 + 18 * c.noise(7))
    _hollow(c, (1 - stomach) * 36, 5.0, c.hu("stomach") + 8 * c.noise(4), content, "stomach")
    ascending, transverse = [(104, -10, -128), (108, -4, -40), (92, 40, -40)], [(40, 68, -54), (-40, 68, -50)]
    descending = [(-96, 30, 0), (-112, -20, 10), (-110, -18, -110), (-70, -6, -140)]
    rectum = [(-20, 20, -150), (6, -10, -168), (0, -44, -190), (0, -46, -222)]
    path = ascending + transverse + descending + rectum
    haustra = 20 + 3.5 * c.noise(13)
    stool = np.where(c.noise(16) > -0.1, -850.0, 45.0) + 60 * c.noise(4)
    _hollow(c, haustra - c.tube(path), 4.0, c.hu("colon") + 8 * c.noise(4), stool, "colon")
    esophagus = 10 - c.tube([(-4, -20, 225), (-4, -24, 110), (-26, 0, 84)])
    _hollow(c, esophagus, 5.5, c.hu("esophagus") + 6 * c.noise(4), -300.0 + 300 * (c.noise(12) > 0), "esophagus")


def _draw_pelvis(c: _Canvas) -> None:
    trabecular = 200 + 50 * c.noise(4)
    for side, name in ((1, "right"), (-1, "left")):
        wing = c.ellipsoid((92 * side, -30, -165), (20, 62, 62), 25 * side)
        c.paint((wing < 1) & (c.ellipsoid((70 * side, -26, -158), (24, 60, 66), 25 * side) > 1), 480.0, f"hip_{name}")
        head = c.ellipsoid((92 * side, -8, -212), (24, 24, 24))
        c.paint(head < 1, 520.0, f"femur_{name}")
        c.paint(head < 0.85, trabecular, f"femur_{name}")
        gluteus = c.ellipsoid((92 * side, -78, -185), (52, 26, 55)) < 1
        c.paint(gluteus & (c.labels == 0), c.hu("muscle") + 14 * c.noise(5), f"gluteus_maximus_{name}")
    sacrum = np.maximum(c.ellipsoid((0, -78, -178), (46, 22, 42)), 0)
    c.paint(sacrum < 1, 380.0, "sacrum")
    c.paint(sacrum < 0.85, trabecular, "sacrum")
    bladder = c.ellipsoid((0, 32, -194), (40, 34, 28))
    urine = c.hu("urinary_bladder") + 2 * c.noise(6)
    _hollow(c, (1 - bladder) * 32, 3.5, 48.0 + 5 * c.noise(4), urine, "urinary_bladder")


def _draw_head(c: _Canvas) -> None:
    head = c.ellipsoid((0, 0, -10), (76, 95, 92))
    c.paint(head < 1, MUSCLE_HU - 60 + 20 * c.noise(6))
    c.paint(head < 0.94, 900 + 120 * c.noise(5))
    c.paint(head < 0.86, WATER_HU)
    brain = c.hu("brain")
    folds = np.abs(c.noise(14))
    inside = (head < 0.84) & ~((head > 0.74) & (folds < 0.12))
    c.paint(inside, brain + 4 + 2 * c.noise(5), "brain")
    c.paint((head < 0.74) & (folds > 0.25), brain - 4 + 2 * c.noise(6))
    for side in (1, -1):
        c.paint(c.ellipsoid((14 * side, -4, 6), (7, 32, 11), 12 * side) < 1, WATER_HU)
    c.paint((np.abs(c.points_mm[0]) < 1.2) & (head < 0.84) & (c.points_mm[2] > 25), WATER_HU + 20)
