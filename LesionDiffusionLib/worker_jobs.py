"""The jobs of the worker process: requests in plain JSON types become calls of the library."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from LesionDiffusionLib.bundles import open_bundle
from LesionDiffusionLib.case import Case
from LesionDiffusionLib.devices import available_devices, describe_device, resolve_device
from LesionDiffusionLib.errors import Cancelled
from LesionDiffusionLib.histogram import lesion_histogram
from LesionDiffusionLib.labels import OrganMap
from LesionDiffusionLib.lesion_patch import LesionPatch
from LesionDiffusionLib.memory import clear_memory_errors, gpu_memory
from LesionDiffusionLib.models import Models, load_models
from LesionDiffusionLib.planning import plan_lesion
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.run import Settings
from LesionDiffusionLib.shared_arrays import attach
from LesionDiffusionLib.synthesis import chances, synthesize
from LesionDiffusionLib.volume import Volume
from LesionDiffusionLib.wish import Wish
from LesionDiffusionLib.worker_protocol import Order, SharedVolume

Say = Callable[..., None]  # say(event, **content)
ShouldStop = Callable[[], bool]


class Jobs:
    """Keeps the networks between synthesis jobs: one bundle on one device at a time."""

    def __init__(self) -> None:
        self._key: tuple[str, str] | None = None
        self._models: Models | None = None

    def synthesize(self, request: Mapping, say: Say, should_stop: ShouldStop) -> dict[str, Any]:
        """``ct``, ``organs``, ``table`` and ``order``; every candidate is a preview, the result names the best."""
        order = Order.from_json(request["order"])
        settings = Settings(**order.settings)
        models = self._loaded(order.bundle, order.device, say)
        if should_stop():
            raise Cancelled("cancelled while the networks were loaded")
        say("progress", stage="plan", step=0, total=1)
        shares: list[float] = []
        with _patient(request) as (ct, organs):

            def finished(case: Case) -> None:
                histogram = lesion_histogram(case, organs.mask(case.report.organ))
                say("preview", index=len(shares), patch=LesionPatch.of(case).to_json(), histogram=histogram)
                shares.append(case.share_fitting)

            synthesize(
                ct,
                organs,
                _wish(order, ct.geometry.shape),
                bundle=models,
                settings=settings,
                progress=lambda p: say("progress", **dataclasses.asdict(p)),
                should_stop=should_stop,
                finished=finished,
            )
        return {"best": shares.index(max(shares)), "candidates": len(shares)}

    def place(self, request: Mapping, say: Say, should_stop: ShouldStop) -> dict[str, Any]:
        """``ct``, ``organs``, ``table`` and ``order``: the box and the report that a synthesis would start from."""
        order = Order.from_json(request["order"])
        with _patient(request) as (ct, organs):
            plan_chances, _ = chances(int(order.settings.get("seed", 0)))
            plan = plan_lesion(ct, organs, _wish(order, ct.geometry.shape), plan_chances)
        return {"box": str(plan.box), "report": plan.report.to_json(), "warnings": list(plan.warnings)}

    def save(self, request: Mapping, say: Say, should_stop: ShouldStop) -> dict[str, Any]:
        """``before`` (the CT the lesion was put into), ``patch``, ``source``, ``folder``, ``force``: a saved case."""
        from LesionDiffusionLib.saved_case import require_writable, save_case
        from LesionDiffusionLib.volume_source import ct_file_for

        folder = Path(request["folder"])
        require_writable(folder, request["force"])
        patch = LesionPatch.from_json(request["patch"])
        with _volume(request["before"]) as before:
            ct_file = ct_file_for(before, request["source"])
            case = dataclasses.replace(patch, changed_hu=patch.changed_hu.astype(np.float32)).case(ct_file.volume)
            save_case(case, ct_file, folder, request["force"])
        return {"folder": str(folder)}

    def ask_model(self, request: Mapping, say: Say, should_stop: ShouldStop) -> dict[str, Any]:
        """``url``, ``model``, ``key``, ``report``: the report completed by a language model."""
        from LesionDiffusionLib.adapters.language_model import LanguageModel, write_report

        report = LesionReport.from_json(request["report"])
        model = LanguageModel(request["url"], request["model"], request["key"])
        answered, complaints = write_report(model, report.lesion_type, report.organ, request["organ_size_mm"], report)
        return {"report": answered.to_json(), "complaints": complaints}

    def import_released(self, request: Mapping, say: Say, should_stop: ShouldStop) -> dict[str, Any]:
        """``lmnet``, ``linet``, ``vocabulary`` (or None), ``folder``: a bundle from the authors' checkpoints."""
        from LesionDiffusionLib.released.importer import ImportOptions, Sources, import_released

        vocabulary = request["vocabulary"] and Path(request["vocabulary"])
        sources = Sources(Path(request["lmnet"]), Path(request["linet"]), None, vocabulary)
        imported = import_released(sources, Path(request["folder"]), ImportOptions())
        return {
            "name": imported.bundle.manifest.name,
            "folder": str(imported.bundle.folder),
            "evidence": list(imported.evidence),
            "warnings": list(imported.warnings),
        }

    def devices(self, request: Mapping, say: Say, should_stop: ShouldStop) -> dict[str, Any]:
        """The devices and their free memory now."""
        return {"devices": devices(ask_memory=True)}

    def forget_models(self) -> None:
        """Free the networks' memory: after it was full, and before others are loaded."""
        self._key = self._models = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _loaded(self, bundle: str, device: str, say: Say) -> Models:
        target = resolve_device(device)
        if self._key != (bundle, str(target)):
            self.forget_models()
            say("progress", stage="load", step=0, total=1)
            with clear_memory_errors(target):
                self._models = load_models(open_bundle(bundle), target)
            self._key = (bundle, str(target))
        return self._models


JOBS = ("synthesize", "place", "save", "ask_model", "import_released", "devices")


def devices(ask_memory: bool) -> list[dict[str, Any]]:
    """Name, description and (GPUs) free and total memory in MiB of every device; None where it is not known.

    Asking takes memory of every GPU, see `gpu_memory`, so it is done only for who wants to know.
    """
    told = []
    for name in available_devices():
        device = torch.device(name)
        memory = (gpu_memory(device) if ask_memory else None) or (None, None)
        free_mib, total_mib = (None if n is None else n // 2**20 for n in memory)
        described = {"name": name, "description": describe_device(device)}
        told.append(described | {"free_mib": free_mib, "total_mib": total_mib})
    return told


@contextlib.contextmanager
def _volume(data: Mapping) -> Iterator[Volume]:
    shared = SharedVolume.from_json(data)
    with attach(shared.address) as block:
        block.array.setflags(write=False)
        yield Volume(block.array, shared.geometry)


@contextlib.contextmanager
def _patient(request: Mapping) -> Iterator[tuple[Volume, OrganMap]]:
    with _volume(request["ct"]) as ct, _volume(request["organs"]) as labels:
        yield ct, OrganMap(labels, {int(number): name for number, name in request["table"].items()})


def _wish(order: Order, shape: tuple[int, int, int]) -> Wish:
    if order.lesion is None:
        return Wish(order.report, order.box)
    box, drawn = order.lesion
    mask = np.zeros(shape, bool, order="F")
    mask[box.slices] = drawn
    return Wish(order.report, mask=mask)
