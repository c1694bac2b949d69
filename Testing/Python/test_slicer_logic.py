"""The module without its panel: console, start-up, packages, other extensions. Real MRML, a real worker."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import vtk
from patients import make_patient
from slicer_panel import client, slicer, tiny_home, user
from slicer_scene import add_ct, add_segmentation, make_scene

from LesionDiffusionLib.errors import SettingsError, WorkerError
from LesionDiffusionLib.extension import dependencies, startup, totalsegmentator
from LesionDiffusionLib.extension.dependencies import MissingPackagesError, ensure_packages, require_packages
from LesionDiffusionLib.extension.diagnostics import diagnostics
from LesionDiffusionLib.extension.errands import Errands
from LesionDiffusionLib.extension.mrml import segment_editor
from LesionDiffusionLib.extension.mrml.geometry import voxels
from LesionDiffusionLib.extension.mrml.organs import segments
from LesionDiffusionLib.extension.mrml.phantom import add_phantom
from LesionDiffusionLib.extension.organ_matching import structure_for
from LesionDiffusionLib.resources import resource_path

assert all((client, tiny_home, user))


@pytest.fixture
def logic(client, tiny_home, monkeypatch):
    """The logic over a scene with a patient; no widget anywhere."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tiny_home))
    make_scene()
    ct, organs = make_patient(dtype="int16")
    node = add_ct(ct, "CT")
    add_segmentation(organs, node, "organs")
    logic = importlib.import_module("LesionDiffusion").LesionDiffusionLogic(Errands(client))
    yield logic
    slicer.mrmlScene.Clear(True)


def wish_for(logic, **choices):
    wish = logic.getParameterNode()
    wish.inputVolume = slicer.mrmlScene.GetFirstNode("CT", "vtkMRMLScalarVolumeNode")
    wish.organSegmentation = slicer.mrmlScene.GetFirstNode("organs", "vtkMRMLSegmentationNode")
    wish.lesionType, wish.bundle, wish.seed = "liver cyst", "tiny", 1
    for name, value in choices.items():
        setattr(wish, name, value)
    return wish


def test_the_console_example(logic):
    told = []
    result = logic.run(wish_for(logic), progress=lambda share, text: told.append((share, text)))
    (lesion,) = logic.lesions(result)
    assert {m.attribute for m in lesion.patch.measurements} >= {"size", "density"}
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert any("left" in text for _, text in told)
    assert not np.array_equal(voxels(result), voxels(slicer.util.getNode("CT")))


def test_the_documented_example_runs(logic, repository, capsys):
    text = (repository / "docs" / "extension.md").read_text()
    example = text.split("```python\n")[1].split("```")[0]
    wish = wish_for(logic, sizeStated=True, sizeX=28, sizeY=28, sizeZ=28)  # random networks need room
    assert wish.bundle == "tiny"
    exec(example, {"getNode": slicer.util.getNode})
    assert "size 28x28x28 mm" in capsys.readouterr().out
    assert len(logic.lesions(wish.resultVolume)) == 1
    assert len(example.strip().splitlines()) <= 12


def test_what_is_missing_is_an_error_for_scripts(logic):
    with pytest.raises(SettingsError, match="Select a CT"):
        logic.run(wish_for(logic, inputVolume=None))
    with pytest.raises(WorkerError, match="cuda:17"):
        logic.run(wish_for(logic), device="cuda:17")
    assert len(logic.lesions(logic.run(wish_for(logic)))) == 1, "and the next one works"


def test_scripts_install_nothing(logic, monkeypatch):
    monkeypatch.setattr(slicer.packaging, "pip_check", lambda requirement: not str(requirement).startswith("torch"))
    with pytest.raises(MissingPackagesError, match="PythonSlicer -m pip install"):
        logic.run(wish_for(logic))
    with pytest.raises(MissingPackagesError, match="Python packages are missing: torch"):
        require_packages()


class Pip:
    """slicer.packaging and the PyTorch extension, with packages that can be installed."""

    def __init__(self, monkeypatch, missing: set[str], agrees: bool = True) -> None:
        self.missing, self.agrees, self.installed = missing, agrees, []
        monkeypatch.setattr(slicer.packaging, "pip_check", lambda r: _name(r) not in self.missing)
        monkeypatch.setattr(slicer.packaging, "pip_ensure", self.ensure)
        torch = ModuleType("PyTorchUtils")
        torch.PyTorchUtilsLogic = lambda: SimpleNamespace(installTorch=self.install_torch)
        monkeypatch.setitem(sys.modules, "PyTorchUtils", torch)

    def ensure(self, requirements, requester: str) -> None:
        assert requester == "LesionDiffusion"
        wanted = [_name(r) for r in requirements if _name(r) in self.missing]
        if wanted and not self.agrees:
            raise RuntimeError("User declined installation")
        self._install(wanted)

    def install_torch(self, askConfirmation: bool, torchVersionRequirement: str):
        assert askConfirmation
        assert torchVersionRequirement.startswith(">=")
        if not self.agrees:
            return None
        self._install(["torch"])
        return object()

    def _install(self, names: list[str]) -> None:
        self.installed += names
        self.missing -= set(names)


def _name(requirement) -> str:
    return str(requirement).partition(">")[0]


def test_packages_come_with_consent_only(monkeypatch):
    pip = Pip(monkeypatch, {"torch", "safetensors"})
    assert ensure_packages()
    assert pip.installed == ["torch", "safetensors"]
    assert ensure_packages()
    assert len(pip.installed) == 2
    for missing in ({"torch"}, {"safetensors"}):
        refused = Pip(monkeypatch, set(missing), agrees=False)
        assert not ensure_packages()
        assert not refused.installed


def test_a_model_with_biomedclip_needs_more(monkeypatch):
    pip = Pip(monkeypatch, {"open_clip_torch", "transformers"})
    assert ensure_packages("vocabulary")
    assert not pip.installed
    assert ensure_packages("biomedclip")
    assert pip.installed == ["open_clip_torch", "transformers"]


def test_without_the_pytorch_extension_it_says_so(monkeypatch):
    Pip(monkeypatch, {"torch"})
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(MissingPackagesError, match='install the extension "PyTorch"'):
        ensure_packages()
    assert dependencies.TORCH.startswith("torch")


@pytest.mark.parametrize("error", [RuntimeError("PythonSlicer executable not found"), ImportError("libcudnn")])
def test_a_failed_installation_of_torch_is_told(monkeypatch, error):
    pip = Pip(monkeypatch, {"torch"})
    monkeypatch.setattr(pip, "_install", lambda names: (_ for _ in ()).throw(error))
    with pytest.raises(MissingPackagesError, match=f"could not be installed: {error}"):
        ensure_packages()


def test_start_up_registers_terminology_and_sample_data(monkeypatch):
    make_scene()
    registered = []
    data = ModuleType("SampleData")
    data.SampleDataLogic = SimpleNamespace(
        registerCustomSampleDataCategory=lambda category, title: registered.append(title),
        registerCustomSampleDataSource=lambda **source: registered.append(source),
    )
    monkeypatch.setitem(sys.modules, "SampleData", data)
    startup.register_data()
    title, phantom, ct = registered
    assert title == "Lesion Diffusion"
    assert ct["checksums"] == f"SHA256:{startup.CT_SHA256}"
    assert ct["uris"].endswith(startup.CT_SHA256)
    assert len(startup.CT_SHA256) == len(hashlib.sha256().hexdigest())
    assert resource_path("Icons/LesionDiffusionPhantom.png").is_file()
    shown = {}
    monkeypatch.setattr(slicer.util, "setSliceViewerLayers", shown.update)
    monkeypatch.setattr(startup, "add_phantom", lambda: add_phantom(8.0))
    made = phantom["customDownloader"](None)
    assert shown == {"background": made[0], "fit": True}
    assert phantom["uris"] == [] == phantom["fileNames"]
    names = segments(made[1])
    assert {structure_for("", s.terminology) for s in names if s.name == "liver"} == {"liver"}
    loaded = vtk.vtkStringArray()
    slicer.modules.terminologies.logic().GetLoadedTerminologyNames(loaded)
    assert "Synthetic lesions - LesionDiffusion" in [loaded.GetValue(n) for n in range(loaded.GetNumberOfValues())]
    monkeypatch.setitem(sys.modules, "SampleData", None)
    startup.register_data()


def test_totalsegmentator_is_used_when_it_is_there(user, monkeypatch):
    ct, organs = make_patient(dtype="int16")
    user.node.inputVolume = add_ct(ct, "CT")
    user.look()
    assert not user.ui.totalSegmentatorButton.enabled
    assert "Extensions Manager" in user.ui.totalSegmentatorButton.toolTip
    module, done = ModuleType("TotalSegmentator"), []

    class Logic:
        def setupPythonRequirements(self) -> None:  # noqa: N802
            done.append("packages")

        def process(self, volume, segmentation, quality, task) -> None:
            done.append((quality, task))
            if len(done) > 2:
                raise RuntimeError("no memory")
            segmentation.Copy(add_segmentation(organs, volume, "made"))

    module.TotalSegmentatorLogic = Logic
    monkeypatch.setitem(sys.modules, "TotalSegmentator", module)
    slicer.modules.totalsegmentator = object()
    user.panel._changed()
    user.look()
    user.click("totalSegmentatorButton")
    assert done == ["packages", ("fast", "total")]
    assert "minutes" in user.panel.session.dialogs.asked[-1]
    assert user.ui.applyButton.toolTip != "Select a CT."
    assert user.offered("organCombo")[1:] != []
    before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    with pytest.raises(RuntimeError, match="no memory"):
        totalsegmentator.segment(user.node.inputVolume)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == before


def test_the_segment_editor_opens_at_the_lesion(monkeypatch):
    make_scene()
    told = {}
    editor = SimpleNamespace(
        setSegmentationNode=lambda node: told.update(segmentation=node),
        setSourceVolumeNode=lambda node: told.update(volume=node),
        setCurrentSegmentID=lambda text: told.update(segment=text),
    )
    widget = SimpleNamespace(self=lambda: SimpleNamespace(editor=editor))
    slicer.modules.segmenteditor = SimpleNamespace(widgetRepresentation=lambda: widget)
    monkeypatch.setattr(slicer.util, "selectModule", lambda name: told.update(module=name))
    segment_editor.open_segment("segmentation", "Segment_1", "volume")
    wanted = {"module": "SegmentEditor", "segmentation": "segmentation", "volume": "volume", "segment": "Segment_1"}
    assert told == wanted


def test_diagnostics_hold_what_a_report_needs():
    device = {"name": "cuda:0", "description": "a GPU", "free_mib": 100, "total_mib": 200}
    processor = {"name": "cpu", "description": "cpu", "free_mib": None, "total_mib": None}
    text = diagnostics([device, processor], "it broke", [f"line {n}" for n in range(100)])
    for part in ("torch", "cuda:0: a GPU, 100 of 200 MiB free\n", "device cpu: cpu\n", "it broke", "line 99"):
        assert part in text
    assert "line 10\n" not in text


def installed(repository, folder):
    """The module as CMake installs it: library and resources beside the module file."""
    shutil.copy(repository / "LesionDiffusion" / "LesionDiffusion.py", folder)
    for name in ("LesionDiffusionLib", "Resources"):
        shutil.copytree(repository / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    return folder


@pytest.mark.parametrize("place", ["source tree", "installation"])
def test_the_module_opens_fast_without_torch_and_network(repository, tmp_path, place):
    """In a fresh interpreter, with sockets that refuse."""
    home = repository if place == "source tree" else installed(repository, tmp_path)
    module_folder = repository / "LesionDiffusion" if place == "source tree" else home
    code = f"""
import os, socket, sys, time
os.environ["QT_QPA_PLATFORM"] = "offscreen"
sys.path[:0] = [{str(repository / "Testing" / "slicer")!r}, {str(module_folder)!r}]
def refuse(*_): raise AssertionError("network")
socket.socket.connect = refuse
from standin.application import install
slicer, qt = install()
from standin.scene import make_scene
make_scene()
import vtk.util.numpy_support, json, logging, unittest  # what Slicer has loaded long before
started = time.process_time()
import LesionDiffusion
widget = LesionDiffusion.LesionDiffusionWidget()
widget.setup()
took_s = time.process_time() - started
assert not widget.logic.synthesizer.errands.client.running
widget.cleanup()
print(sorted(set(sys.modules) & {{"torch", "SimpleITK", "scipy", "pip", "requests"}}))
print(round(took_s, 3))
import LesionDiffusionLib
assert LesionDiffusionLib.__file__.startswith({str(home)!r}), LesionDiffusionLib.__file__
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False)
    assert told.returncode == 0, told.stderr
    loaded, took_s = told.stdout.split()
    assert loaded == "[]"
    assert float(took_s) < 0.5
