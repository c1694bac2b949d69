"""Section "Result": before and after, what was asked for and measured, candidates, undo, edited masks, saving."""

from __future__ import annotations

import re
from pathlib import Path

import qt
from slicer.i18n import tr as _

from LesionDiffusionLib.case import Measurement
from LesionDiffusionLib.errors import LesionDiffusionError
from LesionDiffusionLib.extension.mrml import display
from LesionDiffusionLib.extension.mrml.lesions import (
    Lesion,
    input_of,
    is_result,
    lesions,
    segmentation_of,
    stamp,
)
from LesionDiffusionLib.extension.mrml.placement import box_center_world
from LesionDiffusionLib.extension.mrml.segment_editor import open_segment
from LesionDiffusionLib.extension.panel.combos import chosen, fill, on_choice
from LesionDiffusionLib.extension.panel.session import Session


class ResultSection:
    """Works on the lesions of the node's result; the text nodes in the scene are all it knows of them."""

    def __init__(self, session: Session) -> None:
        self._session, self._ui = session, session.ui
        self._lesions: list[Lesion] = []
        self._stamp: tuple = ()
        self._layout: int | None = None  # to go back to from the histogram
        self._shown_fade: float | None = None
        self._ui.measureTable.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
        self._ui.measureTable.verticalHeader().setVisible(False)
        self._ui.resultSelector.addAttribute("vtkMRMLScalarVolumeNode", "LesionDiffusion.synthetic", "true")
        on_choice(self._ui.lesionCombo, lambda _value: self._chose_lesion())
        clicks = {
            "blinkButton": self.blink,
            "chooseButton": self._choose,
            "histogramButton": self._show_histogram,
            "editMaskButton": self._edit_mask,
            "inpaintButton": self._inpaint,
            "undoButton": self._undo,
            "saveButton": self._save,
        }
        for name, slot in clicks.items():
            getattr(self._ui, name).clicked.connect(slot)

    def refresh(self) -> None:
        """Show the node's result."""
        self._read()
        index, count, idle = self._index(), len(self._lesions), not self._session.busy
        items = [(f"{n}: {lesion.patch.report.describe()}", str(n - 1)) for n, lesion in enumerate(self._lesions, 1)]
        fill(self._ui.lesionCombo, items or [(_("none"), "")], "" if index is None else str(index))
        self._show_measurements([] if index is None else list(self._lesions[index].patch.measurements))
        self._show_candidates(idle)
        for name in ("fadeSlider", "blinkButton", "histogramButton", "lesionCombo", "addToResultCheckBox"):
            getattr(self._ui, name).enabled = count > 0
        for name in ("editMaskButton", "inpaintButton", "undoButton", "saveButton"):
            getattr(self._ui, name).enabled = count > 0 and idle
        self._fade()

    def show_newest(self) -> None:
        """The lesions changed: show the newest one in the views."""
        if self._session.node is not None:
            self._stamp = ()
            self._read()
            self.refresh()
            self._ui.lesionCombo.setCurrentIndex(len(self._lesions) - 1)
            self._chose_lesion()

    def blink(self) -> None:
        """Switch between before and after."""
        if self._lesions:
            self._session.node.fade = 0.0 if self._session.node.fade > 0 else 100.0

    def release(self) -> None:
        """Let go of the scene."""
        self._lesions, self._stamp, self._shown_fade = [], (), None
        self._hide_histogram()
        self._session.synthesizer.forget_candidates()

    def _read(self) -> None:
        result = self._session.node.resultVolume
        now = stamp(result) if is_result(result) else ()
        if now != self._stamp:
            self._stamp = now
            try:
                self._lesions = lesions(result) if now else []
            except LesionDiffusionError as error:
                self._lesions = []
                self._session.say(str(error), good=False)

    def _index(self) -> int | None:
        """Of the lesion that is shown."""
        if not self._lesions:
            return None
        value = chosen(self._ui.lesionCombo)
        return int(value) if value.isdigit() and int(value) < len(self._lesions) else len(self._lesions) - 1

    def _show_layers(self) -> None:
        result, share = self._session.node.resultVolume, self._session.node.fade / 100
        display.show_before_after(input_of(result), result, share)

    def _fade(self) -> None:
        fade = self._session.node.fade
        if self._lesions and self._shown_fade not in (None, fade):
            self._show_layers()
        self._shown_fade = fade

    def _chose_lesion(self) -> None:
        if self._lesions:
            self._show_layers()
            self._show_lesion()

    def _show_lesion(self) -> None:
        index = self._index()
        if index is not None:
            result = self._session.node.resultVolume
            with self._session.attempt():
                display.jump_to(box_center_world(self._lesions[index].patch.lesion_box, result))
            if self._ui.histogramButton.checked:
                display.fill_histogram(self._lesions[index].histogram)
        self.refresh()

    def _show_measurements(self, measurements: list[Measurement]) -> None:
        table = self._ui.measureTable
        table.setRowCount(len(measurements))
        fits = {True: _("yes"), False: _("no"), None: _("unknown")}
        for row, m in enumerate(measurements):
            for column, text in enumerate((m.attribute, m.requested, m.measured, fits[m.fits])):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(text)
                table.setItem(row, column, item)

    def _show_candidates(self, idle: bool) -> None:
        synthesizer = self._session.synthesizer
        items = []
        for number, candidate in enumerate(synthesizer.candidates):
            share = round(100 * candidate.patch.share_fitting)
            items.append((_("lesion {number}: {share} % fit").format(number=number + 1, share=share), str(number)))
        several = len(items) > 1
        value = chosen(self._ui.candidateCombo)
        if value not in [v for _text, v in items]:
            value = str(synthesizer.chosen) if several else ""
        fill(self._ui.candidateCombo, items if several else [(_("only one was made"), "")], value if several else "")
        self._ui.candidateCombo.enabled = several and idle
        self._ui.chooseButton.enabled = several and idle and value != str(synthesizer.chosen)

    def _choose(self) -> None:
        with self._session.attempt():
            self._session.synthesizer.choose(int(chosen(self._ui.candidateCombo)))
            self._session.say(_("The candidate was put in place."))

    def _show_histogram(self) -> None:
        index = self._index()
        if not self._ui.histogramButton.checked or index is None:
            self._hide_histogram()
            return
        self._layout = display.show_histogram(display.fill_histogram(self._lesions[index].histogram))

    def _hide_histogram(self) -> None:
        self._ui.histogramButton.checked = False
        if self._layout is not None:
            display.restore_layout(self._layout)
        self._layout = None

    def _edit_mask(self) -> None:
        result = self._session.node.resultVolume
        open_segment(segmentation_of(result), self._lesions[-1].segment_id, result)

    def _inpaint(self) -> None:
        with self._session.attempt():
            if self._session.have_packages():
                self._session.synthesizer.inpaint_drawn(self._session.node, self._session.settings.device)

    def _undo(self) -> None:
        index = self._index()
        with self._session.attempt():
            self._session.synthesizer.undo(self._session.node.resultVolume, index)
            self._session.say(_("The lesion was taken out; its voxels are as before."))

    def _save(self) -> None:
        index, result = self._index(), self._session.node.resultVolume
        parent = self._session.dialogs.folder(_("Folder for the case"))
        if not parent:
            return
        folder = Path(parent) / case_name(result.GetName(), index)
        force = folder.exists()
        question = _("{folder} exists already. Replace the case in it?").format(folder=folder)
        if force and not self._session.dialogs.confirm(question):
            return
        with self._session.attempt():
            if self._session.have_packages():
                self._session.synthesizer.save(result, index, folder, force)


def case_name(volume: str, index: int) -> str:
    """A folder's name for lesion ``index`` of a volume, safe on every system."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', volume).strip('_')}_lesion{index + 1}"
