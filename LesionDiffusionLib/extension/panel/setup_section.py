"""Section "Models and setup": installed models, the authors' weights, the language model, diagnostics."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

from LesionDiffusionLib.bundle_folders import delete_bundle, installed_bundles, summarize, user_bundles_dir
from LesionDiffusionLib.errors import LesionDiffusionError
from LesionDiffusionLib.extension.dependencies import missing_packages
from LesionDiffusionLib.extension.diagnostics import diagnostics
from LesionDiffusionLib.extension.panel.session import Session
from LesionDiffusionLib.extension.patient import bundle_summary
from LesionDiffusionLib.report import format_size

RELEASED_PAGE = "https://github.com/HengruiTianSJTU/LesionDiffusion"
LANGUAGE_MODEL = {"modelUrlEdit": "url", "modelNameEdit": "model", "modelKeyEdit": "key"}  # widget -> setting


class SetupSection:
    """Settings here belong to the user, not to the scene."""

    def __init__(self, session: Session) -> None:
        self._session, self._ui = session, session.ui
        self._names: list[str] | None = None
        self._ui.modelTable.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
        self._ui.modelTable.verticalHeader().setVisible(False)
        for widget, name in LANGUAGE_MODEL.items():
            edit = getattr(self._ui, widget)
            edit.text = session.settings.get(f"LanguageModel/{name}")
            edit.editingFinished.connect(lambda e=edit, n=name: session.settings.set(f"LanguageModel/{n}", e.text))
        self._ui.setupSection.contentsCollapsed.connect(lambda _collapsed: self._show_packages())
        self._ui.researchNote.visible = not session.settings.note_was_read
        self._ui.researchNoteButton.clicked.connect(self._note_was_read)
        self._ui.importButton.clicked.connect(self._import)
        self._ui.deleteModelButton.clicked.connect(self._delete)
        self._ui.modelFolderButton.clicked.connect(self._show_folder)
        self._ui.diagnosticsButton.clicked.connect(self._copy_diagnostics)
        self._ui.stopWorkerButton.clicked.connect(session.synthesizer.errands.stop)

    def refresh(self) -> None:
        """Show the installed models."""
        bundles = installed_bundles()
        self._show_packages()
        self._ui.importButton.enabled = self._ui.stopWorkerButton.enabled = not self._session.busy
        if list(bundles) == self._names:
            return
        self._names = list(bundles)
        self._ui.modelTable.setRowCount(len(bundles))
        for row, (name, folder) in enumerate(bundles.items()):
            try:
                summary = summarize(folder)
                texts = (name, summary.license, format_size(summary.largest_lesion_mm))
            except LesionDiffusionError as error:
                texts = (name, "", str(error))
            for column, text in enumerate(texts):
                self._ui.modelTable.setItem(row, column, qt.QTableWidgetItem(text))

    def _show_packages(self) -> None:
        """Tell what is missing; only when somebody looks."""
        if self._ui.setupSection.collapsed or self._session.node is None:
            return
        summary = bundle_summary(self._session.node)
        missing = missing_packages("vocabulary" if summary is None else summary.encoder)
        told = _("Python packages that the model needs: {state}.")
        state = _("missing {names}; installed on Apply, if you agree").format(names=", ".join(missing))
        self._ui.packagesLabel.text = told.format(state=state if missing else _("all there"))

    def _note_was_read(self) -> None:
        self._session.settings.set("researchNoteRead", "yes")
        self._ui.researchNote.visible = False

    def _import(self) -> None:
        dialogs = self._session.dialogs
        told = _(
            "The authors publish their weights at {page}. Download LMNet.ckpt, LINet.ckpt and BiomedCLIP's vocab.txt, "
            "then choose the three files. Nothing in them is executed."
        )
        if not dialogs.confirm(told.format(page=RELEASED_PAGE)):
            return
        wanted = {
            "lmnet": (_("LMNet checkpoint"), "Checkpoint (*.ckpt)"),
            "linet": (_("LINet checkpoint"), "Checkpoint (*.ckpt)"),
            "vocabulary": (_("BiomedCLIP vocabulary"), "Vocabulary (*.txt)"),
        }
        files = {name: dialogs.file(*asked) for name, asked in wanted.items()}
        if not (files["lmnet"] and files["linet"]):
            self._session.say(_("Nothing was imported: both checkpoints are needed."))
            return
        with self._session.attempt():
            if self._session.have_packages():
                paths = {name: path or None for name, path in files.items()}
                self._session.synthesizer.import_released(paths, user_bundles_dir() / "released", self._imported)

    def _imported(self, name: str) -> None:
        if self._session.node is not None:
            self._session.node.bundle = name

    def _delete(self) -> None:
        row = self._ui.modelTable.currentRow()
        if not 0 <= row < len(self._names or []):
            self._session.say(_("Select a model in the table first."))
            return
        name = self._names[row]
        if self._session.dialogs.confirm(_("Delete the model {name} from your folder?").format(name=name)):
            with self._session.attempt():
                self._session.say(_("Deleted {folder}.").format(folder=delete_bundle(name)))
        self.refresh()

    def _show_folder(self) -> None:
        folder = user_bundles_dir()
        with self._session.attempt():
            folder.mkdir(parents=True, exist_ok=True)
            self._session.dialogs.show_folder(str(folder))

    def _copy_diagnostics(self) -> None:
        session = self._session
        log = self._ui.logEdit.toPlainText().splitlines()
        session.dialogs.copy(diagnostics(session.devices, session.synthesizer.errands.last_failure, log))
        session.say(_("Diagnostics are on the clipboard."))
