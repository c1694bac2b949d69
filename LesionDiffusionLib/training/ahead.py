"""Draws of the coming steps, made by threads while the present step is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

Step = TypeVar("Step")
Drawn = TypeVar("Drawn")


@contextmanager
def drawn_ahead(draw: Callable[[Step], Drawn], steps: Iterable[Step], workers: int) -> Iterator[Iterator[Drawn]]:
    """An iterator over ``draw(step)`` for all ``steps`` in their order, at most ``workers`` of them drawn ahead.

    Threads suffice: unpacking, resampling and copying leave the interpreter to others. With 0 workers each is drawn
    when it is asked for. What a draw raises is raised when its turn comes. Leaving the context waits for the draws that
    were begun.
    """
    if not workers:
        yield map(draw, steps)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="draw")
    try:
        yield _in_turn(lambda step: pool.submit(draw, step), iter(steps), workers)
    finally:
        pool.shutdown()


def _in_turn(submit: Callable, steps: Iterator[Step], ahead: int) -> Iterator[Drawn]:
    waiting = deque(map(submit, islice(steps, ahead)))
    while waiting:
        drawn = waiting.popleft().result()
        waiting.extend(map(submit, islice(steps, 1)))
        yield drawn
