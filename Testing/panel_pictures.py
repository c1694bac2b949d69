"""Take the pictures of the panel into the documentation.

`python -m pytest Testing/Python/test_slicer_starter.py` makes them in out/panel; this makes them small.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
SECTIONS = ("patient", "lesion", "placement", "advanced", "result", "setup")
COLORS = 96


def main() -> None:
    source, target = REPOSITORY / "out" / "panel", REPOSITORY / "docs" / "images"
    pictures = {"panel": "panel"} | {f"{name}Section": f"panel-{name}" for name in SECTIONS}
    for made, shown in pictures.items():
        picture = Image.open(source / f"{made}.png").convert("RGB").quantize(COLORS)
        picture.save(target / f"{shown}.png", optimize=True)


if __name__ == "__main__":
    main()
