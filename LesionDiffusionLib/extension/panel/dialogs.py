"""Questions to the user. Tests put answers in their place; in Slicer's testing mode nothing is asked."""

from __future__ import annotations

import qt
import slicer
from slicer.i18n import tr as _

TITLE = "Lesion Diffusion"


class Dialogs:
    """Modal questions over Slicer's main window."""

    def confirm(self, text: str, details: str = "") -> bool:
        """Whether the user agrees."""
        more = {"detailedText": details} if details else {}
        return bool(slicer.util.confirmOkCancelDisplay(text, windowTitle=TITLE, **more))

    def folder(self, title: str) -> str:
        """A folder, "" when the user gives up."""
        return qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title) or ""

    def file(self, title: str, kinds: str) -> str:
        """A file that exists, "" when the user gives up. ``kinds`` such as "Checkpoint (*.ckpt)"."""
        return (
            qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), title, "", f"{kinds};;{_('All files')} (*)") or ""
        )

    def show_folder(self, path: str) -> None:
        """Open a folder in the system's file manager."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(path))

    def copy(self, text: str) -> None:
        """Put a text on the clipboard."""
        qt.QApplication.clipboard().setText(text)
