"""Section "Lesion": the report as a form, filled by hand, from words, by chance or by a language model."""

from __future__ import annotations

import numpy as np
from slicer.i18n import tr as _

from LesionDiffusionLib.errors import ReportError
from LesionDiffusionLib.extension.form import (
    ATTRIBUTES,
    Choices,
    choices,
    form_of,
    lesion_types_for,
    surprise,
    understood,
)
from LesionDiffusionLib.extension.mrml.organs import segment_extent_mm
from LesionDiffusionLib.extension.panel.combos import Item, fill, on_choice
from LesionDiffusionLib.extension.panel.session import Session
from LesionDiffusionLib.extension.parameters import (
    form_in,
    parameter_name,
    report_in,
    write_form,
    write_report,
)
from LesionDiffusionLib.extension.patient import organs_present, segments_of
from LesionDiffusionLib.report import LesionReport


class LesionSection:
    """Ten combo boxes, one an attribute; the size is bound by name in the .ui file."""

    def __init__(self, session: Session) -> None:
        self._session, self._ui = session, session.ui
        for field in ATTRIBUTES:
            on_choice(self._combo(field), lambda value, field=field: self._write(parameter_name(field), value))
        on_choice(self._ui.lesionTypeCombo, lambda value: self._write("lesionType", value))
        self._ui.descriptionEdit.returnPressed.connect(self._understand)
        self._ui.understandButton.clicked.connect(self._understand)
        self._ui.surpriseButton.clicked.connect(self._surprise)
        self._ui.askModelButton.clicked.connect(self._ask_model)
        self._ui.clearButton.clicked.connect(self._clear)

    def refresh(self) -> None:
        """Show the node's report, the plausible values first."""
        node = self._session.node
        present = organs_present(node) if node.organSegmentation is not None else None
        lesions = _items(_("any lesion"), lesion_types_for(present))
        fill(self._ui.lesionTypeCombo, lesions, node.lesionType)
        for field, value in form_in(node).items():
            items = _items(_("drawn at random"), choices(field, node.lesionType, present))
            fill(self._combo(field), items, value)
        for axis in "XYZ":
            getattr(self._ui, f"size{axis}SpinBox").enabled = node.sizeStated
        self._ui.askModelButton.enabled = not self._session.busy
        self._ui.descriptionNote.visible = bool(self._ui.descriptionNote.text)

    def _combo(self, field: str):
        return getattr(self._ui, f"{parameter_name(field)}Combo")

    def _write(self, name: str, value: str) -> None:
        setattr(self._session.node, name, value)

    def _understand(self) -> None:
        node = self._session.node
        with self._session.attempt():
            result = understood(node.description)
            form = form_of(result.report)
            write_report(node, result.report, {name: text for name, text in form.items() if text})
            self._ui.descriptionNote.text = _told(result.understood, result.not_understood)
            self._ui.descriptionNote.visible = True

    def _surprise(self) -> None:
        node = self._session.node
        present = organs_present(node) if node.organSegmentation is not None else None
        with self._session.attempt():
            self._show(surprise(node.lesionType, present, np.random.default_rng()))

    def _ask_model(self) -> None:
        model = self._session.settings.language_model()
        if not (model["url"] and model["model"]):
            self._session.say(_("enter address and model under Models and setup first"), good=False)
            return
        with self._session.attempt():
            report = report_in(self._session.node)
            if report.lesion_type is None or report.organ is None:
                raise ReportError(_("choose a lesion and an organ first; the language model completes the rest"))
            question = _("This text will be sent to {url}, and nothing else: {report}")
            told = report.describe()
            agreed = self._session.dialogs.confirm(question.format(url=model["url"], report=told))
            if agreed and self._session.have_packages():
                self._session.synthesizer.ask_model(report, self._organ_size_mm(report), model, self._show)

    def _organ_size_mm(self, report: LesionReport) -> tuple[float, float, float] | None:
        node = self._session.node
        if report.organ is None or node.organSegmentation is None:
            return None
        parts = [segment_extent_mm(node.organSegmentation, s) for s in segments_of(node, report.organ)]
        return tuple(max(extents) for extents in zip(*parts, strict=True)) if parts else None

    def _show(self, report: LesionReport) -> None:
        if self._session.node is not None:  # the scene may be gone when a language model answers
            write_report(self._session.node, report, form_of(report))

    def _clear(self) -> None:
        node = self._session.node
        write_form(node, dict.fromkeys(ATTRIBUTES, ""))
        node.lesionType, node.description, node.sizeStated = "", "", False
        self._ui.descriptionNote.text = ""


def _items(unstated: str, offered: Choices) -> list[Item | None]:
    items: list[Item | None] = [(unstated, ""), *((value, value) for value in offered.plausible)]
    if offered.plausible and offered.others:
        items.append(None)
    return [*items, *((value, value) for value in offered.others)]


def _told(found: list[tuple[str, str, str]], unknown: list[str]) -> str:
    told = []
    if found:
        words = ", ".join(f"{phrase} ({attribute})" for phrase, attribute, _value in found)
        told.append(_("Understood: {words}.").format(words=words))
    if unknown:
        told.append(_("<b>Not understood:</b> {words}.").format(words=", ".join(unknown)))
    return " ".join(told) or _("Nothing was said.")
