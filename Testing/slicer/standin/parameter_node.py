"""A stand-in for `slicer.parameterNodeWrapper`: typed values in a scripted module node, and widgets bound by name.

Only what our parameter node and our .ui file use. As the real one it refuses a widget that it has no connector for.
"""

from __future__ import annotations

import dataclasses
import enum
import typing
from collections.abc import Callable
from types import ModuleType
from typing import Any

NAME = "SlicerParameterName"


@dataclasses.dataclass(frozen=True)
class WithinRange:
    """Annotation: inclusive limits."""

    minimum: float
    maximum: float


@dataclasses.dataclass(frozen=True)
class _Parameter:
    name: str
    type: type
    limits: WithinRange | None
    default: Any

    @property
    def is_node(self) -> bool:
        return self.type.__name__.startswith("vtkMRML")

    def read(self, node) -> Any:
        if self.is_node:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if issubclass(self.type, enum.Enum):
            return self.type[text]
        return text == "True" if self.type is bool else self.type(text)

    def write(self, node, value: Any) -> None:
        if self.is_node:
            node.SetNodeReferenceID(self.name, None if value is None else value.GetID())
            return
        value = value if issubclass(self.type, enum.Enum) else self.type(value)
        if self.limits and not self.limits.minimum <= value <= self.limits.maximum:
            raise ValueError(f"{self.name} must lie in {self.limits}, got {value}")
        node.SetParameter(self.name, value.name if isinstance(value, enum.Enum) else str(value))


def parameterNodeWrapper(kind: type) -> type:  # noqa: N802 - Slicer's name
    """Class decorator: annotated names become properties."""
    parameters = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        plain, *extras = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
        limits = next((extra for extra in extras if isinstance(extra, WithinRange)), None)
        default = getattr(kind, name, "" if plain is str else None)
        parameters[name] = _Parameter(name, plain, limits, default)
        setattr(kind, name, _property(parameters[name]))

    def begin(self, node) -> None:
        self.parameterNode, self._connections = node, {}
        for parameter in parameters.values():
            if not parameter.is_node and not node.GetParameter(parameter.name) and parameter.default != "":
                parameter.write(node, parameter.default)

    kind.__init__, kind.allParameters = begin, parameters
    kind.connectGui, kind.disconnectGui = _connect_gui, _disconnect_gui
    kind.AddObserver = lambda self, *arguments: self.parameterNode.AddObserver(*arguments)
    kind.RemoveObserver = lambda self, tag: self.parameterNode.RemoveObserver(tag)
    return kind


def _property(parameter: _Parameter) -> property:
    return property(
        lambda self: parameter.read(self.parameterNode), lambda self, v: parameter.write(self.parameterNode, v)
    )


def _connect_gui(self, ui) -> int:
    """Widgets with the dynamic property show their parameter and write it."""
    connectors = []
    for widget in vars(ui).values():
        name = widget.property(NAME)
        if name:
            connectors.append(_connector(self, self.allParameters[name], widget))
    updating = []

    def update(*_: object) -> None:
        if not updating:
            updating.append(True)
            for show in connectors:
                show()
            updating.clear()

    update()
    tag = self.AddObserver("ModifiedEvent", update)
    self._connections[tag] = connectors
    return tag


def _disconnect_gui(self, tag: int) -> None:
    self.RemoveObserver(tag)
    for show in self._connections.pop(tag):
        show.disconnect()


def _connector(wrapper, parameter: _Parameter, widget) -> Callable[[], None]:
    def put(name: str) -> Callable[[Any], None]:
        return lambda value: value == getattr(widget, name) or setattr(widget, name, value)

    kinds = {  # class of the widget -> type, signal, read, write
        "QCheckBox": (bool, "toggled", lambda: widget.checked, put("checked")),
        "QLineEdit": (str, "textChanged", lambda: widget.text, put("text")),
        "QSpinBox": (int, "valueChanged", lambda: widget.value, put("value")),
        "QDoubleSpinBox": (float, "valueChanged", lambda: widget.value, put("value")),
        "ctkSliderWidget": (float, "valueChanged", lambda: widget.value, put("value")),
        "qMRMLNodeComboBox": (
            None,
            "currentNodeChanged",
            lambda: widget.currentNode(),
            lambda node: widget.setCurrentNode(node),
        ),
        "QComboBox": (enum.Enum, "currentIndexChanged", None, None),
    }
    kind, signal, read, write = kinds[type(widget).__name__]
    if not (parameter.is_node if kind is None else issubclass(parameter.type, kind)):
        raise RuntimeError(f"no connector from {parameter.type} to {type(widget).__name__} ({parameter.name})")
    if kind is enum.Enum:
        values = list(parameter.type)
        widget.clear()
        widget.addItems([value.label() for value in values])
        read, write = lambda: values[widget.currentIndex], lambda v: widget.setCurrentIndex(values.index(v))
    if parameter.limits:
        widget.minimum, widget.maximum = parameter.limits.minimum, parameter.limits.maximum

    def show() -> None:
        write(getattr(wrapper, parameter.name))

    show()

    def changed(*_: object) -> None:
        setattr(wrapper, parameter.name, read())

    connection = getattr(widget, signal)
    connection.connect(changed)
    show.disconnect = lambda: connection.disconnect(changed)
    return show


def make_module() -> ModuleType:
    """The module ``slicer.parameterNodeWrapper``."""
    module = ModuleType("slicer.parameterNodeWrapper")
    module.WithinRange, module.parameterNodeWrapper = WithinRange, parameterNodeWrapper
    return module
