"""What Slicer's extension build reads: lists, metadata, icons, terminology, the .ui file. No Slicer needed."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image

from LesionDiffusionLib.lesion_types import all_lesion_types

PANEL = "LesionDiffusionLib/extension/panel"
SELECTORS = {"ctSelector", "organSelector", "roiSelector", "resultSelector"}


@pytest.fixture(scope="module")
def ui(repository) -> ElementTree.Element:
    return ElementTree.parse(repository / "Resources" / "UI" / "LesionDiffusion.ui").getroot()


@pytest.fixture(scope="module")
def fields(repository) -> dict[str, str]:
    """Extension metadata of CMakeLists.txt."""
    text = (repository / "CMakeLists.txt").read_text()
    return dict(re.findall(r'^set\(EXTENSION_(\w+) "?(.*?)"?\)$', text, flags=re.MULTILINE))


def cmake_lists(folder: Path, script: Path) -> dict[str, set[str]]:
    """The lists that CMake makes of the files on disk."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("SKIPPED, not passed: cmake is not installed")
    script.write_text('include(${FILES})\nmessage("${LIBRARY_SCRIPTS}")\nmessage("${LIBRARY_RESOURCES}")\n')
    command = [cmake, f"-DFILES={folder / 'files.cmake'}", "-P", str(script)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    scripts, resources = (set(line.split(";")) for line in told.stderr.strip().splitlines())
    return {"scripts": scripts, "resources": resources}


def test_cmake_installs_every_file(repository, tmp_path):
    lists = cmake_lists(repository / "LesionDiffusionLib", tmp_path / "lists.cmake")
    library, resources = repository / "LesionDiffusionLib", repository / "Resources"
    assert lists["scripts"] == {str(path.relative_to(library)) for path in library.rglob("*.py")}
    on_disk = {f"../Resources/{path.relative_to(resources)}" for path in resources.rglob("*") if path.is_file()}
    assert lists["resources"] == {name for name in on_disk if not name.endswith(("~", ".DS_Store"))}
    assert "extension/panel/panel.py" in lists["scripts"]
    assert "../Resources/UI/LesionDiffusion.ui" in lists["resources"]


def test_the_module_folder_holds_one_module(repository):
    names = {path.name for path in (repository / "LesionDiffusion").iterdir()} - {"__pycache__"}
    assert names == {"LesionDiffusion.py", "CMakeLists.txt"}, "Slicer loads every .py here as a module"


def test_metadata_agree(repository, fields):
    lines = (repository / "LesionDiffusion.s4ext").read_text().splitlines()
    s4ext = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    entry = json.loads((repository / "LesionDiffusion.json").read_text())
    for name in ("homepage", "category", "contributors", "description", "iconurl", "status", "screenshoturls"):
        assert s4ext[name] == fields[name.upper()], name
    assert s4ext["depends"] == fields["DEPENDS"] == " ".join(entry["build_dependencies"])
    assert s4ext["build_subdirectory"] == fields["BUILD_SUBDIRECTORY"] == entry["build_subdirectory"]
    assert s4ext["scmurl"] == entry["scm_url"] == f"{fields['HOMEPAGE']}.git"
    assert s4ext["scmrevision"] == entry["scm_revision"]
    assert entry["category"] == fields["CATEGORY"]
    assert fields["HOMEPAGE"].rsplit("/", 1)[1].startswith("Slicer"), "the Extensions Index wants that name"


def test_pictures_of_the_metadata_are_there(repository, fields):
    for url in (fields["ICONURL"], *fields["SCREENSHOTURLS"].split()):
        path = repository / url.split("/main/", 1)[1]
        assert path.is_file(), path
    assert Image.open(repository / "LesionDiffusion.png").size == (128, 128)
    assert (repository / "Resources" / "Icons" / "LesionDiffusion.png").is_file()


def test_pictures_of_the_documentation_are_there_and_small(repository):
    named = re.findall(r"\]\((images/[^)]+)\)", (repository / "docs" / "extension.md").read_text())
    assert len(named) >= 7
    for name in named:
        assert (repository / "docs" / name).stat().st_size < 200_000, name


def test_colors_and_codes_of_segments_are_those_of_the_terminology(repository):
    tree = ast.parse((repository / "LesionDiffusionLib/extension/mrml/lesions.py").read_text())
    assigned = {
        n.targets[0].id: n.value for n in tree.body if isinstance(n, ast.Assign) and hasattr(n.targets[0], "id")
    }
    types = ast.literal_eval(assigned["TYPES"])
    data = json.loads((repository / "Resources" / "LesionDiffusion.term.json").read_text())
    (category,) = data["SegmentationCodes"]["Category"]
    listed = {(t["CodeValue"], t["CodeMeaning"], tuple(t["recommendedDisplayRGBValue"])) for t in category["Type"]}
    assert set(types.values()) <= listed
    assert {kind.family for kind in all_lesion_types()} <= set(types)


def test_every_widget_of_the_code_is_in_the_form_and_is_explained(repository, ui):
    widgets = {w.get("name"): w for w in ui.iter("widget")}
    for path in sorted((repository / PANEL).glob("*.py")):
        used = set(re.findall(r"\bui\.(\w+)", path.read_text())) | set(
            re.findall(r'"(\w+(?:Button|Combo|Edit|Slider|CheckBox|Selector))"', path.read_text())
        )
        assert used <= set(widgets), f"{path.name}: {used - set(widgets)}"
    for name, widget in widgets.items():
        if widget.get("class") in ("QPushButton", "QComboBox", "QCheckBox", "QSpinBox", "QDoubleSpinBox", "QLineEdit"):
            assert widget.find("property[@name='toolTip']") is not None, f"{name} has no tooltip"


def test_selectors_get_the_scene(ui):
    assert ui.find("widget").get("class") == "qMRMLWidget"
    connected = {c.findtext("receiver") for c in ui.iter("connection") if "mrmlSceneChanged" in c.findtext("signal")}
    assert connected == SELECTORS == {w.get("name") for w in ui.iter("widget") if w.get("class") == "qMRMLNodeComboBox"}


def test_bound_names_are_parameters(repository, ui):
    text = (repository / "LesionDiffusionLib/extension/parameters.py").read_text()
    tree = ast.parse(text)
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "LesionDiffusionParameterNode")
    parameters = {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
    bound = [p.findtext("string") for p in ui.iter("property") if p.get("name") == "SlicerParameterName"]
    assert len(bound) == len(set(bound))
    assert set(bound) <= parameters
    by_code = {"organMatching", "lesionType", "shape", "organType", "lesionLocation", "organ", "relationship"}
    by_code |= {"surface", "specificFeatures", "enhancement", "density", "densityVariations", "bundle"}
    assert parameters - set(bound) == by_code, "every choice has its control"
