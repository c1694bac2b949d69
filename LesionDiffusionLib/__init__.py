"""LesionDiffusion: text-described synthetic lesions in real 3-D CT. Research use only.

Importing this package is cheap: it loads neither torch nor SimpleITK.
"""

from __future__ import annotations

__version__ = "0.1.0"
