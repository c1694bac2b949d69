"""What the sections of the panel share: the widgets, the scene's choices, the worker, and the status line."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from slicer.i18n import tr as _

from LesionDiffusionLib.errors import LesionDiffusionError
from LesionDiffusionLib.extension.dependencies import ensure_packages
from LesionDiffusionLib.extension.panel.dialogs import Dialogs
from LesionDiffusionLib.extension.parameters import LesionDiffusionParameterNode
from LesionDiffusionLib.extension.patient import bundle_summary
from LesionDiffusionLib.extension.settings import UserSettings
from LesionDiffusionLib.extension.synthesizer import Synthesizer


@dataclass
class Session:
    """Handed to every section.

    Attributes:
        ui: the widgets of the .ui file, by name.
        node: the choices; None while a scene is being closed.
        devices: what the worker told of its devices.
    """

    ui: Any
    synthesizer: Synthesizer
    settings: UserSettings
    dialogs: Dialogs
    node: LesionDiffusionParameterNode | None = None
    devices: list[dict[str, Any]] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return self.synthesizer.errands.busy

    def say(self, text: str, good: bool = True) -> None:
        """Show a sentence in the status line."""
        self.ui.statusLabel.text = text if good else _("<b>Not done:</b> {reason}").format(reason=text)

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """What is wrong with the user's data or computer is a sentence in the status line; the rest is a bug."""
        try:
            yield
        except LesionDiffusionError as error:
            self.say(str(error), good=False)
        except OSError as error:
            self.say(_("the worker cannot be started: {error}").format(error=error), good=False)
        except subprocess.CalledProcessError as error:
            text = _("the installation of Python packages failed (exit code {code}); see the application log")
            self.say(text.format(code=error.returncode), good=False)

    def have_packages(self) -> bool:
        """Whether the worker can run; installs what is missing if the user agrees."""
        summary = bundle_summary(self.node)
        if ensure_packages("vocabulary" if summary is None else summary.encoder):
            return True
        self.say(_("Not started: the Python packages were not installed."))
        return False
