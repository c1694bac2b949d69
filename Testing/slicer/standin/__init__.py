"""Stand-ins for what only the Slicer application has, so that our code runs on the slicer-core wheel and PySide6.

They imitate the interface that Slicer 5.12 shows to Python and nothing more. A test that passes here shows that our
code works on real MRML and on real Qt widgets, not that it works in Slicer: that is what LesionDiffusionTest is for.
"""
