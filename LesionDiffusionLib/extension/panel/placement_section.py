"""Section "Place": a box by click, at the crosshair, round a segment or by the rule; its outline tells its state."""

from __future__ import annotations

import numpy as np
import slicer
from slicer.i18n import tr as _

from LesionDiffusionLib.errors import LesionDiffusionError
from LesionDiffusionLib.extension.form import usual_size_mm
from LesionDiffusionLib.extension.mrml.geometry import volume_geometry
from LesionDiffusionLib.extension.mrml.organs import segment_box, segments
from LesionDiffusionLib.extension.mrml.picking import PointPicker
from LesionDiffusionLib.extension.mrml.placement import (
    BoxState,
    add_roi,
    box_state,
    crosshair_world,
    set_roi,
    show_state,
    start_placing,
)
from LesionDiffusionLib.extension.panel.combos import chosen, fill
from LesionDiffusionLib.extension.panel.session import Session
from LesionDiffusionLib.extension.parameters import Placement, size_in
from LesionDiffusionLib.extension.patient import box_in, bundle_summary, ct_of, segments_of
from LesionDiffusionLib.geometry import Box, axes_to_size
from LesionDiffusionLib.report import format_size


class PlacementSection:
    """The buttons make or move the chosen ROI; the user may also drag it in a view."""

    def __init__(self, session: Session) -> None:
        self._session, self._ui = session, session.ui
        self._picker = PointPicker()
        self._ui.clickButton.clicked.connect(self._pick)
        self._ui.crosshairButton.clicked.connect(lambda: self._center(crosshair_world()))
        self._ui.randomButton.clicked.connect(self._random)
        self._ui.fitButton.clicked.connect(self._fit)
        self._ui.roiSelector.nodeAddedByUser.connect(self._draw)

    def tick(self) -> None:
        """Take a point that was clicked."""
        point = self._picker.take()
        if point is not None:
            self._center(point)
        if self._ui.clickButton.checked != self._picker.active:
            self._ui.clickButton.checked = self._picker.active

    def refresh(self) -> None:
        """Show the node's box and its state."""
        node = self._session.node
        found = [] if node.organSegmentation is None else segments(node.organSegmentation)
        fill(self._ui.fitCombo, [(_("choose a segment"), ""), *((s.name, s.id) for s in found)], self._fitted(found))
        ready = node.inputVolume is not None
        for button in (self._ui.clickButton, self._ui.crosshairButton):
            button.enabled = ready
        self._ui.fitButton.enabled = ready and bool(found)
        self._ui.randomButton.enabled = ready and bool(found) and not self._session.busy
        self._ui.roiSelector.enabled = node.placement == Placement.BOX
        self._ui.boxStateLabel.text = text = self._state()
        self._ui.boxStateLabel.visible = bool(text)

    def release(self) -> None:
        """Let go of the scene."""
        self._picker.cancel()

    def _fitted(self, found: list) -> str:
        value = chosen(self._ui.fitCombo)
        return value if value in [segment.id for segment in found] else ""

    def _state(self) -> str:
        """Color the outline; what to tell about it."""
        node = self._session.node
        try:
            box = box_in(node)
        except LesionDiffusionError as error:
            return str(error)
        summary = bundle_summary(node)
        if box is None or summary is None:
            return ""
        geometry, organ = volume_geometry(ct_of(node)), None
        if node.organSegmentation is not None and node.organ and (ids := segments_of(node, node.organ)):
            organ = node.organSegmentation, ids
        try:
            state = box_state(box, geometry, organ, summary.largest_lesion_mm)
        except LesionDiffusionError as error:  # the segmentation may lie under a transform that is not linear
            return str(error)
        show_state(node.roi, state)
        size = format_size(axes_to_size(geometry, box.size_mm(geometry)))
        told = {
            BoxState.FINE: _("The box is {size}."),
            BoxState.LEAVES_ORGAN: _("The box is {size} and leaves the {organ}; the lesion may, too."),
            BoxState.OUTSIDE_VOLUME: _("The box is {size} and reaches outside the CT."),
            BoxState.TOO_LARGE: _("The box is {size}, larger than this model takes ({limit})."),
        }
        limit = format_size(summary.largest_lesion_mm)
        return told[state].format(size=size, organ=node.organ, limit=limit)

    def _pick(self) -> None:
        if self._picker.active:
            self._picker.cancel()
        else:
            self._picker.start()
            self._session.say(_("Click into a slice view where the lesion should be."))

    def _draw(self, roi: slicer.vtkMRMLMarkupsROINode | None) -> None:
        """The user made a new box in the selector: it is there to be drawn."""
        if roi is not None:
            start_placing(roi)
            self._session.say(_("Click into a slice view: the two ends of the box's diagonal."))

    def _center(self, point_world: np.ndarray) -> None:
        from LesionDiffusionLib.placement import box_at  # loads scipy, which opening the panel should not wait for

        node = self._session.node
        size_mm = size_in(node) if node.sizeStated else usual_size_mm(node.lesionType)
        with self._session.attempt():
            geometry = volume_geometry(ct_of(node))
            self._place(box_at(tuple(map(float, point_world)), size_mm, geometry))

    def _fit(self) -> None:
        node, segment_id = self._session.node, chosen(self._ui.fitCombo)
        with self._session.attempt():
            if segment_id:
                self._place(segment_box(node.organSegmentation, segment_id, ct_of(node)))

    def _random(self) -> None:
        with self._session.attempt():
            if self._session.have_packages():
                self._session.synthesizer.place(self._session.node, self._place)

    def _place(self, box: Box) -> None:
        node = self._session.node
        if node is None or ct_of(node) is None:
            return
        roi = node.roi or add_roi("Lesion box")
        set_roi(roi, box, volume_geometry(ct_of(node)))
        node.roi, node.placement = roi, Placement.BOX
