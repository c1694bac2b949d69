"""Two processes see one array; who owns it, and what remains of it."""

from __future__ import annotations

import errno
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from LesionDiffusionLib import shared_arrays
from LesionDiffusionLib.errors import VolumeError
from LesionDiffusionLib.shared_arrays import HAS_MEMFD, Address, abandon, attach, share

WAYS = [pytest.param(True, id="named")]
if HAS_MEMFD:
    WAYS.append(pytest.param(False, id="memfd"))

OTHER_PROCESS = """
import json, sys
from LesionDiffusionLib.shared_arrays import Address, attach
block = attach(Address.from_json(json.loads(sys.argv[1])))
assert block.array.flags.f_contiguous
block.array[2, 1, 0] += 40
if sys.argv[2] == "close":
    block.close()
"""


def visit(address: Address, manners: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", "-c", OTHER_PROCESS, json.dumps(address.to_json()), manners]
    return subprocess.run(command, capture_output=True, text=True, check=True)


@pytest.mark.parametrize("named", WAYS)
@pytest.mark.parametrize("manners", ["close", "just end"])
def test_another_process_reads_and_writes_without_taking_ownership(named, manners):
    with share((4, 3, 2), np.int16, named) as block:
        block.array[:] = np.arange(24).reshape(4, 3, 2)
        for visitor in range(1, 3):  # a tracker would have destroyed the array after the first one
            assert visit(block.address, manners).stderr == ""
            assert block.array[2, 1, 0] == 14 + 40 * visitor
        assert block.array[3, 2, 1] == 23


@pytest.mark.parametrize("named", WAYS)
def test_a_closed_array_is_gone(named):
    block = share((5, 5, 5), np.float32, named)
    address = block.address
    block.close()
    block.close()  # twice is once
    with pytest.raises(VolumeError, match=r"is gone.*run again"):
        attach(address)


@pytest.mark.parametrize("named", WAYS)
def test_views_outlive_the_array(named):
    block = share((2, 2, 2), np.uint8, named)
    view = block.array[1:]
    block.array[:] = 7
    block.close()
    assert view.sum() == 28
    del block, view
    gc.collect()


def test_the_dead_owner_s_memory_is_freed():
    block = share((2, 2, 2), np.uint8, named=True)
    abandon(block.address)
    abandon(block.address)
    with pytest.raises(VolumeError, match="is gone"):
        attach(block.address)
    block.close()


@pytest.mark.parametrize("named", WAYS)
@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no posix_fallocate on this system")
def test_full_memory_is_an_error_not_a_bus_error(monkeypatch, named):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = set(Path("/dev/shm").iterdir()) if Path("/dev/shm").is_dir() else set()
    with pytest.raises(VolumeError, match=r"200 MiB of memory are needed.*No space left.*crop the volume"):
        share((512, 512, 400), np.int16, named)
    if Path("/dev/shm").is_dir():
        assert set(Path("/dev/shm").iterdir()) == before


def test_the_tracker_is_as_before(monkeypatch):
    saved = shared_arrays.resource_tracker.register
    share((2, 2, 2), np.uint8, named=True).close()
    assert shared_arrays.resource_tracker.register is saved
