"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write so that ``path`` appears under its name only once it is whole and safe on disk.

    Yields "part-NAME" beside ``path``: the ending stays, since some writers choose the format by it. After an exception
    nothing of it is left and an earlier ``path`` is as it was; a kill leaves the part, and the next attempt writes over
    it. For one writing process at a time. Raises ``OSError`` like the writing itself.
    """
    partial = path.with_name(f"part-{path.name}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:  # Ctrl-C, too, leaves nothing half-written
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
