"""The panel: joins the sections with the scene and with the worker. A timer calls `tick`, and everything follows."""

from __future__ import annotations

from typing import Any

import slicer
import vtk

from LesionDiffusionLib.extension.errands import Listener
from LesionDiffusionLib.extension.panel.dialogs import Dialogs
from LesionDiffusionLib.extension.panel.lesion_section import LesionSection
from LesionDiffusionLib.extension.panel.organ_section import OrganSection
from LesionDiffusionLib.extension.panel.placement_section import PlacementSection
from LesionDiffusionLib.extension.panel.result_section import ResultSection
from LesionDiffusionLib.extension.panel.run_section import RunSection
from LesionDiffusionLib.extension.panel.session import Session
from LesionDiffusionLib.extension.panel.setup_section import SetupSection
from LesionDiffusionLib.extension.parameters import LesionDiffusionParameterNode
from LesionDiffusionLib.extension.settings import UserSettings
from LesionDiffusionLib.extension.synthesizer import Synthesizer

TICK_MS = 50


class Panel:
    """All sections of the form.

    Args:
        ui: the widgets of the .ui file, by name.
        synthesizer: does the work.
        settings, dialogs: others in tests.
    """

    def __init__(
        self, ui: Any, synthesizer: Synthesizer, settings: UserSettings | None = None, dialogs: Dialogs | None = None
    ) -> None:
        self.session = Session(ui, synthesizer, settings or UserSettings(), dialogs or Dialogs())
        self._run = RunSection(self.session)
        self._placement, self._result = PlacementSection(self.session), ResultSection(self.session)
        organs, lesion, setup = OrganSection(self.session), LesionSection(self.session), SetupSection(self.session)
        self._sections = (organs, lesion, self._placement, self._run, self._result, setup)
        self._watched: list[tuple[vtk.vtkObject, int]] = []
        self._gui_tag: int | None = None
        self._stale = True
        synthesizer.errands.listener = Listener(
            self._run.progress, self._run.log, self._ended, self._devices_found, self._result.show_newest
        )

    def set_node(self, node: LesionDiffusionParameterNode | None) -> None:
        """Show other choices; None lets go of the scene, and of the job that is under way for it."""
        self.disconnect_gui()
        self._watch([])
        if node is None:
            self._placement.release()
            self._result.release()
            self.session.synthesizer.errands.abandon()
        self.session.node = node
        if node is not None:
            self._gui_tag = node.connectGui(self.session.ui)
            self._stale = True
            self.refresh()

    def disconnect_gui(self) -> None:
        """Let the widgets write nothing until `set_node` is called again."""
        if self.session.node is not None and self._gui_tag is not None:
            self.session.node.disconnectGui(self._gui_tag)
            self._gui_tag = None

    def tick(self) -> None:
        """Hear the worker, and show what changed since the last time."""
        self.session.synthesizer.errands.poll(self.session.settings.idle_s)
        if self.session.node is not None:
            self._placement.tick()
            self.refresh()

    def refresh(self) -> None:
        """Show the node's choices, if anything they depend on has changed."""
        if self._stale and self.session.node is not None:
            self._stale = False
            self._watch(self._nodes())
            for section in self._sections:
                section.refresh()

    def blink(self) -> None:
        """Switch between before and after."""
        if self.session.node is not None:
            self._result.blink()

    def close(self) -> None:
        """The panel goes away: end the worker."""
        self.set_node(None)
        self.session.synthesizer.errands.stop()

    def _nodes(self) -> list[vtk.vtkObject]:
        node = self.session.node
        chosen = (node.inputVolume, node.organSegmentation, node.roi, node.resultVolume)
        return [node.parameterNode, slicer.mrmlScene, *(n for n in chosen if n is not None)]

    def _watch(self, nodes: list[vtk.vtkObject]) -> None:
        if [watched for watched, _tag in self._watched] == nodes:
            return
        for watched, tag in self._watched:
            watched.RemoveObserver(tag)
        self._watched = [(node, node.AddObserver(vtk.vtkCommand.AnyEvent, self._changed)) for node in nodes]

    def _changed(self, *_: object) -> None:
        self._stale = True

    def _ended(self, text: str, good: bool) -> None:
        if text:
            self.session.say(text, good)
            self._run.log(text)
        self._stale = True

    def _devices_found(self, devices: list[dict[str, Any]]) -> None:
        self.session.devices = devices
        self._stale = True
