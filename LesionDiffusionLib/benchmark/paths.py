"""Two ways from arrays to arrays: as the released pipeline goes, and ours.

Both draw a mask with LMNet (for its cost: the lesion itself is the job's, so that both inpaint the same) and inpaint
with LINet, from the same noise. The released pipeline (released-model 6.2) encodes and decodes the whole volume and
takes what is decoded; it keeps no text between two uses, so every step pays for the text encoder.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from LesionDiffusionLib.benchmark.job import Job
from LesionDiffusionLib.devices import repeatable, synchronize
from LesionDiffusionLib.diffusion.denoiser import Condition, Denoiser, Prediction
from LesionDiffusionLib.diffusion.samplers import SampleNoise
from LesionDiffusionLib.diffusion.schedule import NoiseSchedule
from LesionDiffusionLib.geometry import Box, Geometry
from LesionDiffusionLib.image_stage import inpaint, lesion_window
from LesionDiffusionLib.memory import peak_memory_mib
from LesionDiffusionLib.networks.convolution import as_written
from LesionDiffusionLib.networks.text_tower import BiomedCLIPTextEncoder, TextEncoder
from LesionDiffusionLib.resampling import box_on_grid, sample, sample_home, sample_mask
from LesionDiffusionLib.run import Run, Settings


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a path cost and made.

    Attributes:
        seconds: per stage.
        lesion_hu: values of the new CT inside the lesion (N,).
        peak_memory_mib: as `memory.peak_memory_mib`; of the process since its start, of the GPU since the path's.
    """

    seconds: dict[str, float]
    lesion_hu: np.ndarray
    peak_memory_mib: dict[str, int]

    @property
    def total_seconds(self) -> float:
        """All stages."""
        return sum(self.seconds.values())


class _TimedRun(Run):
    """A run whose stages wait for the device before the clock is read."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        synchronize(self.models.device)
        started = time.perf_counter()
        yield
        synchronize(self.models.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def our_way(job: Job, settings: Settings) -> Outcome:
    """The window alone, text encoded once."""

    def make(run: Run) -> np.ndarray:
        _sample_mask(run)
        near, changed_hu, _ = inpaint(run, job.mask, _image_noise(run))
        return changed_hu[job.mask[near.slices]]

    return _measured(job, settings, make)


def released_way(job: Job, settings: Settings) -> Outcome:
    """The whole volume through the autoencoder, text encoded at every step, every layer as it is written."""
    models = job.models
    lmnet = _Forgetful(models.lmnet.denoiser, models.mask_text, models.mask_strings(job.report))
    linet = _Forgetful(models.linet.denoiser, models.image_text, models.image_strings(job.report))
    forgetful = dataclasses.replace(
        models,
        lmnet=dataclasses.replace(models.lmnet, denoiser=lmnet),
        linet=dataclasses.replace(models.linet, denoiser=linet),
    )
    job = dataclasses.replace(job, models=forgetful)
    with as_written():
        return _measured(job, settings, lambda run: _make_whole(run, job.mask))


def _measured(job: Job, settings: Settings, make: Callable[[Run], np.ndarray]) -> Outcome:
    device = job.models.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    run = job.run(settings, _TimedRun)
    with torch.inference_mode(), repeatable():
        lesion_hu = make(run)
    return Outcome(dict(run.seconds), lesion_hu, peak_memory_mib(device))


def _image_noise(run: Run) -> SampleNoise:
    return SampleNoise.from_seeds([run.settings.seed + 1])


def _sample_mask(run: Run) -> None:
    """LMNet's share of the time; what it draws is not used."""
    lmnet = run.models.lmnet
    maps = torch.ones(1, 3, *lmnet.window.shape, device=run.models.device)
    context = run.models.mask_context(run.plan.report)
    options = run.settings.for_network(run.models.bundle.manifest.lmnet.sampling)
    run.sampled("mask", partial(lmnet.sample, maps, context, options), SampleNoise.from_seeds([run.settings.seed]))


def _make_whole(run: Run, mask: np.ndarray) -> np.ndarray:
    """As released: the whole volume's latent, in which the lesion's window is sampled anew.

    Encoding comes first: a memory that is too small for a whole volume is found out before anything is sampled.
    """
    linet, patient = run.models.linet, run.ct.geometry
    latent = linet.codec.downsampling
    whole, window = whole_around(lesion_window(run, mask), patient, latent)
    latents = (..., *(slice(a // latent, b // latent) for a, b in zip(window.start, window.stop, strict=True)))
    with run.stage("encode"):
        z = linet.codec.encode(sample(run.ct, whole), run.models.device)
    _sample_mask(run)
    share = sample_mask(mask, patient, whole)[window.slices].astype(np.float32)
    region = torch.from_numpy(share)[None, None].to(run.models.device)
    context = run.models.image_context(run.plan.report)
    options = run.settings.for_network(run.models.bundle.manifest.linet.sampling)
    sample_window = partial(linet.sample, z[latents], region, context, options)
    z[latents] = run.sampled("inpaint", sample_window, _image_noise(run))
    with run.stage("decode"):
        decoded = linet.codec.decode(z)[0]
    with run.stage("blend"):
        box = Box.bounding(mask)
        return sample_home(decoded, whole, patient, box)[mask[box.slices]]


def whole_around(window: Geometry, patient: Geometry, latent: int) -> tuple[Geometry, Box]:
    """``window`` extended by whole latents of ``latent`` voxels until it covers ``patient``, and where it lies in that.

    Voxel by voxel it stays the same window, so that the same noise falls on the same tissue whether a window or the
    whole volume is encoded.
    """
    volume = box_on_grid(Box.whole(patient.shape), patient, window)
    before = tuple(latent * max(0, math.ceil(-first / latent)) for first in volume.start)
    stop = tuple(latent * math.ceil(max(ends) / latent) for ends in zip(volume.stop, window.shape, strict=True))
    whole = window.cropped(Box(tuple(-n for n in before), stop))
    return whole, Box(before, tuple(n + edge for n, edge in zip(before, window.shape, strict=True)))


class _Forgetful:
    """A denoiser that has the text encoded before every evaluation, as the released code does."""

    def __init__(self, denoiser: Denoiser, encoder: TextEncoder, strings: list[str]) -> None:
        self._denoiser, self._encoder, self._strings = denoiser, encoder, strings
        self.schedule: NoiseSchedule = denoiser.schedule

    def __call__(self, x_t: Tensor, t: int | Tensor, condition: Condition | None = None) -> Prediction:
        if isinstance(self._encoder, BiomedCLIPTextEncoder):
            self._encoder.forget()
        self._encoder.encode(self._strings)
        return self._denoiser(x_t, t, condition)
