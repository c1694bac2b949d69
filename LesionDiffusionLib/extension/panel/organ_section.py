"""Section "Patient": the CT, the segmentation of its organs, and which segment is which organ."""

from __future__ import annotations

import qt
import slicer
from slicer.i18n import tr as _

from LesionDiffusionLib.extension import totalsegmentator
from LesionDiffusionLib.extension.mrml.organs import segments
from LesionDiffusionLib.extension.organ_matching import known_structures
from LesionDiffusionLib.extension.panel.combos import fill, on_choice
from LesionDiffusionLib.extension.panel.session import Session
from LesionDiffusionLib.extension.parameters import correct
from LesionDiffusionLib.extension.patient import matching, organs_present


class OrganSection:
    """The table shows the matching; the combo box below it corrects the selected row."""

    def __init__(self, session: Session) -> None:
        self._session, self._ui = session, session.ui
        self._rows: list[tuple[str, str]] = []  # segment id and name
        self._ui.organTable.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
        self._ui.organTable.verticalHeader().setVisible(False)
        self._ui.organTable.currentCellChanged.connect(lambda *_: self._show_selected())
        on_choice(self._ui.matchCombo, self._correct)
        self._ui.totalSegmentatorButton.clicked.connect(self._segment_organs)

    def refresh(self) -> None:
        """Show the node's patient."""
        node, table = self._session.node, self._ui.organTable
        found = matching(node)
        rows = [] if node.organSegmentation is None else [(s.id, s.name) for s in segments(node.organSegmentation)]
        if rows != self._rows:
            self._rows = rows
            table.setRowCount(len(rows))
            for row, (_id, name) in enumerate(rows):
                table.setItem(row, 0, qt.QTableWidgetItem(name))
                table.setItem(row, 1, qt.QTableWidgetItem(""))
        for row, (segment_id, _name) in enumerate(rows):
            table.item(row, 1).setText(found[segment_id])
        self._summarize(found, organs_present(node))
        self._show_selected()
        self._ui.totalSegmentatorButton.enabled = totalsegmentator.installed() and node.inputVolume is not None
        if not totalsegmentator.installed():
            tip = _('Install the extension "TotalSegmentator" (Extensions Manager) to segment the organs from here.')
            self._ui.totalSegmentatorButton.toolTip = tip

    def _summarize(self, found: dict[str, str], organs: list[str]) -> None:
        text = ""
        if found:
            text = _("{known} of {all} segments are known; organs for lesions: {organs}.")
            organs_told = ", ".join(organs) or _("none")
            text = text.format(known=sum(map(bool, found.values())), all=len(found), organs=organs_told)
        self._ui.organSummaryLabel.text = text
        self._ui.organSummaryLabel.visible = bool(text)

    def _show_selected(self) -> None:
        row, node = self._ui.organTable.currentRow(), self._session.node
        selected = 0 <= row < len(self._rows) and node is not None
        self._ui.matchCombo.enabled = selected
        if selected:
            structure = matching(node).get(self._rows[row][0], "")
            fill(self._ui.matchCombo, [(_("no organ"), ""), *((s, s) for s in known_structures())], structure)

    def _correct(self, structure: str) -> None:
        row = self._ui.organTable.currentRow()
        if 0 <= row < len(self._rows):
            correct(self._session.node, self._rows[row][0], structure)

    def _segment_organs(self) -> None:
        node = self._session.node
        question = _(
            "TotalSegmentator will segment the organs of {ct}. It may download its model, and takes minutes; "
            "Slicer does not react meanwhile. Start?"
        )
        if not self._session.dialogs.confirm(question.format(ct=node.inputVolume.GetName())):
            return
        with slicer.util.tryWithErrorDisplay(_("TotalSegmentator failed."), waitCursor=True):
            node.organSegmentation = totalsegmentator.segment(node.inputVolume)
