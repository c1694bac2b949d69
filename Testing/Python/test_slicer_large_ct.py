"""A large CT goes to the worker in one copy, and back only as the part that changed."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_geometry
from slicer_panel import client, slicer, tiny_home, user
from slicer_scene import add_ct

from LesionDiffusionLib.extension.mrml.geometry import oriented_image
from LesionDiffusionLib.extension.mrml.lesions import lesions
from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.volume import Volume

assert all((client, tiny_home, user))
MIB = 2**20
SHAPE = (512, 512, 400)
CT_MIB = np.prod(SHAPE) * 2 / MIB


def memory_mib(what: str, process: int | str = "self") -> float:
    """A line of /proc/PID/status in MiB."""
    with open(f"/proc/{process}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(what)) / 1024


@pytest.mark.slow
def test_one_copy_beyond_input_and_output(user, tmp_path, monkeypatch):
    array = np.full(SHAPE, 40, np.int16, order="F")
    array[::7] = 60
    array[:4] = -1000
    ct = add_ct(Volume(array, make_geometry(SHAPE, (0.8, 0.8, 1.0), np.diag([-1.0, -1.0, 1.0]))), "large")
    del array
    organs = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    organs.CreateDefaultDisplayNodes()
    image = oriented_image(ct, Box((150, 150, 100), (350, 350, 300)))
    image.AllocateScalars(3, 1)
    image.GetPointData().GetScalars().Fill(1)
    organs.AddSegmentFromBinaryLabelmapRepresentation(image, "liver", [1.0, 0.0, 0.0])
    node = user.node
    node.inputVolume, node.organSegmentation, node.bundle = ct, organs, "tiny"
    node.lesionType, node.organ = "liver cyst", "liver"
    node.sizeStated, node.sizeX, node.sizeY, node.sizeZ = True, 28, 28, 28
    user.look()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")  # the peak counts from here
    before, peak_worker = memory_mib("VmRSS"), 0.0
    user.click("applyButton")
    pid = user.errands.client._process.pid

    def done() -> bool:
        nonlocal peak_worker
        if user.errands.busy:
            peak_worker = max(peak_worker, memory_mib("RssAnon", pid))
        return not user.errands.busy

    user.wait(done)
    assert user.status.startswith("Done in"), user.status
    assert len(lesions(node.resultVolume)) == 1
    grown = memory_mib("VmHWM") - before
    # The output, the copy for the worker, the organ map (one byte a voxel) and its resampling (one plane at a time).
    assert grown < 2.7 * CT_MIB, f"{grown:.0f} MiB for a CT of {CT_MIB:.0f} MiB"
    assert memory_mib("VmRSS") - before < 1.3 * CT_MIB, "after the run only the output is left"
    assert peak_worker < 1024, f"the worker's own memory: {peak_worker:.0f} MiB"
    assert not list(tmp_path.iterdir()), "nothing went through a file"
    print(f"grown {grown:.0f} MiB, worker {peak_worker:.0f} MiB, CT {CT_MIB:.0f} MiB")
