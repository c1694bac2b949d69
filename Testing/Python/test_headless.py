"""Commands run as files, by Python and as Slicer runs them: always an exit code, no dialog, no torch in Slicer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from training_cases import prepared_dataset

COMMANDS = ("demo", "synthesize", "batch", "report", "bundles", "prepare", "train", "benchmark", "doctor")
# As Slicer's --python-script: exec in __main__, the script's folder first on the path, and alive when it ends or fails.
AS_SLICER = """
import sys, os, types, traceback
slicer = sys.modules["slicer"] = types.ModuleType("slicer")
slicer.app = object()
script = sys.argv[1]
sys.argv[:] = sys.argv[1:]
sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
__file__ = script
try:
    exec(open(script).read(), globals())
except Exception:
    traceback.print_exc()
finally:
    print("torch in Slicer:", "torch" in sys.modules, file=sys.stderr)
print("Slicer lives on", file=sys.stderr)
sys.exit(99)
"""


def scripts(repository: Path) -> list[Path]:
    folder = repository / "LesionDiffusionLib" / "scripts"
    return [folder / f"{name}.py" for name in COMMANDS]


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess:
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=120)


def in_slicer(script: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess:
    python = folder / "PythonSlicer"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return run([sys.executable, "-c", AS_SLICER, str(script), *arguments], folder, PATH=path)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_runs_as_a_file(repository, tmp_path, name):
    script = repository / "LesionDiffusionLib" / "scripts" / f"{name}.py"
    told = run([sys.executable, str(script), "--help"], tmp_path)
    assert told.returncode == 0, told.stderr
    assert f"usage: lesiondiffusion {name}" in told.stdout


def test_python_gets_the_exit_code(repository, tmp_path):
    report = repository / "LesionDiffusionLib" / "scripts" / "report.py"
    assert run([sys.executable, str(report), "--lesion", "liver cyst"], tmp_path).returncode == 0
    told = run([sys.executable, str(report), "--lesion", "no such"], tmp_path)
    assert told.returncode == 2
    assert told.stderr.startswith("error: ")


@pytest.mark.skipif(os.name == "nt", reason="SKIPPED, not passed: needs a shell script as PythonSlicer")
def test_slicer_ends_with_the_exit_code_and_never_loads_torch(repository, tmp_path):
    report = repository / "LesionDiffusionLib" / "scripts" / "report.py"
    for arguments, code in ((("--lesion", "liver cyst"), 0), (("--lesion", "no such"), 2), (("--nonsense",), 2)):
        told = in_slicer(report, *arguments, folder=tmp_path)
        assert told.returncode == code, told.stderr
        assert "torch in Slicer: False" in told.stderr
        assert "Slicer lives on" not in told.stderr
    assert "expected" not in told.stdout


@pytest.mark.skipif(os.name == "nt", reason="SKIPPED, not passed: needs a shell script as PythonSlicer")
def test_a_training_starts_from_slicer(repository, tmp_path):
    train, data = repository / "LesionDiffusionLib" / "scripts" / "train.py", prepared_dataset(tmp_path)
    small = ("--preset", "starter", "--set", "window.shape=[16,16,16]", "--set", "window.box_voxels=8")
    how = ("lmnet", "--data", str(data), "--out", str(tmp_path / "out"), "--device", "cpu", *small, "--dry-run")
    told = in_slicer(train, *how, folder=tmp_path)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["training_cases"] == 3
    told = in_slicer(train, *how, "--set", "nothing=1", folder=tmp_path)
    assert told.returncode == 2
    assert "no setting is called" in told.stderr
    assert "torch in Slicer: False" in told.stderr


@pytest.mark.skipif(os.name == "nt", reason="SKIPPED, not passed: needs a shell script as PythonSlicer")
def test_slicer_ends_when_the_command_has_a_bug(repository, tmp_path):
    copy = tmp_path / "LesionDiffusionLib" / "scripts" / "report.py"
    copy.parent.mkdir(parents=True)
    copy.write_text((repository / "LesionDiffusionLib" / "scripts" / "report.py").read_text())
    (tmp_path / "LesionDiffusionLib" / "__init__.py").write_text("")
    headless = (repository / "LesionDiffusionLib" / "scripts" / "headless.py").read_text()
    (copy.parent / "headless.py").write_text(headless)
    (copy.parent / "__init__.py").write_text("")
    (copy.parent / "cli.py").write_text("def main(arguments): raise RuntimeError('a bug')")
    (tmp_path / "LesionDiffusionLib" / "worker_client.py").write_text("def python_for_worker(): raise OSError('gone')")
    told = in_slicer(copy, folder=tmp_path)
    assert told.returncode == 1
    assert "gone" in told.stderr
    told = run([sys.executable, str(copy)], tmp_path)
    assert told.returncode == 1
    assert "a bug" in told.stderr


def test_a_missing_package_is_told_with_the_command_that_installs_it(repository, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['tqdm'] = None")
    report = repository / "LesionDiffusionLib" / "scripts" / "report.py"
    told = run([sys.executable, str(report), "--lesion", "liver cyst"], tmp_path, PYTHONPATH=str(tmp_path))
    assert told.returncode == 3
    needed = re.search(r"^dependencies = \[\n(.*?)^\]", (repository / "pyproject.toml").read_text(), re.M | re.S)[1]
    names = re.findall(r'"([\w-]+)', needed)
    assert "torch" in names
    assert told.stderr.strip().split("-m pip install ")[1].split() == names
