"""Training: rendered cases, losses, loops. Imports without SimpleITK, vtk and pydantic."""
