"""The rest of what our module asks of the Slicer application: settings, packages, base classes, the main window.

With SLICER_SOURCE set to a checkout of Slicer 5.12 its own parameter node wrapper is taken instead of the stand-in.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace


def install():
    """Put everything into place; returns (slicer, qt). Real MRML, PySide6 widgets, no application."""
    from . import pythonqt, widgets

    qt = pythonqt.install()
    import slicer

    if hasattr(slicer, "app"):
        return slicer, qt
    application = qt.QApplication.instance() or qt.QApplication([])
    application.setStyle("Fusion")
    widgets.install(slicer)
    slicer.app = SimpleNamespace(
        applicationVersion="5.12.x (stand-in)",
        applicationName="Slicer",
        connect=lambda *_: None,
        testingEnabled=lambda: False,
        processEvents=application.processEvents,
        setOverrideCursor=lambda _cursor: None,
        restoreOverrideCursor=lambda: None,
        qt_application=application,
    )
    slicer.util.mainWindow = lambda **_: None
    modules = {"i18n": _i18n(), "packaging": _packaging(), "ScriptedLoadableModule": _base_classes(slicer)}
    modules["parameterNodeWrapper"] = _parameter_node(slicer)
    for name, module in modules.items():
        sys.modules[f"slicer.{name}"] = module
        setattr(slicer, name, module)
    return slicer, qt


def _parameter_node(slicer) -> ModuleType:
    source = os.environ.get("SLICER_SOURCE")
    if source:
        for name in (
            "qMRMLRangeWidget",
            "qMRMLSliderWidget",
            "qMRMLSpinBox",
            "qMRMLCheckableNodeComboBox",
            "qSlicerWidget",
        ):
            setattr(slicer, name, type(name, (), {}))
        slicer.__path__.append(str(Path(source) / "Base" / "Python" / "slicer"))
        import slicer.parameterNodeWrapper as real

        return real
    from .parameter_node import make_module

    return make_module()


def _i18n() -> ModuleType:
    module = ModuleType("slicer.i18n")
    module.tr, module.translate = lambda text: text, lambda _context, text: text
    return module


def _packaging() -> ModuleType:
    """Finds what is installed, and installs nothing."""
    module = ModuleType("slicer.packaging")

    def load_requirements(path) -> list[str]:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.startswith(("#", "-"))]

    def pip_check(requirement: str) -> bool:
        try:
            importlib.metadata.version(requirement.partition(">")[0])
        except importlib.metadata.PackageNotFoundError:
            return False
        return True

    def pip_ensure(requirements, **_: object) -> None:
        if not all(pip_check(requirement) for requirement in requirements):
            raise RuntimeError("User declined installation")

    module.load_requirements, module.pip_check, module.pip_ensure = load_requirements, pip_check, pip_ensure
    return module


def _base_classes(slicer) -> ModuleType:
    import unittest

    module = ModuleType("slicer.ScriptedLoadableModule")

    class ScriptedLoadableModule:
        def __init__(self, parent) -> None:
            self.parent = parent

    class ScriptedLoadableModuleWidget:
        def __init__(self, parent=None) -> None:
            import qt

            super().__init__()
            self.parent = parent or slicer.qMRMLWidget()
            if self.parent.layout() is None:
                self.parent.setLayout(qt.QVBoxLayout())
            self.layout = self.parent.layout()

        def setup(self) -> None:
            pass

    class ScriptedLoadableModuleLogic:
        def __init__(self) -> None:
            self.moduleName = type(self).__name__.removesuffix("Logic")

        def getParameterNode(self):  # noqa: N802
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            if node is None:
                node = slicer.vtkMRMLScriptedModuleNode()
                node.SetSingletonTag(self.moduleName)
                node.SetAttribute("ModuleName", self.moduleName)
                node = slicer.mrmlScene.AddNode(node)
            return node

    class ScriptedLoadableModuleTest(unittest.TestCase):
        def delayDisplay(self, message, *_: object) -> None:  # noqa: N802
            print(message)

        def runTest(self) -> None:  # noqa: N802
            for name in (name for name in dir(self) if "test" in name and callable(getattr(self, name))):
                self.setUp()
                getattr(self, name)()
                self.tearDown()

    for kind in (ScriptedLoadableModule, ScriptedLoadableModuleWidget, ScriptedLoadableModuleLogic):
        setattr(module, kind.__name__, kind)
    module.ScriptedLoadableModuleTest = ScriptedLoadableModuleTest
    return module
