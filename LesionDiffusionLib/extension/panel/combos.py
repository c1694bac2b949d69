"""Combo boxes whose choices depend on other choices: every item carries its value as data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Item = tuple[str, str]  # text, value


def fill(combo: Any, items: Sequence[Item | None], value: str) -> None:
    """Show these items, None being a separator, and select a value; one that is not offered is added at the end."""
    offered = [item for item in items if item is not None]
    if value not in [v for _, v in offered]:
        items = [*items, (value, value)]
    blocked = combo.blockSignals(True)
    if _shown(combo) != [item and item[1] for item in items]:
        combo.clear()
        for item in items:
            if item is None:
                combo.insertSeparator(combo.count)
            else:
                combo.addItem(*item)
    for index, item in enumerate(items):
        if item is not None:
            if combo.itemText(index) != item[0]:
                combo.setItemText(index, item[0])
            if item[1] == value:
                combo.setCurrentIndex(index)
    combo.blockSignals(blocked)


def chosen(combo: Any) -> str:
    """The value of the selected item."""
    value = combo.itemData(combo.currentIndex)
    return "" if value is None else str(value)


def on_choice(combo: Any, chose: Callable[[str], None]) -> None:
    """Call with the value that the user selected."""
    combo.activated.connect(lambda *_: chose(chosen(combo)))


def _shown(combo: Any) -> list[str | None]:
    return [combo.itemData(index) for index in range(combo.count)]
