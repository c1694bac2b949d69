"""`python -m LesionDiffusionLib` is the command `lesiondiffusion`."""

from __future__ import annotations

import sys

from LesionDiffusionLib.scripts.cli import main

if __name__ == "__main__":
    sys.exit(main())
