"""Section "Model and sampling", the Apply button that becomes Cancel, progress, status and log."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from slicer.i18n import tr as _

from LesionDiffusionLib.bundle_folders import installed_bundles, summarize
from LesionDiffusionLib.errors import LesionDiffusionError
from LesionDiffusionLib.extension.errands import State
from LesionDiffusionLib.extension.panel.combos import Item, fill, on_choice
from LesionDiffusionLib.extension.panel.session import Session
from LesionDiffusionLib.extension.parameters import MAX_SEED
from LesionDiffusionLib.extension.patient import obstacle


class RunSection:
    """One button starts and stops; its tooltip says why it is off."""

    def __init__(self, session: Session) -> None:
        self._session, self._ui = session, session.ui
        on_choice(self._ui.modelCombo, lambda name: setattr(session.node, "bundle", name))
        on_choice(self._ui.deviceCombo, lambda name: session.settings.set("device", name))
        self._ui.diceButton.clicked.connect(self._dice)
        self._ui.devicesButton.clicked.connect(self._find_devices)
        self._ui.applyButton.clicked.connect(self._apply_or_cancel)

    def refresh(self) -> None:
        """Show the node's settings and what the worker does."""
        session, node = self._session, self._session.node
        fill(self._ui.modelCombo, _models(), node.bundle)
        fill(self._ui.deviceCombo, _devices(session.devices), session.settings.device)
        self._ui.devicesButton.enabled = not session.busy
        self._show_state(session.synthesizer.errands.state)

    def progress(self, share: float, text: str) -> None:
        """Show how far a job is."""
        self._ui.progressBar.value = round(1000 * share)
        self._ui.statusLabel.text = text

    def log(self, line: str) -> None:
        """Add a line to the log."""
        self._ui.logEdit.appendPlainText(line)

    def _show_state(self, state: State) -> None:
        hindered = obstacle(self._session.node) if state == State.IDLE else None
        texts = {State.IDLE: _("Apply"), State.RUNNING: _("Cancel"), State.CANCELLING: _("Cancelling...")}
        tips = {
            State.IDLE: _("Make the lesion."),
            State.RUNNING: _("Stop within one diffusion step; nothing is changed."),
            State.CANCELLING: _("Waiting for the end of the current step."),
        }
        self._ui.applyButton.text = texts[state]
        self._ui.applyButton.enabled = hindered is None and state != State.CANCELLING
        self._ui.applyButton.toolTip = hindered or tips[state]
        self._ui.progressBar.visible = state != State.IDLE

    def _apply_or_cancel(self) -> None:
        session = self._session
        if session.busy:
            session.synthesizer.errands.cancel()
        else:
            with session.attempt():
                if session.have_packages():
                    session.synthesizer.synthesize(session.node, session.settings.device)
        self.refresh()

    def _dice(self) -> None:
        self._session.node.seed = random.randrange(1, MAX_SEED)

    def _find_devices(self) -> None:
        with self._session.attempt():
            if self._session.have_packages():
                self._session.synthesizer.find_devices()
        self.refresh()


def _models() -> list[Item]:
    return [(_title(folder), name) for name, folder in installed_bundles().items()]


def _title(folder) -> str:
    try:
        summary = summarize(folder)
    except LesionDiffusionError:
        return _("{name} (damaged)").format(name=folder.name)
    return f"{summary.name}: {summary.title}"


def _devices(found: Sequence[Mapping[str, Any]]) -> list[Item]:
    items = [(_("automatic"), "auto")]
    for device in found or [{"name": "cpu", "description": _("processor (slow for large models)"), "free_mib": None}]:
        free = device["free_mib"]
        memory = "" if free is None else _(", {free:.1f} GiB free").format(free=free / 1024)
        items.append((f"{device['name']}: {device['description']}{memory}", device["name"]))
    return items
