"""What Slicer learns once it has started: the terminology of synthetic lesions, and sample data."""

from __future__ import annotations

import slicer

from LesionDiffusionLib.extension.mrml.phantom import add_phantom
from LesionDiffusionLib.resources import resource_path

CATEGORY = "LesionDiffusion"
CT_SHA256 = "e16eae0ae6fefa858c5c11e58f0f1bb81834d81b7102e021571056324ef6f37e"
CT_URL = f"https://github.com/Slicer/SlicerTestingData/releases/download/SHA256/{CT_SHA256}"


def register_data() -> None:
    """Called when Slicer has started; nothing is downloaded here."""
    slicer.modules.terminologies.logic().LoadTerminologyFromFile(str(resource_path("LesionDiffusion.term.json")))
    try:
        import SampleData
    except ImportError:  # a Slicer without that module
        return
    logic = SampleData.SampleDataLogic
    logic.registerCustomSampleDataCategory(CATEGORY, title="Lesion Diffusion")
    logic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName="LesionDiffusionPhantom",
        thumbnailFileName=str(resource_path("Icons/LesionDiffusionPhantom.png")),
        uris=[],
        fileNames=[],
        customDownloader=_show_phantom,  # drawn here, not downloaded
    )
    logic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName="LesionDiffusionCTLiver",
        uris=CT_URL,
        fileNames="CTLiver.nrrd",
        nodeNames="CTLiver",
        checksums=f"SHA256:{CT_SHA256}",
    )


def _show_phantom(_source: object) -> list[slicer.vtkMRMLNode]:
    ct, organs = add_phantom()
    slicer.util.setSliceViewerLayers(background=ct, fit=True)
    return [ct, organs]
