"""What the panel and its worker process say to each other: one JSON object a line, each way.

A request has an ``id`` and says what to ``do``; see `worker_jobs.JOBS` for the jobs and what they need. The worker
answers with events that carry the request's id:

    ready      versions and devices; sent once, when the worker can take requests (no id)
    progress   ``step`` of ``total`` of a ``stage`` is done
    preview    a finished candidate of a synthesis, while others may still be under way
    result     the job is done
    error      ``kind`` (name of the error class, or "bug"), ``message``, and ``trace`` for a bug
    cancelled  the job was stopped as asked

``{"do": "cancel", "id": n}`` stops request n; closing its stdin ends the worker. Volumes travel as shared memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from LesionDiffusionLib.geometry import Box, Geometry
from LesionDiffusionLib.lesion_patch import pack, unpack
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.shared_arrays import Address

FINAL = ("result", "error", "cancelled")


def encode(message: Mapping[str, Any]) -> bytes:
    """One line of UTF-8 JSON with its line end."""
    return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any] | None:
    """The message of a line; None for anything else that a process may print."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and ("do" in message or "event" in message) else None


@dataclass(frozen=True)
class SharedVolume:
    """A volume in shared memory: where its voxels are, and where they lie in the patient."""

    address: Address
    geometry: Geometry

    def to_json(self) -> dict:
        return {"voxels": self.address.to_json(), "affine_ras": self.geometry.affine_ras.tolist()}

    @classmethod
    def from_json(cls, data: Mapping) -> SharedVolume:
        address = Address.from_json(data["voxels"])
        return cls(address, Geometry(address.shape, np.array(data["affine_ras"])))


@dataclass(frozen=True, eq=False)
class Order:
    """What to synthesize, and how; the CT and the organ map travel beside it.

    Attributes:
        report: stated attributes; the rest is drawn.
        box: where, on the CT's grid; None: by the rule of the region.
        lesion: a mask drawn by hand, as its tight box and the mask (bool) in it; then ``box`` is None.
        settings: seed, sampler, steps, guidance, candidates; see `run.Settings`.
        bundle: name or folder of the models.
        device: "auto", "cpu", "cuda:N", "mps".
    """

    report: LesionReport
    box: Box | None = None
    lesion: tuple[Box, np.ndarray] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    bundle: str = "starter"
    device: str = "auto"

    def to_json(self) -> dict:
        drawn = self.lesion and {"box": str(self.lesion[0]), "mask": pack(self.lesion[1])}
        return {
            "report": self.report.to_json(),
            "box": None if self.box is None else str(self.box),
            "lesion": drawn,
            "settings": dict(self.settings),
            "bundle": self.bundle,
            "device": self.device,
        }

    @classmethod
    def from_json(cls, data: Mapping) -> Order:
        lesion = None
        if data["lesion"]:
            lesion_box = Box.parse(data["lesion"]["box"])
            lesion = lesion_box, unpack(data["lesion"]["mask"], lesion_box.shape)
        box = None if data["box"] is None else Box.parse(data["box"])
        report = LesionReport.from_json(data["report"])
        return cls(report, box, lesion, data["settings"], data["bundle"], data["device"])
