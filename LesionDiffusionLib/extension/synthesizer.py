"""Scene and worker joined, without any widget: panel, Python console and headless scripts all come through here.

Each job returns at once; `Errands.poll` or `Errands.wait` does the rest. The scene is touched when a lesion is done,
and not before.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from LesionDiffusionLib.errors import PlacementError, VolumeError
from LesionDiffusionLib.extension.errands import Errand, Errands
from LesionDiffusionLib.extension.mrml.geometry import volume_geometry, voxels
from LesionDiffusionLib.extension.mrml.lesions import (
    Lesion,
    add_lesion,
    create_result,
    drawn_mask,
    input_of,
    lesions,
    remove_lesion,
    source_file,
    voxels_before,
)
from LesionDiffusionLib.extension.parameters import LesionDiffusionParameterNode, report_in, settings_in
from LesionDiffusionLib.extension.patient import adds_to_result, box_in, ct_of, lend
from LesionDiffusionLib.extension.progress import RunProgress
from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.lesion_patch import LesionPatch
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.shared_arrays import share
from LesionDiffusionLib.worker_protocol import Order, SharedVolume

Node = LesionDiffusionParameterNode
Result = slicer.vtkMRMLScalarVolumeNode


@dataclass(frozen=True, eq=False)
class Candidate:
    """A lesion that was made, and its histogram."""

    patch: LesionPatch
    histogram: Mapping[str, Any]


class Synthesizer:
    """Makes lesions and puts them into the scene.

    Attributes:
        errands: the worker.
        candidates: of the last synthesis; number ``chosen`` is the last lesion of the volume ``result``.
    """

    def __init__(self, errands: Errands | None = None) -> None:
        self.errands = errands or Errands()
        self.candidates: list[Candidate] = []
        self.chosen: int | None = None
        self.result: Result | None = None

    def synthesize(self, node: Node, device: str = "auto") -> None:
        """Make a lesion as the node says, and put it into a new result, or into the node's.

        Raises:
            LesionDiffusionError: the patient cannot be used; see `patient.lend`.
        """
        ct, into_result = ct_of(node), adds_to_result(node)
        order = Order(report_in(node), box_in(node), None, settings_in(node), node.bundle, device)
        self._order(node, ct, order, lambda: ct if into_result else create_result(ct))

    def inpaint_drawn(self, node: Node, device: str = "auto") -> None:
        """Make the last lesion of the node's result again, in its segment as the user has edited it.

        Raises:
            VolumeError: the segment is empty or gone, or there is no lesion.
        """
        result = node.resultVolume
        held = [] if result is None else lesions(result)
        if not held:
            raise VolumeError("there is no lesion whose mask could be edited; make one first")
        index = len(held) - 1
        report = dataclasses.replace(held[index].patch.report, size_mm=None)  # the mask has its own
        settings = settings_in(node) | {"candidates": 1}
        order = Order(report, None, drawn_mask(result, index), settings, node.bundle, device)

        def make_room() -> Result:
            remove_lesion(result, index)
            return result

        self._order(node, result, order, make_room, lambda out: voxels_before(result, index, out))

    def place(self, node: Node, placed: Callable[[Box], None]) -> None:
        """Draw a place by the rule of the region: the one that `synthesize` would use with this seed."""
        order = Order(report_in(node), None, None, settings_in(node), node.bundle)
        blocks, content = lend(node, ct_of(node))

        def done(result: Mapping[str, Any]) -> str:
            placed(Box.parse(result["box"]))
            return " ".join(["A box was placed.", *(f"Note: {warning}." for warning in result["warnings"])])

        self.errands.begin(Errand("place", content | {"order": order.to_json()}, done, blocks))

    def save(self, result: Result, index: int, folder: Path, force: bool = False) -> None:
        """Save a lesion as the command line does: the CT with it and all earlier lesions, mask, report and proof."""
        lesion, geometry = lesions(result)[index], volume_geometry(result)
        block = share(geometry.shape, voxels(result).dtype)
        voxels_before(result, index, block.array)
        ct = input_of(result) if index == 0 else None
        content = {
            "before": SharedVolume(block.address, geometry).to_json(),
            "patch": lesion.patch.to_json(),
            "source": "" if ct is None else source_file(ct),
            "folder": str(folder),
            "force": force,
        }
        self.errands.begin(Errand("save", content, lambda told: f"Saved in {told['folder']}", [block]))

    def ask_model(
        self,
        report: LesionReport,
        organ_size_mm: tuple[float, float, float] | None,
        model: Mapping[str, str],
        filled: Callable[[LesionReport], None],
    ) -> None:
        """Let a language model complete a report; ``model`` holds url, model and key."""

        def done(result: Mapping[str, Any]) -> str:
            filled(LesionReport.from_json(result["report"]))
            return "The language model has filled in the form."

        content = {"report": report.to_json(), "organ_size_mm": organ_size_mm, **model}
        self.errands.begin(Errand("ask_model", content, done))

    def import_released(self, files: Mapping[str, str | None], folder: Path, done: Callable[[str], None]) -> None:
        """Make a bundle from the authors' checkpoints; ``files`` has lmnet, linet and vocabulary (may be None)."""

        def finish(result: Mapping[str, Any]) -> str:
            for line in (*result["evidence"], *result["warnings"]):
                self.errands.listener.log(line)
            done(result["name"])
            return f"The model {result['name']} is installed."

        self.errands.begin(Errand("import_released", {**files, "folder": str(folder)}, finish))

    def find_devices(self) -> None:
        """Ask for the devices and their free memory; the listener is told."""

        def done(result: Mapping[str, Any]) -> str:
            self.errands.listener.devices(result["devices"])
            return ""

        self.errands.begin(Errand("devices", {}, done))

    def choose(self, index: int) -> Lesion:
        """Put another candidate of the last synthesis in the place of the chosen one.

        Raises:
            PlacementError: lesions were added or undone since.
        """
        held = [] if self.result is None or not _present(self.result) else lesions(self.result)
        if not held or self.chosen is None or not _same(held[-1].patch, self.candidates[self.chosen].patch):
            raise PlacementError("these candidates are no longer in the scene; make the lesion again")
        remove_lesion(self.result, len(held) - 1)
        self.chosen = index
        candidate = self.candidates[index]
        lesion = add_lesion(self.result, candidate.patch, candidate.histogram, held[-1].patch.provenance["slicer"])
        self.errands.listener.lesions()
        return lesion

    def undo(self, result: Result, index: int) -> None:
        """Take a lesion out, bit-exactly. Raises PlacementError when a later one reaches into it."""
        remove_lesion(result, index)
        self.forget_candidates()
        self.errands.listener.lesions()

    def forget_candidates(self) -> None:
        """They can no longer be chosen from."""
        self.candidates, self.chosen, self.result = [], None, None

    def _order(
        self,
        node: Node,
        ct: Result,
        order: Order,
        make_room: Callable[[], Result],
        fill_ct: Callable[[np.ndarray], None] | None = None,
    ) -> None:
        """Send an order; ``make_room`` gives the volume to put the lesion into, once there is one."""
        blocks, content = lend(node, ct, fill_ct)
        made_of, facts, candidates = _fingerprint(ct), _facts(node, ct), []

        def preview(told: Mapping[str, Any]) -> None:
            candidates.append(Candidate(LesionPatch.from_json(told["patch"]), told["histogram"]))

        def done(told: Mapping[str, Any]) -> str:
            if _fingerprint(ct) != made_of:
                raise VolumeError("the CT was changed or removed meanwhile, so the lesion no longer fits; run again")
            result, best = make_room(), candidates[told["best"]]
            lesion = add_lesion(result, best.patch, best.histogram, facts)
            self.candidates, self.chosen, self.result = candidates, told["best"], result
            node.resultVolume = result
            self.errands.listener.lesions()
            return _told(lesion)

        progress = RunProgress(order.settings["candidates"], order.lesion is not None)
        content |= {"order": order.to_json()}
        self.errands.begin(Errand("synthesize", content, done, blocks, preview, progress))


def _present(volume: Result) -> bool:
    return bool(slicer.mrmlScene.IsNodePresent(volume))


def _same(one: LesionPatch, other: LesionPatch) -> bool:
    return one.changed_box == other.changed_box and np.array_equal(one.changed_hu, other.changed_hu)


def _fingerprint(ct: Result) -> tuple:
    """Changes when the volume's voxels or its place do, or when it leaves the scene."""
    if not _present(ct) or ct.GetImageData() is None:
        return ()
    return ct.GetImageData().GetMTime(), volume_geometry(ct).affine_ras.tobytes()


def _facts(node: Node, ct: Result) -> dict[str, Any]:
    """Provenance that only the scene knows."""
    return {
        "ct": ct.GetName(),
        "organs": node.organSegmentation.GetName(),
        "description": node.description,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "version": getattr(getattr(slicer, "app", None), "applicationVersion", ""),
    }


def _told(lesion: Lesion) -> str:
    fits = [m.fits for m in lesion.patch.measurements if m.fits is not None]
    seconds = sum(lesion.patch.provenance["seconds"].values())
    told = f"Done in {seconds:.1f} s: {sum(fits)} of {len(fits)} measured attributes fit."
    return " ".join([told, *(f"Note: {warning}." for warning in lesion.patch.warnings)])
