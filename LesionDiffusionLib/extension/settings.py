"""Settings of the user that are no part of a scene: device, language model, what was read. Kept by Qt's QSettings.

The key of a language model is kept in the user's settings file as plain text; the environment variable is the
alternative for who does not want that. Neither is ever written to a scene or to provenance.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

from LesionDiffusionLib.adapters.chat_endpoint import KEY_VARIABLE, MODEL_VARIABLE, URL_VARIABLE

GROUP = "LesionDiffusion"
DEFAULT_IDLE_MINUTES = 10


class Store(Protocol):
    """The part of QSettings that is used."""

    def value(self, key: str, default: Any = None) -> Any: ...

    def setValue(self, key: str, value: Any) -> None: ...  # noqa: N802 - Qt's name


class UserSettings:
    """Texts by name; see the properties for those that mean more."""

    def __init__(self, store: Store | None = None, environment: Mapping[str, str] = os.environ) -> None:
        if store is None:
            import qt

            store = qt.QSettings()
        self._store, self._environment = store, environment

    def get(self, name: str, default: str = "") -> str:
        value = self._store.value(f"{GROUP}/{name}", default)
        return default if value is None else str(value)

    def set(self, name: str, value: str) -> None:
        self._store.setValue(f"{GROUP}/{name}", value)

    @property
    def device(self) -> str:
        return self.get("device", "auto")

    @property
    def idle_s(self) -> float:
        """After this time without work the worker is ended and its memory is free again."""
        try:
            return 60.0 * float(self.get("idleMinutes", str(DEFAULT_IDLE_MINUTES)))
        except ValueError:
            return 60.0 * DEFAULT_IDLE_MINUTES

    @property
    def note_was_read(self) -> bool:
        """Whether the user has read that this is for research only."""
        return self.get("researchNoteRead") == "yes"

    def language_model(self) -> dict[str, str]:
        """url, model and key of the language model: from the settings, else from the environment."""
        variables = {"url": URL_VARIABLE, "model": MODEL_VARIABLE, "key": KEY_VARIABLE}
        return {
            name: (self.get(f"LanguageModel/{name}") or self._environment.get(variable, "")).strip()
            for name, variable in variables.items()
        }
