"""The panel, driven by clicks on real Qt widgets over real MRML and a real worker, from Apply to the result."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from fake_endpoint import completion, running_endpoint
from patients import make_patient
from slicer_panel import PICTURES, client, patient_user, qt, slicer, tiny_home, user
from slicer_scene import add_ct
from test_language_model import CYST

from LesionDiffusionLib.extension.mrml.geometry import volume_geometry, voxels
from LesionDiffusionLib.extension.mrml.lesions import input_of, lesions, segmentation_of
from LesionDiffusionLib.extension.mrml.placement import BoxState, set_roi
from LesionDiffusionLib.extension.panel import placement_section
from LesionDiffusionLib.extension.parameters import Placement
from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.worker_client import Event

assert all((client, patient_user, tiny_home, user, PICTURES))


def make_cyst(user, **settings) -> None:
    """Ask for a liver cyst and wait for it."""
    user.choose("lesionTypeCombo", "liver cyst")
    node = user.node
    node.sizeStated, node.sizeX, node.sizeY, node.sizeZ = True, 28, 28, 28  # random networks need room
    for name, value in settings.items():
        setattr(user.node, name, value)
    user.look()
    user.click("applyButton")
    user.wait()
    assert user.status.startswith("Done in"), user.status


def test_a_new_panel_says_why_apply_is_off(user):
    assert not user.ui.applyButton.enabled
    assert user.ui.applyButton.toolTip == "Select a CT."
    assert not user.errands.client.busy


def test_the_way_to_apply(patient_user):
    node = patient_user.node
    organs, node.organSegmentation = node.organSegmentation, None
    patient_user.look()
    assert "segmentation of the organs" in patient_user.ui.applyButton.toolTip
    node.organSegmentation = organs
    patient_user.look()
    assert patient_user.ui.applyButton.enabled
    node.bundle = "no such"
    patient_user.look()
    assert "not installed" in patient_user.ui.applyButton.toolTip


def test_from_apply_to_the_result_and_back(patient_user):
    user, ct = patient_user, patient_user.node.inputVolume
    before = voxels(ct).copy()
    user.choose("lesionTypeCombo", "liver cyst")
    user.click("applyButton")
    assert user.ui.applyButton.text == "Cancel"
    assert not user.ui.progressBar.isHidden()
    user.wait()
    assert user.status.startswith("Done in"), user.status
    assert user.ui.applyButton.text == "Apply"
    result = user.node.resultVolume
    assert "SYNTHETIC" in result.GetName()
    assert input_of(result) is ct
    assert np.array_equal(voxels(ct), before)
    (lesion,) = lesions(result)
    changed = voxels(result) != before
    assert changed.any()
    changed[lesion.patch.changed_box.slices] = False
    assert not changed.any()
    assert user.ui.measureTable.rowCount == len(lesion.patch.measurements) > 3
    assert segmentation_of(result).GetSegmentation().GetNumberOfSegments() == 1
    user.click("undoButton")
    assert np.array_equal(voxels(result), before)
    assert user.ui.measureTable.rowCount == 0
    assert not user.ui.undoButton.enabled


def test_the_same_seed_gives_the_same_lesion_and_another_another(patient_user):
    made = []
    for seed in (1, 1, 2):
        make_cyst(patient_user, seed=seed)
        made.append(voxels(patient_user.node.resultVolume).copy())
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


def test_cancel_leaves_nothing_behind(patient_user):
    patient_user.node.steps = 500
    names = node_names()
    patient_user.click("applyButton")
    patient_user.wait(lambda: patient_user.ui.progressBar.value > 0)
    patient_user.click("applyButton")
    patient_user.wait()
    assert patient_user.status == "Cancelled."
    assert patient_user.node.resultVolume is None
    assert node_names() == names
    assert patient_user.ui.applyButton.enabled


def test_a_killed_worker_is_told_and_the_next_run_works(patient_user):
    patient_user.node.steps = 500
    names = node_names()
    patient_user.click("applyButton")
    patient_user.wait(lambda: patient_user.ui.progressBar.value > 0)
    patient_user.errands.client.kill()
    patient_user.wait()
    assert "SIGKILL" in patient_user.status
    assert node_names() == names
    make_cyst(patient_user, steps=0)
    assert len(lesions(patient_user.node.resultVolume)) == 1


def test_closing_the_scene_during_a_run(patient_user):
    patient_user.node.steps = 500
    patient_user.click("applyButton")
    patient_user.wait(lambda: patient_user.ui.progressBar.value > 0)
    slicer.mrmlScene.InvokeEvent(slicer.mrmlScene.StartCloseEvent)
    slicer.mrmlScene.Clear(False)
    slicer.mrmlScene.InvokeEvent(slicer.mrmlScene.EndCloseEvent)
    patient_user.wait()
    assert patient_user.node is not None
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
    assert patient_user.ui.applyButton.toolTip == "Select a CT."


def test_a_second_lesion_goes_into_the_same_result(patient_user):
    make_cyst(patient_user)
    first = patient_user.node.resultVolume
    make_cyst(patient_user, addToResult=True, seed=5)
    assert patient_user.node.resultVolume is first
    assert len(lesions(first)) == 2
    assert len(patient_user.offered("lesionCombo")) == 2
    make_cyst(patient_user, addToResult=False, seed=6)
    assert patient_user.node.resultVolume is not first


def test_a_lesion_is_added_to_results_of_the_chosen_ct_alone(patient_user):
    make_cyst(patient_user)
    first, scan = patient_user.node.resultVolume, patient_user.node.inputVolume
    other = add_ct(make_patient(seed=1)[0], "another patient")
    patient_user.node.inputVolume = other
    make_cyst(patient_user, addToResult=True, seed=5)
    assert patient_user.node.resultVolume is not first
    assert input_of(patient_user.node.resultVolume) is other
    assert len(lesions(first)) == 1
    patient_user.node.inputVolume, patient_user.node.addToResult = first, False
    patient_user.look()
    assert "holds synthetic lesions already" in patient_user.ui.applyButton.toolTip
    patient_user.node.inputVolume = scan
    patient_user.look()
    assert patient_user.ui.applyButton.enabled


def test_candidates_to_choose_from(patient_user):
    make_cyst(patient_user, candidates=3)
    synthesizer = patient_user.widget.logic.synthesizer
    assert patient_user.offered("candidateCombo") == ["0", "1", "2"]
    assert not patient_user.ui.chooseButton.enabled, "this one is there already"
    other = (synthesizer.chosen + 1) % 3
    patient_user.ui.candidateCombo.setCurrentIndex(other)
    patient_user.panel._changed()
    patient_user.look()
    patient_user.click("chooseButton")
    (lesion,) = lesions(patient_user.node.resultVolume)
    assert np.array_equal(lesion.patch.changed_hu, synthesizer.candidates[other].patch.changed_hu)
    assert synthesizer.chosen == other


def test_an_edited_mask_is_painted(patient_user):
    make_cyst(patient_user)
    result = patient_user.node.resultVolume
    segmentation, (lesion,) = segmentation_of(result), lesions(result)
    drawn = np.zeros(voxels(result).shape, np.uint8)
    drawn[20:26, 20:26, 24:29] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        np.ascontiguousarray(drawn.transpose(2, 1, 0)), segmentation, lesion.segment_id, result
    )
    patient_user.click("inpaintButton")
    patient_user.wait()
    (painted,) = lesions(result)
    assert patient_user.status.startswith("Done in"), patient_user.status
    assert painted.patch.lesion_box.shape == (6, 6, 5)
    assert painted.patch.lesion.all()


def test_the_histogram_is_shown_and_the_layout_given_back(patient_user):
    layout = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLayoutNode")
    layout.SetViewArrangement(layout.SlicerLayoutFourUpView)
    make_cyst(patient_user)
    patient_user.click("histogramButton")
    chart = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLPlotChartNode")
    assert chart.GetNumberOfPlotSeriesNodes() == 3
    assert layout.GetViewArrangement() != layout.SlicerLayoutFourUpView
    patient_user.click("histogramButton")
    assert layout.GetViewArrangement() == layout.SlicerLayoutFourUpView


def test_a_full_memory_is_told_and_the_window_stays_usable(patient_user, monkeypatch):
    node = patient_user.node
    events = [Event("error", None, {"kind": "DeviceError", "message": "the device has 1 GiB, 2 GiB are needed"})]
    patient_user.click("applyButton")
    number = patient_user.errands._number
    events = [Event(e.name, number, e.content) for e in events]
    real = patient_user.errands.client.poll
    monkeypatch.setattr(patient_user.errands.client, "poll", lambda *a, **k: [events.pop()] if events else [])
    patient_user.look()
    assert "2 GiB are needed" in patient_user.status
    assert node.resultVolume is None
    assert patient_user.ui.applyButton.text == "Apply"
    monkeypatch.setattr(patient_user.errands.client, "poll", real)
    patient_user.errands.client.wait(number)
    make_cyst(patient_user)


def test_choosing_an_older_lesion_shows_it(patient_user):
    composite = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    make_cyst(patient_user)
    make_cyst(patient_user, addToResult=True, seed=5)
    result = patient_user.node.resultVolume
    assert composite.GetForegroundVolumeID() == result.GetID()
    assert composite.GetBackgroundVolumeID() == patient_user.node.inputVolume.GetID()
    composite.SetForegroundVolumeID(None)
    patient_user.choose("lesionCombo", "0")
    assert composite.GetForegroundVolumeID() == result.GetID()
    told = patient_user.ui.measureTable.item(0, 1).text()
    assert told == lesions(result)[0].patch.measurements[0].requested


def test_fade_and_blink(patient_user):
    composite = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    make_cyst(patient_user)
    patient_user.ui.fadeSlider.value = 30.0
    patient_user.look()
    assert patient_user.node.fade == 30.0
    assert composite.GetForegroundOpacity() == pytest.approx(0.3)
    patient_user.click("blinkButton")
    assert patient_user.ui.fadeSlider.value == 0.0
    patient_user.click("blinkButton")
    assert patient_user.ui.fadeSlider.value == 100.0


def test_a_saved_case_is_that_of_the_command_line(patient_user, tmp_path):
    make_cyst(patient_user)
    patient_user.panel.session.dialogs.path = str(tmp_path)
    patient_user.click("saveButton")
    patient_user.wait()
    (folder,) = tmp_path.glob("*lesion1")
    names = {path.name for path in folder.iterdir()}
    assert {"ct.nii.gz", "lesion.nii.gz", "report.json", "provenance.json", "preview.png"} <= names
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["slicer"]["ct"] == "Thorax CT"
    patient_user.panel.session.dialogs.agrees = False
    patient_user.click("saveButton")
    assert "exists already" in patient_user.panel.session.dialogs.asked[-1]
    assert not patient_user.errands.busy


def test_words_fill_the_form_and_what_is_not_understood_is_told(patient_user):
    patient_user.ui.descriptionEdit.text = "12 mm hypodense cyst in the liver with glittering sparkles"
    patient_user.click("understandButton")
    node = patient_user.node
    assert (node.organ, node.density) == ("liver", "hypodense lesion")
    assert node.sizeStated
    assert node.sizeX == 12
    assert "sparkles" in patient_user.ui.descriptionNote.text
    assert patient_user.ui.organCombo.currentText == "liver"


def test_plausible_values_come_first(patient_user):
    patient_user.choose("lesionTypeCombo", "kidney stone")
    assert patient_user.offered("densityCombo")[1] == "hyperdense lesion"
    assert patient_user.offered("lesionTypeCombo")[1:3] != ["kidney stone"], "the patient has no kidney"


def test_surprise_me_fills_everything(patient_user):
    patient_user.click("surpriseButton")
    node = patient_user.node
    assert all((node.lesionType, node.organ, node.shape, node.density, node.sizeStated))
    assert node.organ in ("liver", "urinary bladder")
    patient_user.click("clearButton")
    assert not any((node.lesionType, node.organ, node.shape, node.density, node.sizeStated))


def test_the_table_of_organs_corrects_the_matching(patient_user):
    table = patient_user.ui.organTable
    assert [table.item(row, 1).text() for row in range(2)] == ["liver", "urinary_bladder"]
    table.setCurrentCell(0, 0)
    patient_user.choose("matchCombo", "spleen")
    assert table.item(0, 1).text() == "spleen"
    patient_user.node.organ = "liver"
    patient_user.look()
    assert "No segment is matched with the liver" in patient_user.ui.applyButton.toolTip


def test_boxes_by_crosshair_segment_and_rule(patient_user):
    node = patient_user.node
    middle = volume_geometry(node.inputVolume).to_ras(np.array([24.0, 22.0, 26.0]))
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    crosshair = crosshair or slicer.mrmlScene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    crosshair.SetCrosshairRAS(*middle)
    node.organ, node.sizeStated, node.sizeX, node.sizeY, node.sizeZ = "liver", True, 20, 22, 25
    patient_user.look()
    patient_user.click("crosshairButton")
    assert node.placement == Placement.BOX
    assert node.roi.GetDisplayNode().GetSelectedColor() == BoxState.FINE.value
    assert patient_user.ui.boxStateLabel.text == "The box is 20x22x25 mm."
    patient_user.choose("fitCombo", node.organSegmentation.GetSegmentation().GetNthSegmentID(0))
    patient_user.click("fitButton")
    assert "larger than" in patient_user.ui.boxStateLabel.text
    assert "larger than" in patient_user.ui.applyButton.toolTip
    patient_user.choose("lesionTypeCombo", "liver cyst")
    patient_user.click("randomButton")
    patient_user.wait()
    assert patient_user.status.startswith("A box was placed"), patient_user.status
    assert patient_user.ui.applyButton.enabled


def test_moving_the_box_out_of_the_ct_is_seen(patient_user):
    test_boxes_by_crosshair_segment_and_rule(patient_user)
    patient_user.node.roi.SetCenter(1000.0, 0.0, 0.0)
    patient_user.look()
    assert patient_user.node.roi.GetDisplayNode().GetSelectedColor() == BoxState.OUTSIDE_VOLUME.value
    assert patient_user.ui.applyButton.toolTip == "The box reaches outside the CT: move it inside."


def test_place_by_click(patient_user):
    scene = slicer.mrmlScene
    for kind in ("vtkMRMLSelectionNode", "vtkMRMLInteractionNode"):
        if scene.GetNodeByID(f"{kind}Singleton") is None:
            node = getattr(slicer, kind)()
            node.SetSingletonTag("Singleton")
            scene.AddNode(node)
    patient_user.click("clickButton")
    assert patient_user.ui.clickButton.checked
    markups = scene.GetFirstNodeByClass("vtkMRMLMarkupsFiducialNode")
    middle = volume_geometry(patient_user.node.inputVolume).to_ras(np.array([24.0, 22.0, 26.0]))
    markups.AddControlPoint(middle)
    patient_user.look()
    assert not patient_user.ui.clickButton.checked
    assert scene.GetFirstNodeByClass("vtkMRMLMarkupsFiducialNode") is None
    center = [0.0, 0.0, 0.0]
    patient_user.node.roi.GetCenterWorld(center)
    assert np.allclose(center, middle, atol=3)


def test_a_language_model_is_asked_only_with_consent_and_the_key_stays_out_of_the_scene(patient_user):
    patient_user.click("askModelButton")
    assert "enter address and model" in patient_user.status
    for name, text in (("modelUrlEdit", "http://127.0.0.1:9"), ("modelNameEdit", "m"), ("modelKeyEdit", "SECRET")):
        edit = getattr(patient_user.ui, name)
        edit.text = text
        edit.editingFinished.emit()
    dialogs = patient_user.panel.session.dialogs
    dialogs.agrees = False
    patient_user.click("askModelButton")
    assert "choose a lesion and an organ first" in patient_user.status
    patient_user.node.lesionType, patient_user.node.organ = "liver cyst", "liver"
    patient_user.click("askModelButton")
    assert "http://127.0.0.1:9" in dialogs.asked[-1]
    assert not patient_user.errands.busy
    node = patient_user.node.parameterNode
    assert not any("SECRET" in (node.GetParameter(name) or "") for name in node.GetParameterNames())
    patient_user.click("diagnosticsButton")
    assert "SECRET" not in dialogs.copied
    assert "torch" in dialogs.copied


def test_a_language_model_fills_the_form(patient_user, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    patient_user.errands.client.really_stop()  # so that the worker sees the environment
    settings = patient_user.panel.session.settings
    patient_user.node.lesionType, patient_user.node.organ = "liver cyst", "liver"
    with running_endpoint() as endpoint:
        endpoint.replies = [completion(json.dumps(CYST))]
        for name, text in (("url", endpoint.url), ("model", "tiny"), ("key", "SECRET")):
            settings.set(f"LanguageModel/{name}", text)
        patient_user.click("askModelButton")
        patient_user.wait()
        (_, headers, body) = endpoint.asked[0]
    assert patient_user.status == "The language model has filled in the form.", patient_user.status
    assert headers["Authorization"] == "Bearer SECRET"
    assert "Thorax" not in body.decode(), "no name of the patient's data leaves"
    assert patient_user.node.shape == "round-like"
    assert patient_user.ui.surfaceCombo.currentText == "well-defined margin"
    assert (patient_user.node.sizeX, patient_user.node.sizeZ) == (14, 15)


def test_the_note_is_shown_once(patient_user):
    assert not patient_user.ui.researchNote.isHidden()
    patient_user.click("researchNoteButton")
    assert patient_user.ui.researchNote.isHidden()
    assert patient_user.panel.session.settings.note_was_read


def test_models_are_listed_and_the_shipped_one_is_not_deleted(patient_user):
    table, dialogs = patient_user.ui.modelTable, patient_user.panel.session.dialogs
    names = [table.item(row, 0).text() for row in range(table.rowCount)]
    assert "tiny" in names
    patient_user.click("deleteModelButton")
    assert "Select a model" in patient_user.status
    dialogs.agrees, dialogs.files = True, ["", "", ""]
    patient_user.click("importButton")
    assert "HengruiTianSJTU" in dialogs.asked[-1]
    assert "both checkpoints are needed" in patient_user.status
    patient_user.click("modelFolderButton")
    assert dialogs.shown.endswith("bundles")


def test_an_own_model_can_be_deleted(patient_user, tiny_home):
    bundles = tiny_home / "LesionDiffusion" / "bundles"
    shutil.copytree(bundles / "tiny", bundles / "mine")
    patient_user.panel._changed()
    patient_user.look()
    table = patient_user.ui.modelTable
    row = next(row for row in range(table.rowCount) if table.item(row, 0).text() == "mine")
    table.setCurrentCell(row, 0)
    patient_user.panel.session.dialogs.agrees = False
    patient_user.click("deleteModelButton")
    assert (bundles / "mine").exists()
    patient_user.panel.session.dialogs.agrees = True
    patient_user.click("deleteModelButton")
    assert not (bundles / "mine").exists()
    assert "mine" not in [table.item(row, 0).text() for row in range(table.rowCount)]


def test_devices_are_found_on_request(patient_user):
    patient_user.click("devicesButton")
    patient_user.wait()
    assert patient_user.offered("deviceCombo")[:2] == ["auto", "cpu"]
    patient_user.choose("deviceCombo", "cpu")
    assert patient_user.panel.session.settings.device == "cpu"


def test_choices_survive_a_saved_scene(patient_user, tmp_path):
    node = patient_user.node
    node.lesionType, node.density, node.seed, node.placement = "liver cyst", "fluid-like", 77, Placement.RULE
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.Commit()
    text = (tmp_path / "scene.mrml").read_text()
    assert "liver cyst" in text
    node.lesionType, node.density, node.seed = "", "", 1
    slicer.mrmlScene.Import()
    patient_user.look()
    assert (node.lesionType, node.density, node.seed) == ("liver cyst", "fluid-like", 77)
    assert patient_user.ui.seedSpinBox.value == 77
    assert patient_user.ui.densityCombo.currentText == "fluid-like"


def test_a_scene_read_with_the_panel_open_brings_its_nodes(patient_user, tmp_path):
    """Box and result are younger than the parameter node, and are read after it."""
    test_from_apply_to_the_result_and_back(patient_user)
    test_boxes_by_crosshair_segment_and_rule(patient_user)
    names = ("inputVolume", "organSegmentation", "roi", "resultVolume")
    before = {name: getattr(patient_user.node, name).GetName() for name in names}
    scene = slicer.mrmlScene
    scene.SetURL(str(tmp_path / "scene.mrml"))
    scene.Commit()
    scene.Clear(False)
    patient_user.look()
    scene.Import()
    patient_user.look()
    after = {name: node.GetName() for name in names if (node := getattr(patient_user.node, name)) is not None}
    assert after == before


def test_while_a_scene_is_read_the_selectors_write_nothing(patient_user):
    """Slicer empties them then."""
    widget, scene, ct = patient_user.widget, slicer.mrmlScene, patient_user.node.inputVolume
    widget.onSceneStartImport(scene, "StartImportEvent")
    patient_user.ui.ctSelector.setCurrentNode(None)
    assert patient_user.node.inputVolume is ct
    widget.onSceneEndImport(scene, "EndImportEvent")
    patient_user.look()
    assert patient_user.ui.ctSelector.currentNode() is ct


def test_a_label_map_or_a_result_is_not_the_first_ct(user):
    scene = slicer.mrmlScene
    scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    user.widget.initializeParameterNode()
    assert user.node.inputVolume is None
    ct = add_ct(make_patient(dtype="int16")[0], "CT")
    user.widget.initializeParameterNode()
    assert user.node.inputVolume is ct


def test_a_new_box_has_to_be_drawn(patient_user, monkeypatch):
    """The selector's "Create new" makes a ROI that has no size and is not shown."""
    started = []
    monkeypatch.setattr(placement_section, "start_placing", started.append)
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "mine")
    patient_user.node.roi, patient_user.node.placement = roi, Placement.BOX
    patient_user.ui.roiSelector.nodeAddedByUser.emit(roi)
    patient_user.look()
    assert started == [roi]
    assert not patient_user.ui.applyButton.enabled
    assert patient_user.ui.applyButton.toolTip.startswith("Place a box")
    set_roi(roi, Box((20, 18, 22), (28, 26, 30)), volume_geometry(patient_user.node.inputVolume))
    patient_user.look()
    assert patient_user.ui.applyButton.enabled, patient_user.ui.applyButton.toolTip


def test_organs_under_a_bent_transform_hinder_nothing(patient_user):
    """Only whether the box lies in the organ cannot be told; the organ map itself follows any transform."""
    test_boxes_by_crosshair_segment_and_rule(patient_user)
    bent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "bent")
    patient_user.node.organSegmentation.SetAndObserveTransformNodeID(bent.GetID())
    patient_user.node.roi.SetName("looked at again")
    patient_user.look()
    assert "linear" in patient_user.ui.boxStateLabel.text
    assert patient_user.ui.applyButton.enabled


def test_a_missing_package_is_told_and_nothing_starts(patient_user, monkeypatch):
    monkeypatch.setattr(slicer.packaging, "pip_check", lambda requirement: not str(requirement).startswith("torch"))
    patient_user.click("applyButton")
    assert 'install the extension "PyTorch"' in patient_user.status
    assert not patient_user.errands.busy


def test_the_module_waits_for_the_last_moment(user):
    assert qt.QApplication.instance() is not None
    assert not user.errands.busy


def node_names() -> list[str]:
    scene = slicer.mrmlScene
    return sorted(scene.GetNthNode(n).GetName() or "" for n in range(scene.GetNumberOfNodes()))
