"""TotalSegmentator, where it is installed, as the maker of organ maps. It runs as a program of its own."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

from LesionDiffusionLib.errors import DatasetError
from LesionDiffusionLib.whole_file import whole_file

PROGRAM = "TotalSegmentator"


def find_program() -> str:
    """The path of the installed program, also of one in this Python's own environment that is not activated.

    Raises DatasetError when there is none.
    """
    program = shutil.which(PROGRAM) or shutil.which(PROGRAM, path=sysconfig.get_path("scripts"))
    if program is None:
        raise DatasetError(
            f"{PROGRAM} is not installed: pip install TotalSegmentator, or give existing maps with --organs FOLDER"
        )
    return program


def segment_organs(ct: Path, out: Path, device: str = "gpu", fast: bool = False) -> Path:
    """Write the organ map of a CT file to ``out`` (.nii.gz) and return it; version 2 names its numbers in the header.

    Raises:
        DatasetError: TotalSegmentator is not installed, failed, or wrote nothing.
    """
    program = find_program()
    options = ["--ml", "--device", device, *(["--fast"] if fast else [])]
    with whole_file(out) as partial:
        command = [program, "-i", str(ct), "-o", str(partial), *options]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode or not partial.is_file():
            last = (result.stderr.strip() or result.stdout.strip() or "no message").splitlines()[-1]
            raise DatasetError(f"{PROGRAM} made no organ map of {ct} (exit code {result.returncode}): {last:.200}")
    return out
