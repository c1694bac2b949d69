"""MRML to grids and back, on real MRML: oblique, flipped and transformed volumes; segments; boxes."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_geometry
from patients import make_patient
from slicer_scene import (
    add_ct,
    add_segmentation,
    moved,
    put_under_bend,
    put_under_transform,
    rigid,
    scene,
    slicer,
)
from test_synthesis import GRIDS

from LesionDiffusionLib.errors import GeometryError, LabelError, VolumeError
from LesionDiffusionLib.extension.mrml.geometry import volume_geometry, voxels
from LesionDiffusionLib.extension.mrml.organs import (
    organ_labels,
    segment_box,
    segment_extent_mm,
    segments,
    share_inside,
)
from LesionDiffusionLib.extension.mrml.placement import (
    BoxState,
    add_roi,
    box_state,
    crosshair_world,
    last_point_world,
    roi_box,
    set_roi,
    show_state,
)
from LesionDiffusionLib.geometry import Box, Geometry, axes_to_size

pytestmark = pytest.mark.usefixtures("scene")
assert scene

TRANSFORMS = {
    "none": None,
    "rotated": rigid((15, -20, 30), (40, -7, 12)),
    "flipped": np.diag([-1.0, -1.0, 1.0, 1.0]),
    "mirrored": np.diag([-1.0, 1.0, 1.0, 1.0]),
}
grids = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
transforms = pytest.mark.parametrize("matrix", TRANSFORMS.values(), ids=TRANSFORMS.keys())


def ct_node(grid: Geometry, matrix=None, dtype=np.int16):
    ct, organs = make_patient(grid, dtype=dtype)
    node = add_ct(ct)
    if matrix is not None:
        put_under_transform(node, matrix)
    return node, ct, organs


@grids
@transforms
def test_a_volume_s_grid_in_the_world(grid, matrix):
    node, ct, _ = ct_node(grid, matrix)
    expected = grid if matrix is None else moved(grid, matrix)
    assert volume_geometry(node).difference(expected) is None
    assert np.array_equal(voxels(node), ct.array)


def test_voxels_are_no_copy():
    node, *_ = ct_node(GRIDS["oblique"])
    voxels(node)[3, 4, 5] = 1234
    assert slicer.util.arrayFromVolume(node)[5, 4, 3] == 1234
    assert np.shares_memory(voxels(node), slicer.util.arrayFromVolume(node))


def test_two_transforms_one_above_the_other():
    node, *_ = ct_node(GRIDS["LPS"])
    lower, upper = rigid((0, 0, 90)), rigid((0, 45, 0), (1, 2, 3))
    transform = put_under_transform(node, lower)
    put_under_transform(transform, upper)
    assert volume_geometry(node).difference(moved(GRIDS["LPS"], upper @ lower)) is None


def test_a_bent_volume_is_refused_with_what_to_do():
    node, *_ = ct_node(GRIDS["LPS"])
    put_under_bend(node)
    with pytest.raises(GeometryError, match=r'"CT" is under the transform "bend", which is not linear; harden it'):
        volume_geometry(node)


def test_a_sheared_volume_is_refused():
    node, *_ = ct_node(GRIDS["LPS"])
    shear = np.eye(4)
    shear[0, 1] = 0.2
    put_under_transform(node, shear)
    with pytest.raises(GeometryError, match="sheared"):
        volume_geometry(node)


def test_a_volume_without_voxels():
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    with pytest.raises(VolumeError, match='"empty" has no voxels'):
        volume_geometry(node)


def test_several_numbers_a_voxel():
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "color")
    slicer.util.updateVolumeFromArray(node, np.zeros((3, 4, 5, 3), np.uint8))
    with pytest.raises(VolumeError, match="several numbers a voxel"):
        volume_geometry(node)


# Organs


def labels_on(segmentation, numbers, node):
    out = np.zeros(volume_geometry(node).shape, np.uint8, order="F")
    organ_labels(segmentation, numbers, node, out)
    return out


@grids
@transforms
def test_segments_become_labels_exactly(grid, matrix):
    node, _, organs = ct_node(grid, matrix)
    segmentation = add_segmentation(organs, node)
    assert [segment.name for segment in segments(segmentation)] == organs.names_present()
    labels = labels_on(segmentation, {"liver": 3, "urinary_bladder": 7}, node)
    assert np.array_equal(labels == 3, organs.mask("liver"))
    assert np.array_equal(labels == 7, organs.mask("urinary bladder"))
    assert not (labels_on(segmentation, {"liver": 3}, node) == 7).any()


def test_segments_made_on_another_grid():
    fine, coarse = make_geometry((60, 60, 60), (1.5,) * 3), make_geometry((48, 44, 40), (2.0, 2.2, 2.5))
    ct, _ = make_patient(coarse, dtype=np.int16)
    other, organs = make_patient(fine)
    node, reference = add_ct(ct), add_ct(other, "other")
    segmentation = add_segmentation(organs, reference)
    labels = labels_on(segmentation, {"liver": 1}, node)
    at = np.argwhere(np.ones(coarse.shape, bool))
    there = np.rint(coarse.to_voxel_of(fine, at)).astype(int)
    inside = np.all((there >= 0) & (there < fine.shape), axis=1)
    expected = np.zeros(coarse.shape, bool)
    expected[tuple(at[inside].T)] = organs.mask("liver")[tuple(there[inside].T)]
    assert (expected != (labels > 0)).mean() < 0.002, "but for ties"
    assert labels.sum() > 1000


def test_segments_under_another_transform_than_the_ct():
    grid = make_geometry((40, 40, 40), (2.0, 2.0, 2.0))
    node, _, organs = ct_node(grid)
    segmentation = add_segmentation(organs, node)
    put_under_transform(segmentation, rigid(shift_mm=(4, 0, -6)))
    labels = labels_on(segmentation, {"liver": 1}, node)
    assert np.array_equal(labels[2:, :, :-3], organs.mask("liver")[:-2, :, 3:])


def test_overlapping_segments_and_shared_layers():
    node, _, organs = ct_node(GRIDS["LPS"])
    segmentation = add_segmentation(organs, node)
    overlapping = np.zeros(organs.volume.array.shape, np.uint8)
    overlapping[20:30, 15:25, 20:30] = 1
    extra = segmentation.GetSegmentation().AddEmptySegment("extra", "extra")
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        np.ascontiguousarray(overlapping.transpose(2, 1, 0)), segmentation, extra, node
    )
    labels = labels_on(segmentation, {"liver": 1, "urinary_bladder": 2, "extra": 9}, node)
    assert (labels == 9).sum() == overlapping.sum()
    assert ((labels == 1) == (organs.mask("liver") & (overlapping == 0))).all()
    segmentation.GetSegmentation().CollapseBinaryLabelmaps()
    assert np.array_equal(labels_on(segmentation, {"liver": 1, "urinary_bladder": 2, "extra": 9}, node), labels)


def test_a_segmentation_with_nothing_in_it():
    node, *_ = ct_node(GRIDS["LPS"])
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "nothing")
    assert not labels_on(empty, {}, node).any()
    empty.GetSegmentation().AddEmptySegment("a", "a segment")
    assert not labels_on(empty, {"a": 1}, node).any()
    with pytest.raises(LabelError, match='segment "a segment" is empty'):
        segment_box(empty, "a", node)
    assert segment_extent_mm(empty, "a") == (0.0, 0.0, 0.0)


@grids
@transforms
def test_the_box_of_a_segment(grid, matrix):
    node, _, organs = ct_node(grid, matrix)
    segmentation = add_segmentation(organs, node)
    assert segment_box(segmentation, "liver", node) == Box.bounding(organs.mask("liver"))


def test_the_box_of_a_segment_outside():
    node, _, organs = ct_node(GRIDS["LPS"])
    segmentation = add_segmentation(organs, node)
    put_under_transform(segmentation, rigid(shift_mm=(500, 0, 0)))
    with pytest.raises(GeometryError, match="outside the volume"):
        segment_box(segmentation, "liver", node)


@transforms
def test_points_are_looked_up_in_the_segments(matrix, generator):
    grid = GRIDS["oblique"]
    node, _, organs = ct_node(grid, matrix)
    segmentation, geometry = add_segmentation(organs, node), volume_geometry(node)
    vox = generator.integers(0, grid.shape, (500, 3))
    points = geometry.to_ras(vox)
    inside = organs.mask("liver")[tuple(vox.T)]
    assert share_inside(segmentation, ["liver"], points) == pytest.approx(inside.mean())
    assert share_inside(segmentation, ["liver", "urinary_bladder"], points) >= inside.mean()
    assert share_inside(segmentation, ["liver"], points + 10_000) == 0
    assert share_inside(segmentation, ["absent"], points) == 0


# Boxes


@grids
@transforms
@pytest.mark.parametrize("roi_matrix", TRANSFORMS.values(), ids=[f"ROI {name}" for name in TRANSFORMS])
def test_a_box_survives_the_way_through_a_roi(grid, matrix, roi_matrix):
    node, *_ = ct_node(grid, matrix)
    geometry, box = volume_geometry(node), Box((3, 7, 5), (14, 9, 12))
    roi = add_roi("box")
    if roi_matrix is not None:
        put_under_transform(roi, roi_matrix, "of the ROI")
    set_roi(roi, box, geometry)
    assert roi_box(roi, geometry) == box
    assert np.prod(roi.GetSize()) == pytest.approx(np.prod(box.size_mm(geometry)))


def test_a_box_of_a_user_is_the_nearest_voxels():
    geometry = make_geometry((50, 50, 50), (2.0, 2.0, 3.0), np.diag([-1.0, -1.0, 1.0]))
    roi = add_roi("box")
    roi.SetCenter(-41, -41, 61.5)
    roi.SetSize(10, 10, 9)
    assert roi_box(roi, geometry).shape == (5, 5, 3)
    roi.SetSize(0.1, 0.1, 0.1)
    assert roi_box(roi, geometry).shape == (1, 1, 1), "never nothing"


def test_eight_corners_not_two():
    """A box rotated by 45 degrees covers its diagonal; its first and last corner alone would not."""
    geometry = make_geometry((100, 100, 100))
    roi = add_roi("box")
    roi.SetSize(20, 20, 20)
    put_under_transform(roi, rigid((0, 0, 45), (50, 50, 50)))
    assert roi_box(roi, geometry).shape == (29, 29, 20)


def test_a_bent_box_is_refused():
    roi = add_roi("box")
    put_under_bend(roi)
    with pytest.raises(GeometryError, match='"box" is under the transform "bend"'):
        roi_box(roi, make_geometry((10, 10, 10)))


def test_the_states_of_a_box():
    node, _, organs = ct_node(GRIDS["LPS"])
    segmentation, geometry = add_segmentation(organs, node), volume_geometry(node)
    organ, middle = (segmentation, ["liver"]), Box((20, 18, 24), (26, 24, 29))
    assert box_state(middle, geometry, organ, (60, 60, 60)) == BoxState.FINE
    assert box_state(middle, geometry, organ, (60, 60, 5)) == BoxState.TOO_LARGE
    assert box_state(Box((0, 0, 0), (6, 6, 6)), geometry, organ, (60, 60, 60)) == BoxState.LEAVES_ORGAN
    assert box_state(Box((0, 0, 0), (6, 6, 6)), geometry, None, (60, 60, 60)) == BoxState.FINE
    assert box_state(Box((-1, 0, 0), (6, 6, 6)), geometry, organ, (60, 60, 60)) == BoxState.OUTSIDE_VOLUME
    assert len({state.value for state in BoxState}) == len(BoxState)


def test_the_limit_is_along_the_patient_s_axes():
    grid = GRIDS["flipped and permuted, odd sizes"]
    box = Box((10, 10, 10), (12, 20, 16))
    size_mm = axes_to_size(grid, box.size_mm(grid))
    assert box_state(box, grid, None, size_mm) == BoxState.FINE
    for axis in range(3):
        limit = [extent - (0.5 if axis == a else 0) for a, extent in enumerate(size_mm)]
        assert box_state(box, grid, None, limit) == BoxState.TOO_LARGE


def test_the_outline_shows_the_state():
    roi = add_roi("box")
    for state in BoxState:
        show_state(roi, state)
        assert roi.GetDisplayNode().GetSelectedColor() == pytest.approx(state.value)


def test_a_clicked_point_is_in_the_world():
    markups = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "points")
    assert last_point_world(markups) is None
    put_under_transform(markups, rigid(shift_mm=(100, 0, 0)))
    markups.AddControlPointWorld([1, 2, 3])
    markups.AddControlPointWorld([4, 5, 6])
    assert last_point_world(markups) == pytest.approx([4, 5, 6])
    assert crosshair_world() == pytest.approx([0, 0, 0])
