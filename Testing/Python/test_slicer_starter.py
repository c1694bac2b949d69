"""The whole job on the phantom with the starter bundle: the module's own self-test, and a picture of every section."""

from __future__ import annotations

import importlib

import pytest
from PIL import Image
from slicer_panel import client, open_panel, qt, slicer, tiny_home, user

from LesionDiffusionLib.bundle_folders import installed_bundles
from LesionDiffusionLib.extension import selftest
from LesionDiffusionLib.extension.mrml.phantom import add_phantom

assert all((client, tiny_home, user, open_panel))
SECTIONS = ("patientSection", "lesionSection", "placementSection", "advancedSection", "resultSection", "setupSection")


def model() -> str:
    """The starter bundle; without it a model of random networks, good enough for pictures."""
    return "starter" if "starter" in installed_bundles() else "tiny"


@pytest.fixture
def with_starter():
    if model() != "starter":
        pytest.skip("SKIPPED, not passed: the starter bundle is absent")


@pytest.mark.usefixtures("with_starter")
def test_the_self_test_from_the_console(user):
    module = importlib.import_module("LesionDiffusion")
    logic = module.LesionDiffusionLogic()
    selftest.make_lesion(logic)


@pytest.mark.usefixtures("with_starter")
def test_the_self_test_from_the_panel(user):
    user.widget._timer.start()
    selftest.use_panel(user.widget)


def test_reload_and_test_tells_a_skip_and_shows_no_failure(user, monkeypatch, capsys):
    monkeypatch.setattr(selftest, "missing_packages", lambda: ["torch"])
    monkeypatch.setattr(selftest, "installed_bundles", lambda: {"starter": None})
    importlib.import_module("LesionDiffusion").LesionDiffusionTest().runTest()
    assert "SKIPPED, not passed: Python packages are missing: torch" in capsys.readouterr().out


def test_a_picture_of_every_section(user):
    """Written to out/panel; people look at them."""
    ui, node = user.ui, user.node
    user.widget.parent.resize(560, 1500)
    user.widget.parent.show()
    user.picture("panel").rename(user.picture("panel").with_name("panel-new.png"))
    node.inputVolume, node.organSegmentation = add_phantom(4.0)
    node.bundle, node.candidates, node.seed = model(), 2, 4
    user.look()
    ui.matchingSection.collapsed = ui.advancedSection.collapsed = ui.setupSection.collapsed = False
    ui.descriptionEdit.text = "3 cm ill-defined hypodense tumor in the liver near the falciform ligament"
    user.click("understandButton")
    user.choose("lesionTypeCombo", "liver cancer")
    user.click("randomButton")
    user.wait()
    user.click("applyButton")
    user.wait(lambda: ui.progressBar.value > 300 or not user.errands.busy)
    user.picture("panel").rename(user.picture("panel").with_name("panel-running.png"))
    user.wait()
    assert user.status.startswith("Done in"), user.status
    user.widget.parent.resize(560, 2600)
    for section in SECTIONS:
        assert user.picture(section).stat().st_size > 2000
    top = ui.advancedSection.mapTo(user.widget.parent, qt.QPoint(0, 0)).y()
    bottom = ui.logSection.mapTo(user.widget.parent, qt.QPoint(0, 0)).y() + 40
    two_columns(user.picture("panel"), top, bottom)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 2


def two_columns(path, top: int, bottom: int) -> None:
    """Put the lower part of a picture beside the upper one."""
    picture = Image.open(path).convert("RGB")
    upper, lower = picture.crop((0, 0, picture.width, top)), picture.crop((0, top, picture.width, bottom))
    background = picture.getpixel((2, picture.height - 3))
    both = Image.new("RGB", (2 * picture.width, max(upper.height, lower.height)), background)
    both.paste(upper, (0, 0))
    both.paste(lower, (picture.width, 0))
    both.save(path)
