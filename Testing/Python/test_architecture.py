"""The arrows between the rooms point one way, and importing the library is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = "LesionDiffusionLib"
# Each room may import rooms of its own or a lower storey, except where SIDEWAYS forbids.
STOREYS = [
    {"errors"},
    {"resources", "geometry", "volume", "intensity", "vocabulary", "report", "resampling", "windowing", "labels",
     "lesion_types", "free_text", "released_report", "placement", "postprocess", "meters", "phantom", "case", "fit",
     "homecoming", "planning", "wish", "histogram", "lesion_patch", "shared_arrays", "worker_protocol", "worker_client",
     "dataclass_json", "measured_report", "pipeline", "csv_rows", "whole_file"},
    {"latent_change"},
    {"networks", "diffusion"},
    {"sampling"},
    {"bundle_folders", "lmnet", "linet", "io", "dicom", "nifti", "nrrd_meta", "voxel_file", "itk_header", "bundles",
     "saved_case", "worklist", "preview", "devices", "memory", "released", "volume_source"},
    {"models"},
    {"synthesis", "run", "mask_stage", "image_stage", "provenance", "training", "adapters",
     "datasets"},
    {"worker", "worker_jobs", "benchmark"},
    {"extension"},
    {"scripts"},
    {"__main__"},
]  # fmt: skip
SIDEWAYS = [("networks", "diffusion"), ("lmnet", "linet"), ("synthesis", "training"), ("adapters", "synthesis")]
PURE = STOREYS[1]
HEAVY = {"torch", "SimpleITK", "safetensors", "open_clip", "transformers", "monai", "vtk", "pydantic", "slicer", "qt"}


def room_of(path: Path, package: Path) -> str:
    parts = path.relative_to(package).parts
    return parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms of the library that a file imports, also inside functions."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(LIBRARY + "."):
            rooms.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == LIBRARY:
            rooms |= {alias.name for alias in node.names if not alias.name.startswith("__")}
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path.name}: relative import of {node.module}; the house style is absolute")
    return rooms


def modules(package: Path) -> list[Path]:
    return [path for path in sorted(package.rglob("*.py")) if path.name != "__init__.py" or path.parent != package]


def storey(room: str) -> int:
    return next(level for level, rooms in enumerate(STOREYS) if room in rooms)


def test_every_arrow_points_down(repository):
    package = repository / LIBRARY
    wrong = []
    for path in modules(package):
        room = room_of(path, package)
        for other in imported_rooms(path) - {room}:
            sideways = (room, other) in SIDEWAYS or (other, room) in SIDEWAYS
            if storey(other) > storey(room) or sideways:
                wrong.append(f"{path.relative_to(package)} imports {other}")
    assert not wrong


def test_pure_rooms_import_nothing_heavy(repository):
    for room in PURE:
        tree = ast.parse((repository / LIBRARY / f"{room}.py").read_text(encoding="utf-8"))
        names = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        names |= {(n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not names & HEAVY, room


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        (f"import {LIBRARY}", HEAVY),
        (f"import {LIBRARY}.scripts.cli", HEAVY),
        (f"import {LIBRARY}.planning, {LIBRARY}.phantom, {LIBRARY}.fit, {LIBRARY}.meters", HEAVY),
        (f"import {LIBRARY}.worker, {LIBRARY}.worker_client, {LIBRARY}.bundle_folders", HEAVY),
        (
            f"import {LIBRARY}.training.trainer, {LIBRARY}.training.bundling, {LIBRARY}.training.presets",
            HEAVY - {"torch", "safetensors"},
        ),
    ],
)
def test_imports_stay_light(statement, absent):
    """Run in a fresh interpreter: what a statement loads does not depend on other tests."""
    code = f"import sys; {statement}; print(sorted(set(sys.modules) & {absent!r}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
