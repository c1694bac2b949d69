"""A MRML scene with its logics, as `slicer.mrmlScene` and `slicer.modules.X.logic()`: real MRML, no application."""

from __future__ import annotations

from types import SimpleNamespace

LOGICS = {  # attribute of slicer.modules -> class of slicer-core
    "colors": "vtkMRMLColorLogic",
    "markups": "vtkSlicerMarkupsLogic",
    "plots": "vtkSlicerPlotsLogic",
    "segmentations": "vtkSlicerSegmentationsModuleLogic",
    "subjecthierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "tables": "vtkSlicerTablesLogic",
    "terminologies": "vtkSlicerTerminologiesModuleLogic",
    "texts": "vtkSlicerTextsLogic",
    "transforms": "vtkSlicerTransformLogic",
    "volumes": "vtkSlicerVolumesLogic",
}


def make_scene():
    """A new scene in ``slicer.mrmlScene``, and its logics in ``slicer.modules``. Returns the scene."""
    import slicer

    application = slicer.vtkSlicerApplicationLogic()
    scene = slicer.vtkMRMLScene()
    application.SetMRMLScene(scene)
    logics = {}
    for name, class_name in LOGICS.items():
        logic = getattr(slicer, class_name)()
        if hasattr(logic, "SetMRMLApplicationLogic"):
            logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        logics[name] = logic
    slicer.mrmlScene = scene
    slicer.modules = SimpleNamespace(**{name: SimpleNamespace(logic=lambda n=name: logics[n]) for name in logics})
    slicer.modules.application_logic = application  # kept alive with the scene
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    return scene
