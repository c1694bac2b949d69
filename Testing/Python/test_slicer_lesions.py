"""Result nodes on real MRML: what is copied, what is named, undo bit by bit, and the way through a saved scene."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import make_geometry
from patients import fake_models, make_patient
from slicer_scene import add_ct, put_under_transform, rigid, scene, slicer
from standin.scene import make_scene
from test_synthesis import CYST

from LesionDiffusionLib.errors import PlacementError, VolumeError
from LesionDiffusionLib.extension.mrml import display
from LesionDiffusionLib.extension.mrml.geometry import volume_geometry, voxels
from LesionDiffusionLib.extension.mrml.lesions import (
    add_lesion,
    create_result,
    drawn_mask,
    input_of,
    is_result,
    lesions,
    remove_lesion,
    remove_result,
    segmentation_of,
    source_file,
    voxels_before,
)
from LesionDiffusionLib.extension.organ_matching import structure_for
from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.histogram import lesion_histogram
from LesionDiffusionLib.lesion_patch import LesionPatch
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.run import Settings
from LesionDiffusionLib.synthesis import synthesize
from LesionDiffusionLib.wish import Wish

pytestmark = pytest.mark.usefixtures("scene")
assert scene
GRID = make_geometry((48, 44, 40), (2.0, 2.2, 2.5), np.diag([-1.0, -1.0, 1.0]), degrees_xyz=(12, -8, 15))


@pytest.fixture(scope="module")
def patient():
    return make_patient(GRID, dtype=np.int16)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return fake_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def made(patient, models):
    """A lesion and its histogram, made once."""
    case = synthesize(*patient, Wish(CYST), bundle=models, settings=Settings(seed=5))
    return LesionPatch.of(case), lesion_histogram(case, patient[1].mask("liver"))


@pytest.fixture
def ct(patient):
    node = add_ct(patient[0], "Thorax CT")
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevel(350, 50)
    return node


def node_names() -> set[str]:
    scene = slicer.mrmlScene
    return {scene.GetNthNode(n).GetName() for n in range(scene.GetNumberOfNodes())}


def test_a_copy_of_a_result_has_no_part_in_its_lesions(ct, made):
    result = create_result(ct)
    add_lesion(result, *made, {})
    copy = create_result(result)
    assert not lesions(copy)
    add_lesion(copy, *made, {})
    remove_lesion(copy, 0)
    assert len(lesions(result)) == 1
    assert segmentation_of(result).GetSegmentation().GetNumberOfSegments() == 1


def test_the_result_beside_the_ct(ct, patient, made):
    transform = put_under_transform(ct, rigid((0, 0, 20)))
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.CreateItem(study, ct)
    ct.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    result = create_result(ct)
    lesion = add_lesion(result, *made, {"input": "Thorax CT"})
    assert not is_result(ct)
    assert is_result(result)
    assert input_of(result) is ct
    assert np.array_equal(voxels(ct), patient[0].array), "the input is never written"
    assert np.array_equal(voxels(result), made[0].case(patient[0]).ct.array)
    assert voxels(result).dtype == np.int16
    assert result.GetParentTransformNode() is transform
    assert volume_geometry(result).difference(volume_geometry(ct)) is None
    assert result.GetDisplayNode() is not ct.GetDisplayNode()
    assert (result.GetDisplayNode().GetWindow(), result.GetDisplayNode().GetLevel()) == (350, 50)
    assert result.GetAttribute("DICOM.instanceUIDs") is None
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(result))
    assert hierarchy.GetItemParent(folder) == study
    for node in (segmentation_of(result), lesion.node):
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == folder
    item = hierarchy.GetItemByDataNode(result)
    assert "SYNTHETIC" in hierarchy.GetItemAttribute(item, "DICOM.SeriesDescription")


def test_names_and_attributes_say_synthetic(ct, made):
    result = create_result(ct)
    lesion = add_lesion(result, *made, {})
    segmentation = segmentation_of(result)
    names = [result.GetName(), segmentation.GetName(), lesion.node.GetName()]
    assert all("SYNTHETIC" in name and "Thorax CT" in name for name in names), names
    segment = segmentation.GetSegmentation().GetSegment(lesion.segment_id)
    assert segment.GetName() == "liver cyst (synthetic, seed 5)"
    assert result.GetAttribute("LesionDiffusion.synthetic") == "true"
    assert result.GetAttribute("LesionDiffusion.seeds") == "5"
    assert result.GetAttribute("LesionDiffusion.bundles") == "tiny"
    assert "liver cyst" in result.GetAttribute("LesionDiffusion.reports")
    assert "not for diagnosis" in result.GetDescription()


def test_the_segment_is_the_mask_with_terminology_and_color(ct, made):
    result = create_result(ct)
    lesion = add_lesion(result, *made, {})
    box, mask = drawn_mask(result, 0)
    assert box == made[0].lesion_box
    assert np.array_equal(mask, made[0].lesion)
    segment = segmentation_of(result).GetSegmentation().GetSegment(lesion.segment_id)
    category, kind, region = (segment.GetTerminology().split("~")[n] for n in (1, 2, 5))
    assert category == "SCT^49755003^Morphologically Altered Structure"
    assert kind == "SCT^367643001^Cyst"
    assert region == "SCT^10200004^Liver"
    assert structure_for("", segment.GetTerminology()) is None, "a lesion of the liver is not the liver"
    assert segment.GetColor() == pytest.approx([c / 255 for c in (205, 205, 100)])


def test_provenance_is_complete_in_the_text_node(ct, made):
    result = create_result(ct)
    add_lesion(result, *made, {"input": "Thorax CT", "version": "5.12"})
    content = json.loads(lesions(result)[0].node.GetText())
    provenance = content["lesion"]["provenance"]
    assert provenance["slicer"] == {"input": "Thorax CT", "version": "5.12"}
    assert provenance["synthetic"] is True
    assert provenance["settings"]["seed"] == 5
    assert content["lesion"]["measurements"]
    assert content["histogram"]["edges_hu"]


def other_lesions(patient, models, count):
    """Lesions put into a CT one after the other, in places of their own."""
    ct, organs = patient
    boxes = [Box((14, 12, 22), (19, 17, 27)), Box((28, 26, 30), (33, 31, 35)), Box((15, 13, 23), (20, 18, 28))]
    report = LesionReport("liver cyst", density="hypodense lesion")
    made, volume = [], ct
    for seed, box in enumerate(boxes[:count]):
        case = synthesize(volume, organs, Wish(report, box=box), bundle=models, settings=Settings(seed=seed))
        made.append((LesionPatch.of(case), {"edges_hu": [0, 1]}))
        volume = case.ct
    return made


def test_undo_is_bit_exact_in_any_order_that_is_possible(ct, patient, models):
    first, second, third = other_lesions(patient, models, 3)
    assert first[0].changed_box.intersection(third[0].changed_box)
    assert not first[0].changed_box.intersection(second[0].changed_box)
    result = create_result(ct)
    states = [voxels(result).copy()]
    for patch, histogram in (first, second, third):
        add_lesion(result, patch, histogram, {})
        states.append(voxels(result).copy())
    assert len({state.tobytes() for state in states}) == 4
    with pytest.raises(PlacementError, match="lesion 3 reaches into lesion 1; undo lesion 3 first"):
        remove_lesion(result, 0)
    assert np.array_equal(voxels(result), states[3])
    remove_lesion(result, 2)
    assert np.array_equal(voxels(result), states[2])
    remove_lesion(result, 0)
    assert len(lesions(result)) == 1
    assert segmentation_of(result).GetSegmentation().GetNumberOfSegments() == 1
    assert result.GetAttribute("LesionDiffusion.lesions") == "1"
    remove_lesion(result, 0)
    assert np.array_equal(voxels(result), states[0])
    assert voxels(result).tobytes() == voxels(ct).tobytes()


def test_the_ct_before_a_lesion(ct, patient, models):
    made = other_lesions(patient, models, 2)
    result = create_result(ct)
    for patch, histogram in made:
        add_lesion(result, patch, histogram, {})
    out = np.zeros(patient[0].array.shape, np.int16, order="F")
    voxels_before(result, 0, out)
    assert np.array_equal(out, patient[0].array)
    voxels_before(result, 1, out)
    assert np.array_equal(out, made[0][0].case(patient[0]).ct.array)
    assert not np.array_equal(voxels(result), out)


def test_an_edited_segment_is_read_back(ct, made, patient):
    result = create_result(ct)
    lesion = add_lesion(result, *made, {})
    edited = np.zeros(patient[0].array.shape, np.uint8)
    edited[10:20, 11:13, 12:15] = 1
    segmentation = segmentation_of(result)
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        np.ascontiguousarray(edited.transpose(2, 1, 0)), segmentation, lesion.segment_id, result
    )
    box, mask = drawn_mask(result, 0)
    assert box == Box((10, 11, 12), (20, 13, 15))
    assert mask.all()
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        np.zeros(edited.shape[::-1], np.uint8), segmentation, lesion.segment_id, result
    )
    with pytest.raises(VolumeError, match="segment is empty; paint"):
        drawn_mask(result, 0)
    segmentation.GetSegmentation().RemoveSegment(lesion.segment_id)
    with pytest.raises(VolumeError, match="segment is gone"):
        drawn_mask(result, 0)


def test_everything_survives_a_saved_scene(ct, made, tmp_path):
    add_lesion(create_result(ct), *made, {})
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    before = {}
    for class_name in ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLTextNode"):
        for node in slicer.util.getNodesByClass(class_name):
            node.AddDefaultStorageNode()
            storage = node.GetStorageNode()
            storage.SetFileName(str(tmp_path / f"{node.GetID()}.{storage.GetDefaultWriteFileExtension()}"))
            assert storage.WriteData(node)
            before[node.GetName()] = node.GetID()
    slicer.mrmlScene.Commit(str(tmp_path / "scene.mrml"))
    expected = voxels(slicer.util.getNode("Thorax CT SYNTHETIC")).copy()

    make_scene()
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.Import()
    result = slicer.util.getNode("Thorax CT SYNTHETIC")
    assert is_result(result)
    assert np.array_equal(voxels(result), expected)
    (lesion,) = lesions(result)
    assert np.array_equal(lesion.patch.changed_hu, made[0].changed_hu)
    box, mask = drawn_mask(result, 0)
    assert box == made[0].lesion_box
    assert np.array_equal(mask, made[0].lesion)
    remove_lesion(result, 0)
    assert np.array_equal(voxels(result), voxels(input_of(result)))


def test_a_text_node_that_somebody_changed(ct, made):
    result = create_result(ct)
    add_lesion(result, *made, {}).node.SetText("{}")
    with pytest.raises(VolumeError, match=r"provenance\" was changed and describes no lesion"):
        lesions(result)


def test_a_lesion_made_for_another_volume(ct, made):
    small = slicer.util.addVolumeFromArray(np.zeros((10, 10, 10), np.int16), name="small")
    with pytest.raises(VolumeError, match=r'another volume than "small SYNTHETIC"'):
        add_lesion(create_result(small), *made, {})
    floats = slicer.util.addVolumeFromArray(np.zeros(GRID.shape[::-1], np.float32), name="floats")
    result = create_result(floats)
    with pytest.raises(VolumeError, match="another volume"):
        add_lesion(result, *made, {})
    assert not lesions(result)


def test_a_result_that_is_removed_leaves_nothing(ct, made):
    before = node_names()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    items = hierarchy.GetNumberOfItems()
    result = create_result(ct)
    add_lesion(result, *made, {})
    remove_result(result)
    assert {name for name in node_names() - before if "SYNTHETIC" in name or "Thorax" in name} <= before
    assert hierarchy.GetNumberOfItems() == items


def test_two_results_of_one_ct_have_names_of_their_own(ct):
    assert create_result(ct).GetName() != create_result(ct).GetName()


def test_the_file_behind_a_volume(ct, tmp_path):
    assert source_file(ct) == ""
    ct.AddDefaultStorageNode()
    ct.GetStorageNode().SetFileName(str(tmp_path / "ct.nrrd"))
    assert ct.GetStorageNode().WriteData(ct)
    assert source_file(ct) == str(tmp_path / "ct.nrrd")
    voxels(ct)[0, 0, 0] += 1
    slicer.util.arrayFromVolumeModified(ct)
    assert source_file(ct) == ""


def test_views_show_before_and_after(ct, made):
    for name in ("Red", "Green"):
        composite = slicer.vtkMRMLSliceCompositeNode()
        composite.SetLayoutName(name)
        slicer.mrmlScene.AddNode(composite)
        view = slicer.vtkMRMLSliceNode()
        view.SetLayoutName(name)
        slicer.mrmlScene.AddNode(view)
    result = create_result(ct)
    display.show_before_after(ct, result, 0.25)
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        assert composite.GetBackgroundVolumeID() == ct.GetID()
        assert composite.GetForegroundVolumeID() == result.GetID()
        assert composite.GetForegroundOpacity() == 0.25
    display.jump_to((10, -20, 30))
    for view in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        matrix = slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())
        assert matrix[:3, 3] == pytest.approx([10, -20, 30])


def test_the_histogram_s_nodes_are_made_once(made):
    chart = display.fill_histogram(made[1])
    count = slicer.mrmlScene.GetNumberOfNodes()
    assert display.fill_histogram(made[1]) is chart
    assert slicer.mrmlScene.GetNumberOfNodes() == count
    assert chart.GetNumberOfPlotSeriesNodes() == 3
    table = slicer.util.getNode("LesionDiffusion histogram table").GetTable()
    assert table.GetNumberOfColumns() == 4
    assert sum(table.GetColumnByName("lesion after").GetValue(n) for n in range(40)) == pytest.approx(100, abs=0.1)


def test_the_plot_gives_the_layout_back(made):
    layout = slicer.vtkMRMLLayoutNode()
    slicer.mrmlScene.AddNode(layout)
    layout.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    chart = display.fill_histogram(made[1])
    before = display.show_histogram(chart)
    assert layout.GetViewArrangement() != slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
    display.restore_layout(before)
    assert layout.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
