"""Organs by the TotalSegmentator extension, if the user has it."""

from __future__ import annotations

import slicer


def installed() -> bool:
    """Whether the extension is there."""
    return hasattr(slicer.modules, "totalsegmentator")


def segment(ct: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLSegmentationNode:
    """A segmentation of the organs of a CT; takes minutes, and asks by itself before it installs packages."""
    from TotalSegmentator import TotalSegmentatorLogic

    logic = TotalSegmentatorLogic()
    logic.setupPythonRequirements()
    organs = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{ct.GetName()} organs")
    organs.CreateDefaultDisplayNodes()
    organs.SetReferenceImageGeometryParameterFromVolumeNode(ct)
    try:
        logic.process(ct, organs, quality="fast", task="total")
    except BaseException:
        slicer.mrmlScene.RemoveNode(organs)
        raise
    return organs
