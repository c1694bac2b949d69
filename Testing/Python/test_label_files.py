"""Organ maps with the names in their headers, and masks, in and out."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import make_geometry
from itk_files import AWKWARD, QFORM_ONLY, SFORM_ONLY, itk_file, itk_image, patched, with_extension

from LesionDiffusionLib.errors import VolumeError
from LesionDiffusionLib.io import read_labels, read_mask, write_labels

LABELS = np.zeros(AWKWARD.shape, np.uint8)
LABELS[2:5, 1:4, 2:5] = 5
TABLE = (
    b'<?xml version="1.0"?><CaretExtension><VolumeInformation><LabelTable>'
    b'<Label Key="5" Red="1"><![CDATA[liver]]></Label><Label Key="2"><![CDATA[kidney_right]]></Label>'
    b"</LabelTable></VolumeInformation></CaretExtension>"
)


def test_labels_come_with_the_table_in_their_nifti_header(tmp_path):
    path = with_extension(itk_file(tmp_path / "map.nii.gz", LABELS.astype(np.int16)), TABLE)
    label_map, names = read_labels(path)
    assert names == {5: "liver", 2: "kidney_right"}
    assert np.array_equal(label_map.array, LABELS)
    assert label_map.geometry.difference(AWKWARD) is None


def test_labels_without_a_table_have_none(tmp_path):
    assert read_labels(itk_file(tmp_path / "map.nii.gz", LABELS))[1] is None
    assert read_labels(with_extension(itk_file(tmp_path / "x.nii.gz", LABELS.astype(np.int16)), b"comment"))[1] is None


@pytest.mark.parametrize("damage", [(b"</Label>", b"</Lable>"), (b'Key="5"', b'Key="five"'), (b"Key=", b"Kee=")])
def test_a_damaged_table_is_not_passed_over(damage, tmp_path):
    path = with_extension(itk_file(tmp_path / "map.nii.gz", LABELS.astype(np.int16)), TABLE.replace(*damage))
    with pytest.raises(VolumeError, match="the label table in its header is damaged"):
        read_labels(path)


def test_segment_names_of_a_slicer_segmentation(tmp_path):
    image = itk_image(LABELS, AWKWARD)
    for key, value in {
        "Segment0_ID": "Segment_1",
        "Segment0_Name": "left kidney",
        "Segment0_LabelValue": "3",
        "Segment1_Name": "liver",
        "Segment1_LabelValue": "5",
    }.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(tmp_path / "map.seg.nrrd"), useCompression=True)
    label_map, names = read_labels(tmp_path / "map.seg.nrrd")
    assert names == {3: "left kidney", 5: "liver"}
    assert np.array_equal(label_map.array, LABELS)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_whole_numbers_stored_as_float_are_labels(suffix, tmp_path):
    label_map, _ = read_labels(itk_file(tmp_path / f"map{suffix}", LABELS.astype(np.float32)))
    assert label_map.array.dtype == np.int32
    assert np.array_equal(label_map.array, LABELS)


@pytest.mark.parametrize(("value", "shown"), [(0.53, "0.53"), (np.nan, "nan")])
def test_other_numbers_are_not_labels(value, shown, tmp_path):
    array = LABELS.astype(np.float32)
    array[3, 3, 3] = value
    with pytest.raises(VolumeError, match=rf"is not a label map: it holds the value {shown}"):
        read_labels(itk_file(tmp_path / "map.nii.gz", array))


def test_a_folder_is_no_label_map(tmp_path):
    with pytest.raises(VolumeError, match=r"is a folder, expected a file of one of \.nii"):
        read_labels(tmp_path)


def test_a_mask_is_what_is_not_zero(tmp_path):
    mask = read_mask(itk_file(tmp_path / "mask.nrrd", LABELS.astype(np.float32) / 10))
    assert mask.array.dtype == bool
    assert np.array_equal(mask.array, LABELS > 0)
    assert mask.geometry.difference(AWKWARD) is None


def test_an_empty_mask_is_refused(tmp_path):
    with pytest.raises(VolumeError, match="is an empty mask: every voxel is 0"):
        read_mask(itk_file(tmp_path / "mask.nii.gz", np.zeros_like(LABELS)))


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nii"])
def test_a_written_mask_is_read_by_itk_on_the_same_grid(name, tmp_path):
    write_labels(LABELS > 0, AWKWARD, tmp_path / name)
    image = sitk.ReadImage(str(tmp_path / name))
    assert image.GetPixelID() == sitk.sitkUInt8
    assert np.array_equal(sitk.GetArrayFromImage(image).T, LABELS > 0)
    assert read_labels(tmp_path / name)[0].geometry.difference(AWKWARD) is None


@pytest.mark.parametrize("form", [QFORM_ONLY, SFORM_ONLY], ids=["qform", "sform"])
def test_both_forms_of_a_new_header_say_the_same(form, tmp_path, generator):
    """Right- and left-handed grids, rotations by more and less than 180 degrees."""
    for _ in range(40):
        axes = np.eye(3)[:, generator.permutation(3)] * generator.choice((-1, 1), 3)
        geometry = make_geometry(
            (4, 5, 6), generator.uniform(0.3, 5, 3), axes, generator.uniform(-180, 180, 3), (9, -70, 300)
        )
        write_labels(np.ones(geometry.shape, bool), geometry, tmp_path / "mask.nii")
        # The quaternion is float32 and leaves its real part to be computed, which costs up to 1e-4 rad.
        assert read_mask(patched(tmp_path / "mask.nii", form)).geometry.difference(geometry, 2e-3) is None
