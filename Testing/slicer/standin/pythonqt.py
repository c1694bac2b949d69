"""PySide6 as PythonQt shows Qt: properties are attributes, and there is one flat module `qt`."""

from __future__ import annotations

import re
import sys
from types import ModuleType, SimpleNamespace

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets
from PySide6.QtCore import Property, QObject, Signal


def install() -> ModuleType:
    """Put the modules ``qt`` and ``ctk`` into place; returns ``qt``. Call it before any widget is made."""
    if "qt" in sys.modules:
        return sys.modules["qt"]
    qt = ModuleType("qt")
    for source in (QtCore, QtGui, QtWidgets, QtUiTools):
        names = [name for name in dir(source) if name.startswith(("Q", "qt"))]  # PySide makes many of them on demand
        qt.__dict__.update({name: getattr(source, name) for name in names})
    for kind in [item for item in qt.__dict__.values() if isinstance(item, type) and issubclass(item, QObject)]:
        show_properties(kind)
    QObject.name = property(lambda self: QObject.property(self, "objectName"))
    QObject.className = lambda self: self.metaObject().className()
    qt.QFileDialog = _Dialogs
    # Only a Python subclass can have the connect("signal()", slot) of PythonQt.
    qt.QTimer = type("QTimer", (QtCore.QTimer,), {"connect": _connect})
    qt.QShortcut = type("QShortcut", (QtGui.QShortcut,), {"connect": _connect})
    qt.QUiLoader = _Loader
    sys.modules["qt"] = qt
    sys.modules["ctk"] = ctk = ModuleType("ctk")
    ctk.__dict__.update({kind.__name__: kind for kind in CTK})
    # Named by the real connectors, not used by our panel.
    for name in (
        *("ctkCheckBox", "ctkCheckablePushButton", "ctkDoubleSlider", "ctkDoubleSpinBox", "ctkComboBox"),
        *("ctkRangeWidget", "ctkDoubleRangeSlider", "ctkPathLineEdit", "ctkDirectoryButton", "ctkColorPickerButton"),
    ):
        setattr(ctk, name, type(name, (), {}))
    return qt


def show_properties(kind: type) -> None:
    """Qt's properties of a class as Python attributes, in the place of their getters."""
    meta = kind.staticMetaObject
    for number in range(meta.propertyOffset(), meta.propertyCount()):
        name = meta.property(number).name()
        if not isinstance(kind.__dict__.get(name), property):
            setattr(kind, name, _attribute(name))


def _attribute(name: str) -> property:
    def write(self: QObject, value: object) -> None:
        if not QObject.setProperty(self, name, value):
            raise AttributeError(f"{type(self).__name__}.{name} cannot be set to {value!r}")

    return property(lambda self: QObject.property(self, name), write)


def _connect(self: QObject, signature: str, slot) -> None:
    getattr(self, signature.partition("(")[0]).connect(slot)


class _Dialogs:
    """File dialogs answer with a plain path; tests set ``answer``."""

    answer = ""

    @classmethod
    def _answer(cls, *_: object, **__: object) -> str:
        return cls.answer

    getOpenFileName = getExistingDirectory = getSaveFileName = _answer  # noqa: N815


class CollapsibleButton(QtWidgets.QWidget):
    """A header that hides what is below it."""

    contentsCollapsed = Signal(bool)  # noqa: N815

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._header = QtWidgets.QPushButton(self)
        self._header.setFlat(True)
        self._header.setStyleSheet("text-align: left; font-weight: bold; padding: 4px; background: palette(midlight);")
        self._header.clicked.connect(lambda: self._collapse(not self._collapsed))
        self._text, self._collapsed = "", False
        self.setContentsMargins(0, 28, 0, 0)

    def resizeEvent(self, _) -> None:  # noqa: N802
        self._header.setGeometry(0, 0, QObject.property(self, "width"), 26)

    def _write(self, text: str) -> None:
        self._text = text
        self._header.setText(("+  " if self._collapsed else "-  ") + text)

    def _collapse(self, collapsed: bool) -> None:
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget) and child is not self._header:
                child.setVisible(not collapsed)
        self.setMaximumHeight(28 if collapsed else 16777215)
        self._write(self._text)
        self.contentsCollapsed.emit(collapsed)

    def showEvent(self, _) -> None:  # noqa: N802 - children of the .ui come after the property
        if self._collapsed:
            self._collapsed = False
            self._collapse(True)

    text = Property(str, lambda self: self._text, _write)
    collapsed = Property(bool, lambda self: self._collapsed, _collapse)


class SliderWidget(QtWidgets.QWidget):
    """A slider with a number beside it."""

    valueChanged = Signal(float)  # noqa: N815

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Horizontal)
        self._number = QtWidgets.QDoubleSpinBox()
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._slider)
        row.addWidget(self._number)
        self._number.valueChanged.connect(lambda value: self._slider.setValue(round(value)))
        self._slider.valueChanged.connect(lambda value: self._number.setValue(value))
        self._number.valueChanged.connect(self.valueChanged)

    def _limit(self, low: float | None = None, high: float | None = None) -> None:
        for part in (self._slider, self._number):
            if low is not None:
                part.setMinimum(low)
            if high is not None:
                part.setMaximum(high)

    value = Property(float, lambda self: QObject.property(self._number, "value"), lambda s, v: s._number.setValue(v))
    minimum = Property(float, lambda s: QObject.property(s._number, "minimum"), lambda s, v: s._limit(low=v))
    maximum = Property(float, lambda s: QObject.property(s._number, "maximum"), lambda s, v: s._limit(high=v))
    decimals = Property(int, lambda s: QObject.property(s._number, "decimals"), lambda s, v: s._number.setDecimals(v))
    singleStep = Property(float, lambda s: 1.0, lambda s, v: s._number.setSingleStep(v))  # noqa: N815
    suffix = Property(str, lambda s: "", lambda s, v: s._number.setSuffix(v))


CollapsibleButton.__name__, SliderWidget.__name__ = "ctkCollapsibleButton", "ctkSliderWidget"
CTK = (CollapsibleButton, SliderWidget)
CUSTOM: dict[str, type] = {kind.__name__: kind for kind in CTK}  # Slicer's own widgets are added by `widgets`


class _Loader(QtUiTools.QUiLoader):
    """Makes the stand-ins of Slicer's and CTK's widgets; every other class must be Qt's own."""

    def load(self, file, parent=None):
        # The scene goes round by `widgets.MRMLWidget`: PySide has no signal with a vtkMRMLScene*.
        text = re.sub(r"<connections>.*</connections>", "", bytes(file.readAll()).decode(), flags=re.DOTALL)
        buffer = QtCore.QBuffer()
        buffer.setData(text.encode())
        buffer.open(QtCore.QIODevice.ReadOnly)
        return super().load(buffer, parent)

    def createWidget(self, name: str, parent=None, object_name: str = ""):  # noqa: N802
        if name not in CUSTOM:
            return super().createWidget(name, parent, object_name)
        widget = CUSTOM[name](parent)
        widget.setObjectName(object_name)
        return widget


def wheel() -> SimpleNamespace:
    """What the application's event loop does between two clicks."""
    return SimpleNamespace(turn=QtWidgets.QApplication.processEvents)
