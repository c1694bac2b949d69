"""The panel on PySide6, offscreen, with a real MRML scene and a real worker process; tests click in it."""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
try:
    import PySide6.QtWidgets
except ImportError as error:  # also without the system's libraries that Qt needs (libEGL, libxkbcommon)
    pytest.skip(f"SKIPPED, not passed: no PySide6, no panel: {error}", allow_module_level=True)
assert PySide6

from patients import make_patient, tiny_bundle  # noqa: E402
from slicer_scene import add_ct, add_segmentation, make_scene, slicer  # noqa: E402
from standin.application import install  # noqa: E402

_, qt = install()
REPOSITORY = Path(__file__).resolve().parents[2]
PICTURES = REPOSITORY / "out" / "panel"
PATIENCE_S = 120.0
if str(REPOSITORY / "LesionDiffusion") not in sys.path:
    sys.path.append(str(REPOSITORY / "LesionDiffusion"))

from LesionDiffusionLib.worker_client import WorkerClient  # noqa: E402


class Answers:
    """Dialogs that answer by themselves and remember what they were asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.agrees = True
        self.path = ""
        self.files: list[str] = []
        self.copied = self.shown = ""

    def confirm(self, text: str, details: str = "") -> bool:
        self.asked.append(text)
        return self.agrees

    def folder(self, title: str) -> str:
        return self.path

    def file(self, title: str, kinds: str) -> str:
        return self.files.pop(0)

    def show_folder(self, path: str) -> None:
        self.shown = path

    def copy(self, text: str) -> None:
        self.copied = text


class Lasting(WorkerClient):
    """Outlives the panels of several tests: a worker takes seconds to start."""

    def stop(self) -> None:
        if self.busy:
            super().stop()

    def really_stop(self) -> None:
        super().stop()


class User:
    """Somebody in front of the panel."""

    def __init__(self, widget) -> None:
        self.widget, self.ui, self.panel = widget, widget.ui, widget.panel
        self.errands = widget.logic.synthesizer.errands

    @property
    def node(self):
        return self.panel.session.node

    @property
    def status(self) -> str:
        return self.ui.statusLabel.text

    def look(self) -> None:
        """What the timer and the event loop do between two clicks."""
        slicer.app.processEvents()
        self.panel.tick()

    def click(self, name: str) -> None:
        button = getattr(self.ui, name)
        assert button.enabled, f"{name} is off: {button.toolTip}"
        button.click()
        self.look()

    def choose(self, name: str, value: str) -> None:
        """Select the item of a combo box that carries this value."""
        combo = getattr(self.ui, name)
        index = next(i for i in range(combo.count) if combo.itemData(i) == value)
        combo.setCurrentIndex(index)
        combo.activated.emit(index)
        self.look()

    def offered(self, name: str) -> list[str]:
        combo = getattr(self.ui, name)
        return [combo.itemData(i) for i in range(combo.count)]

    def wait(self, done=None) -> None:
        """Until the job has ended, or ``done``."""
        done = done or (lambda: not self.errands.busy)
        end = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < end, f"waited in vain; status: {self.status}"
            self.look()
            time.sleep(0.005)
        self.look()

    def picture(self, section: str) -> Path:
        """A screenshot of one section of the panel, or of all."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        widget = self.widget.parent if section == "panel" else getattr(self.ui, section)
        slicer.app.processEvents()
        path = PICTURES / f"{section}.png"
        widget.grab().save(str(path))
        return path


def open_panel(client: WorkerClient) -> User:
    """The module as Slicer opens it."""
    module = importlib.import_module("LesionDiffusion")
    widget = module.LesionDiffusionWidget()
    widget.setup()
    widget._timer.stop()  # tests turn the wheel themselves
    widget.logic.synthesizer.errands.client = client
    widget.panel.session.dialogs = Answers()
    widget.parent.isEntered = True
    widget.enter()
    return User(widget)


@pytest.fixture(scope="session")
def client():
    client = Lasting()
    yield client
    client.really_stop()


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory) -> Path:
    """A user's data folder with a bundle of tiny random networks."""
    home = tmp_path_factory.mktemp("home")
    tiny_bundle(home / "LesionDiffusion" / "bundles" / "tiny")
    return home


@pytest.fixture
def user(client, tiny_home, monkeypatch, tmp_path):
    """A panel over an empty scene."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tiny_home))
    qt.QSettings.setPath(qt.QSettings.NativeFormat, qt.QSettings.UserScope, str(tmp_path))
    make_scene()
    user = open_panel(client)
    yield user
    user.widget.cleanup()
    slicer.mrmlScene.Clear(True)


@pytest.fixture
def patient_user(user):
    """A panel with a CT and its organs, and the tiny model."""
    ct, organs = make_patient(dtype="int16")
    node = add_ct(ct, "Thorax CT")
    segmentation = add_segmentation(organs, node)
    user.node.inputVolume, user.node.organSegmentation = node, segmentation
    user.node.bundle = "tiny"
    user.look()
    return user
