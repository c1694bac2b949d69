"""The Slicer side of LesionDiffusion.

House rules: `mrml/` is the only room that touches MRML; `panel/` the only one that touches widgets; neither knows
torch, which lives in the worker process. `synthesizer` joins scene and worker without any widget, so that the Python
console and headless scripts can use it. Nothing here is imported without Slicer, and importing it installs, downloads
and starts nothing.
"""
