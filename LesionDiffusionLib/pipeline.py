"""Three stages side by side: the next item is read and the last one written while one is worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from LesionDiffusionLib.errors import release_frames

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")
Written = TypeVar("Written")


def pipelined(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    work: Callable[[Item, Read], Made],
    write: Callable[[Item, Made], Written],
) -> Iterator[tuple[Item, Written | Exception]]:
    """Read, work on and write every item; yields each, in order, with what ``write`` returned or what went wrong.

    ``work`` runs in the caller's thread, the others in one thread each, so that neither a GPU nor a core waits for
    files. At most three items are in memory: one read ahead, one in work, one being written. What a failed one held is
    let go of. Whoever stops in between (Ctrl-C, `close`) waits until what is being written stands whole.
    """
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
        remaining = iter(items)
        ahead = _submitted(reader, read, remaining)
        behind: tuple[Item, Future | Exception] | None = None
        while ahead is not None:
            (item, reading), ahead = ahead, _submitted(reader, read, remaining)
            made = _outcome(lambda reading=reading, item=item: work(item, reading.result()))
            if behind is not None:
                yield _finished(*behind)
            behind = item, made if isinstance(made, Exception) else writer.submit(write, item, made)
        if behind is not None:
            yield _finished(*behind)


def _submitted(reader: ThreadPoolExecutor, read: Callable[[Item], Read], items: Iterator[Item]):
    """The next item with its future, or None."""
    for item in items:
        return item, reader.submit(read, item)
    return None


def _finished(item: Item, writing: Future | Exception) -> tuple[Item, Written | Exception]:
    return item, writing if isinstance(writing, Exception) else _outcome(writing.result)


def _outcome(compute: Callable[[], Made]) -> Made | Exception:
    """What it returns, or raises: one item's failure is not the next one's."""
    try:
        return compute()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told with its item
        release_frames(error)
        return error
