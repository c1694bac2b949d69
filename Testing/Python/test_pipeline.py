"""Three stages side by side: order, overlap, memory, failures."""

from __future__ import annotations

import threading
import traceback
import weakref

import pytest

from LesionDiffusionLib.pipeline import pipelined

PATIENCE_S = 20


def test_results_come_in_order_and_pass_all_stages():
    steps = pipelined(range(5), lambda n: n + 1, lambda n, read: 10 * read, lambda n, made: (n, made))
    assert list(steps) == [(n, (n, 10 * (n + 1))) for n in range(5)]


def test_nothing_to_do():
    assert list(pipelined([], None, None, None)) == []


def test_the_next_is_read_and_the_last_is_written_while_one_is_worked_on():
    """Item 1 is only worked on to its end once item 2 was read and while item 0 is still being written."""
    read = {n: threading.Event() for n in range(3)}
    writing, worked = threading.Event(), threading.Event()

    def work(n, _):
        if n == 1:
            assert read[2].wait(PATIENCE_S), "the next one is read ahead"
            assert writing.wait(PATIENCE_S), "the last one is being written"
            worked.set()
        return n

    def write(n, made):
        if n == 0:
            writing.set()
            assert worked.wait(PATIENCE_S), "work goes on while this is written"
        return made

    outcomes = pipelined(range(3), lambda n: read[n].set(), work, write)
    assert list(outcomes) == [(0, 0), (1, 1), (2, 2)]


def test_what_a_failed_item_held_is_gone_before_the_next_is_worked_on():
    """The errors are kept, by the pipeline and by whoever asks; a network's activations must not be."""

    class Activations:
        pass

    alive = []

    def work(n, _):
        assert [reference() for reference in alive] == [None] * n
        activations = Activations()
        alive.append(weakref.ref(activations))
        try:
            raise RuntimeError("full")
        except RuntimeError as error:
            raise ValueError(f"item {n}") from error

    outcomes = list(pipelined(range(4), lambda n: n, work, None))
    assert [str(error) for _, error in outcomes] == [f"item {n}" for n in range(4)]
    told = "".join(traceback.format_exception(outcomes[0][1]))
    assert "in work" in told, "where it went wrong can still be told"


def test_at_most_three_are_held():
    held, most, lock = 0, 0, threading.Lock()

    def change(by):
        nonlocal held, most
        with lock:
            held += by
            most = max(most, held)

    def write(n, made):
        change(-1)

    for _ in pipelined(range(20), lambda n: change(1), lambda n, read: n, write):
        pass
    assert held == 0
    assert most <= 3


@pytest.mark.parametrize("stage", ["read", "work", "write"])
def test_one_failure_is_not_the_next_ones(stage):
    def maybe(at):
        def run(n, *_):
            if n == 1 and at == stage:
                raise ValueError(stage)
            return n

        return run

    outcomes = dict(pipelined(range(3), maybe("read"), maybe("work"), maybe("write")))
    assert outcomes[0] == 0
    assert outcomes[2] == 2
    assert isinstance(outcomes[1], ValueError)
    assert str(outcomes[1]) == stage


def test_who_stops_waits_until_what_is_written_stands():
    written = []

    def work(n, _):
        if n == 1:
            raise KeyboardInterrupt
        return n

    with pytest.raises(KeyboardInterrupt):
        list(pipelined(range(5), lambda n: n, work, lambda n, made: written.append(n)))
    assert written == [0]
