"""Messages between the panel and its worker."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import make_geometry

from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.shared_arrays import Address
from LesionDiffusionLib.worker_protocol import Order, SharedVolume, decode, encode

REPORT = LesionReport("liver cyst", "liver", (10.0, 12.0, 14.0), specific_features=())


def test_a_message_is_one_line():
    line = encode({"do": "synthesize", "text": "two\nlines, ümläut"})
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line) == {"do": "synthesize", "text": "two\nlines, ümläut"}


@pytest.mark.parametrize(
    "line",
    [
        b"Loading module X\n",
        b"\n",
        b"",
        b"17\n",
        b"[1, 2]\n",
        b'{"a": 1}\n',
        b"\xff\xfe\x00\n",
        b"[" * 100_000,
        b'"do"',
    ],
)
def test_what_a_process_may_also_print_is_no_message(line):
    assert decode(line) is None


@pytest.mark.parametrize("place", ["rule", "box", "lesion"])
def test_an_order_survives(place):
    box = Box((1, 2, 3), (5, 7, 6))
    lesion = np.arange(4 * 5 * 3).reshape(box.shape) % 3 == 0
    places = {"rule": {}, "box": {"box": box}, "lesion": {"lesion": (box, lesion)}}
    order = Order(REPORT, **places[place], settings={"seed": 5, "steps": None}, bundle="tiny", device="cpu")
    again = Order.from_json(json.loads(json.dumps(order.to_json())))
    assert again.to_json() == order.to_json()
    assert again.report == REPORT
    assert again.box == order.box
    if place == "lesion":
        assert again.lesion[0] == box
        assert np.array_equal(again.lesion[1], lesion)


def test_a_volume_s_place_survives_exactly():
    grid = make_geometry((4, 5, 6), (0.7, 0.8, 2.5), degrees_xyz=(10, -7, 3), origin_ras=(1.25, -3, 1 / 3))
    volume = SharedVolume(Address("/proc/1/fd/3", grid.shape, "<i2"), grid)
    again = SharedVolume.from_json(json.loads(json.dumps(volume.to_json())))
    assert again.address == volume.address
    assert np.array_equal(again.geometry.affine_ras, grid.affine_ras)
    assert again.geometry.shape == grid.shape
