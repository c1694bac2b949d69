"""Slicer's door to LesionDiffusion: describe a lesion, place it, press Apply. The work is done in LesionDiffusionLib.

The library and the resources lie beside this folder in the source tree (they also serve without Slicer), and beside
this file in an installation. Nothing here imports torch, installs packages or uses the network.
"""

from __future__ import annotations

import sys
import unittest
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

HERE = Path(__file__).resolve().parent
HOME = HERE if (HERE / "LesionDiffusionLib").is_dir() else HERE.parent
if str(HOME) not in sys.path:
    sys.path.insert(0, str(HOME))
if "LesionDiffusion" in getattr(slicer, "selfTests", {}):  # this is a reload: take the library along
    for name in [name for name in sys.modules if name.partition(".")[0] == "LesionDiffusionLib"]:
        del sys.modules[name]

from LesionDiffusionLib.extension.dependencies import require_packages  # noqa: E402 - after the path
from LesionDiffusionLib.extension.errands import Errands, Listener  # noqa: E402
from LesionDiffusionLib.extension.mrml.lesions import Lesion, lesions  # noqa: E402
from LesionDiffusionLib.extension.panel.panel import TICK_MS, Panel  # noqa: E402
from LesionDiffusionLib.extension.parameters import LesionDiffusionParameterNode  # noqa: E402
from LesionDiffusionLib.extension.patient import bundle_summary, first_ct, require_ready  # noqa: E402
from LesionDiffusionLib.extension.startup import register_data  # noqa: E402
from LesionDiffusionLib.extension.synthesizer import Synthesizer  # noqa: E402
from LesionDiffusionLib.resources import resource_path  # noqa: E402

DOCUMENTATION = "https://github.com/LesionDiffusion/SlicerLesionDiffusion/blob/main/docs/extension.md"


class LesionDiffusion(ScriptedLoadableModule):
    """What Slicer shows of the module."""

    def __init__(self, parent) -> None:
        super().__init__(parent)
        self.parent.title = _("Lesion Diffusion")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        self.parent.dependencies = ["Segmentations", "Markups", "Volumes", "Terminologies", "SubjectHierarchy", "Plots"]
        self.parent.contributors = ["The LesionDiffusion developers"]
        self.parent.helpText = _(
            "Puts a described lesion into a copy of a CT: choose the CT and a segmentation of its organs, describe the "
            'lesion, place it, press Apply. Research use only, not for diagnosis. See the <a href="{link}">'
            "documentation</a>."
        ).format(link=DOCUMENTATION)
        self.parent.acknowledgementText = _(
            "An independent implementation of the method of Lei, Tian, Dai et al., LesionDiffusion: Towards "
            "Text-controlled General Lesion Synthesis (MICCAI 2025). MIT license."
        )
        self.parent.icon = qt.QIcon(self.resourcePath("Icons/LesionDiffusion.png"))
        slicer.app.connect("startupCompleted()", register_data)

    def resourcePath(self, filename: str) -> str:
        """The resources may lie beside the module's folder."""
        return str(resource_path(filename))


class LesionDiffusionWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Holds the panel and tells it of the scene."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None
        self._timer = None
        self._blinkKey = None

    def resourcePath(self, filename: str) -> str:
        """The resources may lie beside the module's folder."""
        return str(resource_path(filename))

    def setup(self) -> None:
        """Called when the user opens the module for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/LesionDiffusion.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = LesionDiffusionLogic()
        self.panel = Panel(self.ui, self.logic.synthesizer)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartImportEvent, self.onSceneStartImport)
        # After the node selectors, which list the new nodes at this event.
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport, priority=-1.0)
        self._blinkKey = qt.QShortcut(qt.QKeySequence("X"), uiWidget)
        self._blinkKey.setContext(qt.Qt.ApplicationShortcut)
        self._blinkKey.setEnabled(self.parent.isEntered)  # a reload does not call enter()
        self._blinkKey.connect("activated()", self.panel.blink)
        self._timer = qt.QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.connect("timeout()", self.panel.tick)
        self._timer.start()
        self.initializeParameterNode()

    def enter(self) -> None:
        """Called each time the user opens this module."""
        self.initializeParameterNode()
        self._blinkKey.setEnabled(True)

    def exit(self) -> None:
        """Called each time the user opens another module; a job goes on."""
        self._blinkKey.setEnabled(False)

    def cleanup(self) -> None:
        """Called when Slicer ends or the module is reloaded."""
        self.removeObservers()
        if self.panel is not None:
            self._timer.stop()
            self.panel.close()

    def onSceneStartClose(self, caller, event) -> None:
        """The parameter node is about to go."""
        self.panel.set_node(None)

    def onSceneEndClose(self, caller, event) -> None:
        """Begin anew if the panel is shown."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneStartImport(self, caller, event) -> None:
        """The node selectors are emptied and filled again while a scene is read: they must not write what they show."""
        self.panel.disconnect_gui()

    def onSceneEndImport(self, caller, event) -> None:
        """A fresh wrapper, because an old one does not learn of nodes that came after the parameter node."""
        if self.panel.session.node is not None:
            self.panel.set_node(self.logic.getParameterNode())

    def initializeParameterNode(self) -> None:
        """Make sure that there are choices to show, with the first CT and segmentation as a start."""
        node = self.panel.session.node or self.logic.getParameterNode()
        if node.inputVolume is None:
            node.inputVolume = first_ct()
        if node.organSegmentation is None:
            node.organSegmentation = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
        if self.panel.session.node is None:
            self.panel.set_node(node)


class LesionDiffusionLogic(ScriptedLoadableModuleLogic):
    """Lesions without the panel, from the Python console or a script.

    Example, with a CT and a segmentation of its organs in the scene::

        from LesionDiffusion import LesionDiffusionLogic
        logic = LesionDiffusionLogic()
        wish = logic.getParameterNode()
        wish.inputVolume = getNode("CT")
        wish.organSegmentation = getNode("organs")
        wish.lesionType, wish.density, wish.seed = "liver cyst", "fluid-like", 3
        result = logic.run(wish)
        for m in logic.lesions(result)[-1].patch.measurements:
            print(m.attribute, m.requested, m.measured, m.fits)
        logic.stop()
    """

    def __init__(self, errands: Errands | None = None) -> None:
        super().__init__()
        self.synthesizer = Synthesizer(errands)

    def getParameterNode(self) -> LesionDiffusionParameterNode:
        """The choices of the scene; see `LesionDiffusionParameterNode` for all of them."""
        return LesionDiffusionParameterNode(super().getParameterNode())

    def run(
        self, wish: LesionDiffusionParameterNode, device: str = "auto", progress=lambda share, text: None
    ) -> slicer.vtkMRMLScalarVolumeNode:
        """Make a lesion and wait for it.

        Args:
            wish: what to make.
            device: "auto", "cpu", "cuda", "cuda:N", "mps".
            progress: called with a share from 0 to 1 and a text.

        Returns:
            The volume with the lesion; it is also ``wish.resultVolume``.

        Raises:
            LesionDiffusionError: says what is missing or wrong, Python packages included; nothing is installed here.
        """
        require_ready(wish)
        require_packages(bundle_summary(wish).encoder)
        errands = self.synthesizer.errands
        previous, errands.listener = errands.listener, Listener(progress=progress)
        try:
            self.synthesizer.synthesize(wish, device)
            errands.finish()
        finally:
            errands.listener = previous
        return wish.resultVolume

    def lesions(self, result: slicer.vtkMRMLScalarVolumeNode) -> list[Lesion]:
        """The lesions of a result, in the order in which they were made."""
        return lesions(result)

    def stop(self) -> None:
        """End the worker process; it starts again when needed."""
        self.synthesizer.errands.stop()


class LesionDiffusionTest(ScriptedLoadableModuleTest):
    """The whole job in a real Slicer: phantom, starter bundle, worker process, result, undo."""

    def setUp(self) -> None:
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """What "Reload and Test" runs: it knows no skip, and would show one as a failure."""
        try:
            super().runTest()
        except unittest.SkipTest as reason:
            self.delayDisplay(str(reason), 5000)

    def test_lesion_from_the_console(self) -> None:
        """What a script does."""
        from LesionDiffusionLib.extension.selftest import make_lesion

        make_lesion(LesionDiffusionLogic())

    def test_lesion_from_the_panel(self) -> None:
        """What a user does."""
        from LesionDiffusionLib.extension.selftest import use_panel

        if slicer.util.mainWindow() is None:
            self.skipTest("SKIPPED, not passed: there is no main window")
        use_panel(slicer.modules.lesiondiffusion.widgetRepresentation().self())
