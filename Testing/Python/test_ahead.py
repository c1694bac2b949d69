"""Draws of coming steps on other threads: the same results in the same order, and no more of them than asked for."""

from __future__ import annotations

import threading
import time

import pytest

from LesionDiffusionLib.training.ahead import drawn_ahead

PATIENCE_S = 10.0


@pytest.mark.parametrize("workers", [0, 1, 3, 50])
def test_draws_come_in_the_order_of_the_steps(workers):
    def draw(step):
        time.sleep(0.002 * (step % 3))  # those that begin first do not end first
        return step * step

    with drawn_ahead(draw, range(5, 25), workers) as draws:
        assert list(draws) == [step * step for step in range(5, 25)]
    with drawn_ahead(draw, (), workers) as draws:
        assert not list(draws)


@pytest.mark.parametrize(("workers", "ahead"), [(0, False), (1, True)])
def test_the_next_step_is_drawn_while_one_is_computed(workers, ahead):
    drawn = [threading.Event() for _ in range(3)]
    with drawn_ahead(lambda step: drawn[step].set(), range(3), workers) as draws:
        next(draws)
        assert drawn[1].wait(PATIENCE_S if ahead else 0.05) == ahead
        assert not drawn[2].wait(0.05), "one worker is one step ahead"


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_draw_raises_is_raised_in_its_turn(workers):
    def draw(step):
        return 1 / (3 - step)

    with drawn_ahead(draw, range(6), workers) as draws:
        assert [next(draws) for _ in range(3)] == [1 / 3, 1 / 2, 1.0]
        with pytest.raises(ZeroDivisionError):
            next(draws)


def test_who_leaves_early_leaves_no_thread():
    with drawn_ahead(lambda step: time.sleep(0.01), range(100), 3) as draws:
        next(draws)
        assert len(_threads()) == 3
    assert not _threads()


def _threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("draw")]
