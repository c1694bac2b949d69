"""The procedural CT phantom as nodes: a patient to try things on, without a download."""

from __future__ import annotations

import numpy as np
import slicer

from LesionDiffusionLib.extension.mrml.geometry import as_matrix, oriented_image
from LesionDiffusionLib.extension.organ_matching import anatomic_region
from LesionDiffusionLib.geometry import Box

SEED = 7
SPACING_MM = 2.5


def add_phantom(
    spacing_mm: float = SPACING_MM,
) -> tuple[slicer.vtkMRMLScalarVolumeNode, slicer.vtkMRMLSegmentationNode]:
    """A CT of a torso and the segmentation of its organs; takes seconds."""
    from LesionDiffusionLib.phantom import make_phantom

    phantom = make_phantom(np.random.default_rng(SEED), "torso", spacing_mm)
    ct = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Phantom CT")
    slicer.util.updateVolumeFromArray(ct, np.ascontiguousarray(phantom.ct.array.astype(np.int16).transpose(2, 1, 0)))
    ct.SetIJKToRASMatrix(as_matrix(phantom.ct.geometry.affine_ras))
    ct.CreateDefaultDisplayNodes()
    ct.GetDisplayNode().SetAutoWindowLevel(False)
    ct.GetDisplayNode().SetWindowLevel(400, 40)
    return ct, _add_organs(ct, phantom.organs.volume.array, phantom.organs.table)


def _add_organs(ct, labels: np.ndarray, table) -> slicer.vtkMRMLSegmentationNode:
    from vtk.util.numpy_support import numpy_to_vtk

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Phantom organs")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(ct)
    for number in np.unique(labels[labels > 0]):
        name, mask = table[int(number)], labels == number
        box = Box.bounding(mask)
        image = oriented_image(ct, box)
        image.GetPointData().SetScalars(numpy_to_vtk(mask[box.slices].ravel(order="F").astype(np.uint8), deep=True))
        color = np.random.default_rng(int(number)).uniform(0.3, 0.95, 3)
        segment_id = node.AddSegmentFromBinaryLabelmapRepresentation(image, name, list(map(float, color)))
        region, side = anatomic_region(name)
        if region != "^^":
            parts = ("Segmentation category and type - DICOM master list", "SCT^123037004^Anatomical Structure")
            segment = node.GetSegmentation().GetSegment(segment_id)
            segment.SetTerminology("~".join((*parts, region, side, "Anatomic codes - DICOM master list", "^^", "^^")))
    return node
