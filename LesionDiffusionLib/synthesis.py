"""The main job: a described lesion in a real CT.

organ map + report -> box -> LMNet -> mask -> VQ encode -> LINet -> decode -> only the change comes home.
"""

from __future__ import annotations

import dataclasses
import functools
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from LesionDiffusionLib import __version__
from LesionDiffusionLib.bundles import Bundle, open_bundle
from LesionDiffusionLib.case import Case
from LesionDiffusionLib.devices import describe_device, peak_memory_mib, resolve_device, with_memory_fallback
from LesionDiffusionLib.diffusion.samplers import SampleNoise, SamplerStep
from LesionDiffusionLib.errors import Cancelled, PlacementError, VolumeError
from LesionDiffusionLib.fit import measure
from LesionDiffusionLib.geometry import Box, Geometry
from LesionDiffusionLib.labels import OrganMap, load_table
from LesionDiffusionLib.lmnet import condition_maps
from LesionDiffusionLib.models import Models, load_models
from LesionDiffusionLib.placement import allowed_region
from LesionDiffusionLib.planning import Plan, Wish, plan_lesion
from LesionDiffusionLib.postprocess import blend_weight, keep_noise, largest_component, threshold_by_volume
from LesionDiffusionLib.resampling import box_on_grid, home_box, sample, sample_home, window_grid
from LesionDiffusionLib.sampling import SamplingOptions
from LesionDiffusionLib.volume import Volume, check_ct, require_same_grid

MASK_TRIES = 3  # LMNet is asked again when it draws nothing inside the allowed region
FALLOFF_SPACINGS, LEAST_FALLOFF_MM = 3.0, 4.0  # of LINet's window: what its latents and convolutions reach


@dataclass(frozen=True)
class Progress:
    """``step`` of ``total`` of a stage is done."""

    stage: str
    step: int
    total: int


@dataclass(frozen=True)
class Settings:
    """How to synthesize.

    Attributes:
        seed: of everything drawn at random.
        sampler, steps, guidance: None takes the bundle's own for each network.
        candidates: lesions drawn; the one that fits the report best is returned.
    """

    seed: int = 0
    sampler: str | None = None
    steps: int | None = None
    guidance: float | None = None
    candidates: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.candidates <= 64:
            raise ValueError(f"candidates must lie in 1..64, got {self.candidates}")
        if self.seed < 0:
            raise ValueError(f"the seed must not be negative, got {self.seed}")

    def for_network(self, own: SamplingOptions) -> SamplingOptions:
        """The network's own options, with what the user set in their place."""
        given = {name: getattr(self, name) for name in ("sampler", "steps", "guidance")}
        return dataclasses.replace(own, **{name: value for name, value in given.items() if value is not None})


@dataclass
class _Run:
    """One synthesis under way: what every stage needs."""

    ct: Volume
    organs: OrganMap
    plan: Plan
    models: Models
    settings: Settings
    progress: Callable[[Progress], None]
    should_stop: Callable[[], bool]
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage and let the user cancel before it."""
        self.check_stop()
        self.progress(Progress(name, 0, 1))
        started = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0) + time.perf_counter() - started, 3)

    def check_stop(self) -> None:
        if self.should_stop():
            raise Cancelled("cancelled; nothing was written")

    def sampled(self, stage: str, make_steps: Callable[[], Iterator[SamplerStep]]) -> torch.Tensor:
        """Run a sampler to its end, reporting every step and stopping within one."""

        def run() -> torch.Tensor:
            for step in make_steps():
                self.progress(Progress(stage, step.index + 1, step.total))
                self.check_stop()
            return step.x

        with self.stage(stage):
            return with_memory_fallback(run, self.models.device, self.notes)


def synthesize(
    ct: Volume,
    organs: OrganMap,
    wish: Wish,
    *,
    bundle: Bundle | Models | str = "starter",
    settings: Settings | None = None,
    device: str = "auto",
    progress: Callable[[Progress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Case:
    """Put one described lesion into a CT.

    Args:
        ct: HU, array (I, J, K); never written.
        organs: organ map on the same grid.
        wish: report and, if given, box, center or mask.
        bundle: a name or folder, an opened bundle, or models kept from an earlier call.
        settings: seed, sampling, candidates.
        device: "auto", "cpu", "cuda", "cuda:N"; ignored when ``bundle`` holds loaded models.
        progress: called with every stage and diffusion step.
        should_stop: asked before every stage and after every step.

    Returns:
        The case; with several candidates the one whose measurements fit the report best.

    Raises:
        LesionDiffusionError: bad input; see the subclasses in `errors`.
        Cancelled: ``should_stop`` said so.
    """
    settings = settings or Settings()
    _check_input(ct, organs, wish)
    seeds = np.random.SeedSequence(settings.seed).spawn(3)
    started = time.perf_counter()
    plan = plan_lesion(ct, organs, wish, [np.random.default_rng(seed) for seed in seeds[:2]])
    seconds = {"plan": round(time.perf_counter() - started, 3)}
    models = _models(bundle, device, seconds)
    models.lmnet.window.spacing_for(plan.report.size_mm), models.linet.window.spacing_for(plan.report.size_mm)
    if models.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(models.device)
    run = _Run(ct, organs, plan, models, settings, progress, should_stop, seconds)
    noise_seeds = seeds[2].generate_state(settings.candidates, np.uint64)
    cases = (_synthesize_one(run, wish, int(seed) >> 1, index) for index, seed in enumerate(noise_seeds))
    return max(cases, key=lambda case: case.share_fitting)


def _synthesize_one(run: _Run, wish: Wish, seed: int, index: int) -> Case:
    noise = SampleNoise.from_seeds([seed])
    mask = wish.mask if wish.mask is not None else _draw_mask(run, noise)
    ct_hu, falloff_mm = _inpaint(run, mask, noise)
    with run.stage("measure"):
        geometry = run.ct.geometry
        measurements = measure(run.plan.report, ct_hu, mask, run.plan.site.organ, geometry)
        outside = change_outside(run.ct.array, ct_hu, mask, geometry, falloff_mm)
    provenance = _provenance(run, index) | {"neighborhood_mm": falloff_mm} | outside
    return Case(
        run.ct,
        Volume(ct_hu, geometry),
        Volume(mask, geometry),
        run.plan.report,
        run.plan.box,
        measurements,
        (*run.plan.warnings, *dict.fromkeys(run.notes)),
        provenance,
    )


def _check_input(ct: Volume, organs: OrganMap, wish: Wish) -> None:
    check_ct(ct)
    require_same_grid(ct, organs.volume, "organ map")
    if wish.mask is None:
        return
    if wish.mask.shape != ct.array.shape:
        raise VolumeError(f"expected a mask of the CT's shape {ct.array.shape}, got {wish.mask.shape}")
    if wish.mask.dtype != bool or not wish.mask.any():
        raise VolumeError(f"expected a bool mask with at least one voxel, got {wish.mask.dtype} with {wish.mask.sum()}")


def _models(bundle: Bundle | Models | str, device: str, seconds: dict[str, float]) -> Models:
    if isinstance(bundle, Models):
        return bundle
    started = time.perf_counter()
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    models = load_models(opened, resolve_device(device))
    seconds["load"] = round(time.perf_counter() - started, 3)
    return models


def _draw_mask(run: _Run, noise: SampleNoise) -> np.ndarray:
    """LMNet: the lesion mask on the patient's grid, bool (I, J, K)."""
    lmnet, plan, patient = run.models.lmnet, run.plan, run.ct.geometry
    grid = window_grid(patient, plan.box.center_vox, lmnet.window.spacing_for(plan.report.size_mm), lmnet.window.shape)
    box = box_on_grid(plan.box, patient, grid).clipped(grid.shape)
    maps = _condition_maps(run, grid, box).to(run.models.device)
    context = run.models.mask_context(plan.report)
    options = run.settings.for_network(run.models.bundle.manifest.lmnet.sampling)
    room = _room(run)
    for _ in range(MASK_TRIES):
        sampled = run.sampled("mask", lambda: lmnet.sample(maps, context, options, noise))
        mask = _binarized(run, sampled[0, 0].float().cpu().numpy(), grid, box, room)
        if mask.any():
            return mask
    raise PlacementError(
        f"LMNet drew no lesion inside the allowed region in {MASK_TRIES} tries; use another seed or a larger lesion"
    )


def _condition_maps(run: _Run, grid: Geometry, box: Box) -> torch.Tensor:
    numbers = sample(run.organs.volume, grid, order=0)
    organ = sample(Volume(run.plan.site.organ, run.ct.geometry), grid, order=0)
    filled = np.zeros(grid.shape, bool)
    filled[box.slices] = True
    return condition_maps(_v1_numbers(run.organs)[numbers], organ, filled)


def _v1_numbers(organs: OrganMap) -> np.ndarray:
    """Lookup table from the map's numbers to TotalSegmentator v1 numbers, which the networks were trained with."""
    v1 = {name: number for number, name in load_table("totalseg_v1").items()}
    table = np.zeros(int(organs.volume.array.max()) + 1, np.uint8)
    for number, name in organs.table.items():
        if number < len(table):
            table[number] = v1.get(name.replace(" ", "_"), 0)
    return table


def _room(run: _Run) -> tuple[Box, np.ndarray]:
    """Where the mask may lie: the lesion's box, and within it the allowed region of the rule."""
    plan, geometry = run.plan, run.ct.geometry
    margin = tuple(int(np.ceil(max(plan.report.size_mm) / 2 / s)) + 1 for s in geometry.spacing_mm)
    around = plan.box.padded(margin).clipped(geometry.shape)
    region = allowed_region(plan.rule, plan.site.cropped(around), plan.report.size_mm)
    inner = Box(
        tuple(np.subtract(plan.box.start, around.start)),
        tuple(np.subtract(plan.box.stop, around.start)),
    )
    return plan.box, region[inner.slices]


def _binarized(run: _Run, sampled: np.ndarray, grid: Geometry, box: Box, room: tuple[Box, np.ndarray]) -> np.ndarray:
    """The sampled map as a mask on the patient's grid: thresholded, inside the room, largest component."""
    place, region = room
    threshold = run.models.bundle.manifest.lmnet.threshold
    if threshold is None:
        _, threshold = threshold_by_volume(sampled, int(np.prod(box.shape)))
    home = sample_home(sampled, grid, run.ct.geometry, place)
    inside = largest_component((home > threshold) & region)
    if not inside.any() and (home[region] > 0.25).any():  # a lesion smaller than the patient's voxels
        inside = largest_component((home >= home[region].max()) & region)
    mask = np.zeros(run.ct.array.shape, bool)
    mask[place.slices] = inside
    return mask


def _inpaint(run: _Run, mask: np.ndarray, noise: SampleNoise) -> tuple[np.ndarray, float]:
    """LINet: HU (I, J, K) with the lesion, and the distance in mm beyond which nothing changed."""
    linet, plan, patient = run.models.linet, run.plan, run.ct.geometry
    tight = Box.bounding(mask)
    spacing_mm = linet.window.spacing_for(plan.report.size_mm)
    grid = window_grid(patient, tight.center_vox, spacing_mm, linet.window.shape)
    on_grid = _mask_on_grid(mask, patient, grid)
    with run.stage("encode"):
        window_hu = sample(run.ct, grid)
        encode = functools.partial(linet.codec.encode, window_hu, run.models.device)
        known = with_memory_fallback(encode, run.models.device, run.notes)
    region = torch.from_numpy(on_grid.astype(np.float32))[None, None].to(run.models.device)
    context = run.models.image_context(plan.report)
    options = run.settings.for_network(run.models.bundle.manifest.linet.sampling)
    latent = run.sampled("inpaint", lambda: linet.sample(known, region, context, options, noise))
    with run.stage("decode"):
        decoded, reconstructed = (
            with_memory_fallback(functools.partial(linet.codec.decode, z), run.models.device, run.notes)[0]
            for z in (latent, known)
        )
    falloff_mm = max(LEAST_FALLOFF_MM, FALLOFF_SPACINGS * spacing_mm)
    with run.stage("blend"):
        return _brought_home(run.ct, mask, grid, (decoded, reconstructed), falloff_mm), falloff_mm


def _mask_on_grid(mask: np.ndarray, patient: Geometry, grid: Geometry) -> np.ndarray:
    """The mask on a window: smooth where the window is finer, never empty where it is coarser."""
    share = sample(Volume(mask.astype(np.float32), patient), grid)
    return share > min(0.5, 0.5 * float(share.max()))


def _brought_home(
    ct: Volume, mask: np.ndarray, grid: Geometry, windows: tuple[np.ndarray, np.ndarray], falloff_mm: float
) -> np.ndarray:
    """``ct + w (synthesized - ct)`` near the lesion and the very same values elsewhere.

    ``windows`` are the decoded latents with and without the lesion. The synthesized image is the first one plus what
    the autoencoder cannot carry of this scan: without it the lesion would be a smooth patch in a noisy image, and the
    surroundings would take on the autoencoder's blur. Inside the lesion only the noise is kept, not edges of anatomy.
    """
    reach = tuple(int(np.ceil(falloff_mm / s)) for s in ct.geometry.spacing_mm)
    near = Box.bounding(mask).padded(reach).clipped(ct.geometry.shape).intersection(home_box(grid, ct.geometry))
    inside, before = mask[near.slices], ct.array[near.slices].astype(np.float32)
    decoded, reconstructed = (sample_home(window, grid, ct.geometry, near) for window in windows)
    residual = np.where(inside, keep_noise(before, reconstructed, inside), before - reconstructed)
    weight = blend_weight(inside, ct.geometry.spacing_mm, falloff_mm)
    out = ct.array.copy()
    changed = before + weight * (decoded + residual - before)
    if np.issubdtype(out.dtype, np.integer):
        changed = np.clip(np.round(changed), *(getattr(np.iinfo(out.dtype), end) for end in ("min", "max")))
    out[near.slices] = np.where(weight > 0, changed, ct.array[near.slices]).astype(out.dtype)
    return out


def change_outside(
    before: np.ndarray, after: np.ndarray, mask: np.ndarray, geometry: Geometry, neighborhood_mm: float
) -> dict[str, float | int]:
    """Proof that nothing else changed: measured on the finished array, slab by slab, against the untouched input.

    Returns:
        ``max_abs_change_outside_hu`` and ``voxels_changed_outside`` beyond ``neighborhood_mm`` of the lesion, and
        ``voxels_changed`` in all.
    """
    reach = tuple(int(np.ceil(neighborhood_mm / s)) for s in geometry.spacing_mm)
    near = Box.bounding(mask).padded(reach).clipped(geometry.shape)
    allowed = blend_weight(mask[near.slices], geometry.spacing_mm, neighborhood_mm) > 0
    largest, outside, total = 0.0, 0, 0
    for k in range(before.shape[2]):
        difference = np.abs(after[:, :, k].astype(np.float32) - before[:, :, k])
        total += int(np.count_nonzero(difference))
        if near.start[2] <= k < near.stop[2]:
            difference[near.slices[:2]][allowed[:, :, k - near.start[2]]] = 0
        outside += int(np.count_nonzero(difference))
        largest = max(largest, float(difference.max()))
    return {"max_abs_change_outside_hu": largest, "voxels_changed_outside": outside, "voxels_changed": total}


def _provenance(run: _Run, index: int) -> dict:
    manifest, models = run.models.bundle.manifest, run.models
    return {
        "synthetic": True,
        "note": "This CT contains a synthetic lesion. Research use only; not for diagnosis.",
        "software": {"LesionDiffusion": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "bundle": {"name": manifest.name, "sha256": dict(manifest.files)},
        "settings": {
            "seed": run.settings.seed,
            "candidate": index,
            "candidates": run.settings.candidates,
            "mask": dataclasses.asdict(run.settings.for_network(manifest.lmnet.sampling)),
            "image": dataclasses.asdict(run.settings.for_network(manifest.linet.sampling)),
        },
        "region_rule": run.plan.rule,
        "device": describe_device(models.device),
        "seconds": dict(run.seconds),
        "peak_memory_mib": peak_memory_mib(models.device),
    }
