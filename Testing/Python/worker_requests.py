"""A patient in shared memory, and requests about it: what the panel does, without the panel."""

from __future__ import annotations

import numpy as np

from LesionDiffusionLib.labels import OrganMap
from LesionDiffusionLib.shared_arrays import SharedArray, share
from LesionDiffusionLib.volume import Volume
from LesionDiffusionLib.worker_protocol import Order, SharedVolume


def lend(volume: Volume) -> tuple[SharedArray, dict]:
    """The volume in shared memory, and how a request names it."""
    block = share(volume.array.shape, volume.array.dtype)
    np.copyto(block.array, volume.array)
    return block, SharedVolume(block.address, volume.geometry).to_json()


def patient_request(ct: Volume, organs: OrganMap, order: Order) -> tuple[list[SharedArray], dict]:
    """Shared memory and content of a request about a patient."""
    (ct_block, ct_told), (organ_block, organs_told) = lend(ct), lend(organs.volume)
    table = {str(number): name for number, name in organs.table.items()}
    return [ct_block, organ_block], {"ct": ct_told, "organs": organs_told, "table": table, "order": order.to_json()}
