"""The whole job on the phantom with the starter bundle, as `LesionDiffusionTest` runs it inside Slicer."""

from __future__ import annotations

import time
import unittest
from collections.abc import Callable
from typing import Any

import numpy as np
import slicer

from LesionDiffusionLib.bundle_folders import installed_bundles
from LesionDiffusionLib.extension.dependencies import missing_packages
from LesionDiffusionLib.extension.errands import State
from LesionDiffusionLib.extension.mrml.geometry import voxels
from LesionDiffusionLib.extension.mrml.lesions import segmentation_of
from LesionDiffusionLib.extension.mrml.phantom import add_phantom
from LesionDiffusionLib.extension.parameters import LesionDiffusionParameterNode

SPACING_MM = 4.0  # coarse: the test should be quick
PATIENCE_S = 300.0


def make_lesion(logic: Any) -> None:
    """What a script does: ask, wait, look, undo."""
    _require()
    wish = logic.getParameterNode()
    ct, before = _patient(wish)
    told: list[float] = []
    try:
        result = logic.run(wish, progress=lambda share, text: told.append(share))
        _check_result(ct, before, result, logic.lesions(result))
        assert told == sorted(told), "progress grows"
        assert len(told) > 3, "progress is told"
        logic.synthesizer.undo(result, 0)
        assert np.array_equal(voxels(result), before), "undo is bit-exact"
    finally:
        logic.stop()
    assert not logic.synthesizer.errands.client.running, "no process is left behind"


def use_panel(widget: Any) -> None:
    """What a user does: choose, click Apply, cancel, click again."""
    _require()
    widget.initializeParameterNode()
    ct, before = _patient(widget.panel.session.node)
    errands, button = widget.logic.synthesizer.errands, widget.ui.applyButton
    _wait(lambda: button.enabled, "Apply is on")
    button.click()
    assert errands.state == State.RUNNING
    button.click()
    _wait(lambda: not errands.busy, "the run is cancelled")
    assert widget.panel.session.node.resultVolume is None
    _wait(lambda: button.enabled, "Apply is on again")
    button.click()
    _wait(lambda: not errands.busy, "the lesion is made")
    assert errands.outcome[1], errands.outcome[0]
    result = widget.panel.session.node.resultVolume
    _check_result(ct, before, result, widget.logic.lesions(result))
    widget.logic.stop()


def _require() -> None:
    if "starter" not in installed_bundles():
        raise unittest.SkipTest("SKIPPED, not passed: the starter bundle is not installed")
    if missing := missing_packages():
        raise unittest.SkipTest(f"SKIPPED, not passed: Python packages are missing: {', '.join(missing)}")


def _patient(wish: LesionDiffusionParameterNode) -> tuple[Any, np.ndarray]:
    wish.inputVolume, wish.organSegmentation = add_phantom(SPACING_MM)
    wish.lesionType, wish.organ, wish.density, wish.seed = "liver cyst", "liver", "hypodense lesion", 3
    wish.sizeStated, wish.sizeX, wish.sizeY, wish.sizeZ = True, 32.0, 32.0, 32.0  # eight voxels of this coarse CT
    return wish.inputVolume, voxels(wish.inputVolume).copy()


def _check_result(ct: Any, before: np.ndarray, result: Any, lesions: list) -> None:
    assert np.array_equal(voxels(ct), before), "the input stays as it was"
    assert len(lesions) == 1
    patch, after = lesions[0].patch, voxels(result)
    outside = np.ones(after.shape, bool)
    outside[patch.changed_box.slices] = False
    assert np.array_equal(after[outside], before[outside]), "the rest of the CT is bit-identical"
    assert not np.array_equal(after, before), "the lesion is there"
    assert "SYNTHETIC" in result.GetName()
    assert segmentation_of(result).GetSegmentation().GetNumberOfSegments() == 1


def _wait(done: Callable[[], bool], what: str) -> None:
    """Let the application live until something is true."""
    end = time.monotonic() + PATIENCE_S
    while not done():
        if time.monotonic() > end:
            raise AssertionError(f"waited {PATIENCE_S:.0f} s in vain: {what}")
        slicer.app.processEvents()
        time.sleep(0.01)
