"""How a case came to be, in plain JSON types."""

from __future__ import annotations

import dataclasses
import platform
from typing import Any

import torch

from LesionDiffusionLib import __version__
from LesionDiffusionLib.devices import describe_device
from LesionDiffusionLib.memory import peak_memory_mib
from LesionDiffusionLib.run import Run

NOTE = "This CT contains a synthetic lesion. Research use only; not for diagnosis."


def provenance(run: Run, candidate: int) -> dict[str, Any]:
    """Software, bundle, settings, what the networks heard, device, time and memory of a run that has ended."""
    manifest, settings, plan = run.models.bundle.manifest, run.settings, run.plan
    asked_lmnet = plan.place != "mask"
    return {
        "synthetic": True,
        "note": NOTE,
        "software": {"LesionDiffusion": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "bundle": {"name": manifest.name, "sha256": dict(manifest.files)},
        "settings": {
            "seed": settings.seed,
            "candidate": candidate,
            "candidates": settings.candidates,
            "mask": dataclasses.asdict(settings.for_network(manifest.lmnet.sampling)) if asked_lmnet else None,
            "image": dataclasses.asdict(settings.for_network(manifest.linet.sampling)),
        },
        "heard": {
            "mask": run.models.mask_strings(plan.report) if asked_lmnet else None,
            "image": run.models.image_strings(plan.report),
        },
        "place": {"chosen by": plan.place, "box": str(plan.box), "region rule": plan.rule},
        "device": describe_device(run.models.device),
        "precision": run.models.precision,
        "seconds": dict(run.seconds),
        "peak_memory_mib": peak_memory_mib(run.models.device),
    }
