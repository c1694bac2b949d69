"""The module's panel: one file a section of the form, and `panel` that joins them. Widgets are shown here, not decided:
what a control means stands in `parameters`, what hinders Apply in `patient`, what happens in `synthesizer`.
"""
