"""A command run as a file: by Python, or by `Slicer --no-main-window --python-script FILE`. Never a dialog."""

from __future__ import annotations

import subprocess
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from LesionDiffusionLib.worker_client import python_for_worker

BUG, NO_LIBRARY = 1, 3  # exit codes
HOME = Path(__file__).resolve().parents[2]
BOOTSTRAP = "import sys; sys.path.insert(0, sys.argv.pop(1)); from LesionDiffusionLib.scripts.headless import here"


def run_as_script(command: str) -> NoReturn:
    """Run `lesiondiffusion COMMAND` with this process's arguments, and end the process with the command's exit code.

    Slicer lives on when a script ends or dies of an exception, so every way out of here is an exit. And torch can crash
    inside the Slicer application on Linux (Slicer issue 9275): there, the command gets a PythonSlicer process.
    """
    arguments = [command, *sys.argv[1:]]
    inside_slicer = hasattr(sys.modules.get("slicer"), "app")
    try:
        code = _in_own_process(arguments) if inside_slicer else here(arguments)
    except BaseException:  # noqa: BLE001 - an exception would leave Slicer running for ever
        traceback.print_exc()
        code = BUG
    if sys.stdout is not None:
        sys.stdout.flush()
    sys.exit(code)


def here(arguments: list[str]) -> int:
    """Run a command in this process; 3 when a Python package is missing."""
    try:
        from LesionDiffusionLib.scripts.cli import main

        return main(arguments)
    except SystemExit as end:  # --help, and arguments that cannot be read
        return end.code if isinstance(end.code, int) else BUG
    except ImportError as error:
        packages = "numpy scipy torch safetensors SimpleITK open_clip_torch transformers tqdm Pillow"
        told = f"error: a Python package is missing: {error}; install what is needed: {sys.executable} -m pip install"
        print(f"{told} {packages}", file=sys.stderr)
        return NO_LIBRARY


def _in_own_process(arguments: list[str]) -> int:
    code = f"{BOOTSTRAP}; sys.exit(here(sys.argv[1:]))"
    returned = subprocess.run([python_for_worker(), "-u", "-c", code, str(HOME), *arguments], check=False).returncode
    return returned if returned >= 0 else 128 - returned  # ended by a signal
