"""Slicer's own widgets that our .ui file names, on PySide6."""

from __future__ import annotations

from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, QObject, Signal

from .pythonqt import CUSTOM


class NodeComboBox(QtWidgets.QComboBox):
    """Nodes of one class."""

    currentNodeChanged = Signal(object)  # noqa: N815
    nodeAddedByUser = Signal(object)  # noqa: N815

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._types, self._scene, self._attribute, self._none = [], None, None, True
        self._ids: list[str | None] = []
        self.currentIndexChanged.connect(lambda _: self._tell())

    def setMRMLScene(self, scene) -> None:  # noqa: N802
        self._scene = scene
        for event in ("NodeAddedEvent", "NodeRemovedEvent"):
            scene.AddObserver(getattr(scene, event), lambda *_: self._list())
        self._list()

    def addAttribute(self, _kind: str, name: str, value: str) -> None:  # noqa: N802
        self._attribute = name, value
        self._list()

    def currentNode(self):  # noqa: N802
        index = QObject.property(self, "currentIndex")
        node_id = self._ids[index] if 0 <= index < len(self._ids) else None
        return None if node_id is None else self._scene.GetNodeByID(node_id)

    def setCurrentNode(self, node) -> None:  # noqa: N802
        node_id = None if node is None else node.GetID()
        if node_id not in self._ids:
            self._list()
        if node_id in self._ids:
            self.setCurrentIndex(self._ids.index(node_id))

    def _tell(self) -> None:
        self.currentNodeChanged.emit(self.currentNode())

    def _list(self) -> None:
        if self._scene is None:
            return
        before, blocked = self.currentNode(), self.blockSignals(True)
        found = [n for kind in self._types for n in _nodes(self._scene, kind) if self._fits(n)]
        self._ids = [None, *(node.GetID() for node in found)]
        self.clear()
        self.addItems(["None", *(node.GetName() for node in found)])
        after = before if before is not None and before.GetID() in self._ids else None
        self.setCurrentNode(after)
        self.blockSignals(blocked)
        if after is not before:
            self._tell()

    def _fits(self, node) -> bool:
        return self._attribute is None or node.GetAttribute(self._attribute[0]) == self._attribute[1]

    def _set_types(self, types) -> None:
        self._types = list(types)

    nodeTypes = Property(list, lambda self: self._types, _set_types)  # noqa: N815


def _nodes(scene, kind: str) -> list:
    count = scene.GetNumberOfNodesByClass(kind)
    return [scene.GetNthNodeByClass(n, kind) for n in range(count)]


class MRMLWidget(QtWidgets.QWidget):
    """Hands the scene to the widgets that the .ui file connects."""

    isEntered = False  # noqa: N815

    def setMRMLScene(self, scene) -> None:  # noqa: N802
        for child in self.findChildren(QtCore.QObject):
            if isinstance(child, NodeComboBox):
                child.setMRMLScene(scene)


NodeComboBox.__name__, MRMLWidget.__name__ = "qMRMLNodeComboBox", "qMRMLWidget"
WIDGETS = (NodeComboBox, MRMLWidget)


def install(slicer) -> None:
    """Let the .ui loader know them."""
    for kind in WIDGETS:
        CUSTOM[kind.__name__] = kind
        setattr(slicer, kind.__name__, kind)
