"""Arrays that two processes see at once: a CT travels to the worker without a file and without a second copy.

The owner makes the array and closes it; the other process attaches by its address and must not outlive the job. On
Linux the memory has no name (memfd): it vanishes with its last user, and a small /dev/shm does not matter. Elsewhere it
is `multiprocessing.shared_memory` without the resource tracker, which would destroy an array when anybody detaches.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory

import numpy as np

from LesionDiffusionLib.errors import VolumeError

HAS_MEMFD = hasattr(os, "memfd_create")


@dataclass(frozen=True)
class Address:
    """Where another process finds an array (I, J, K) with i fastest."""

    name: str
    shape: tuple[int, int, int]
    dtype: str

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> Address:
        return cls(data["name"], tuple(data["shape"]), data["dtype"])


class SharedArray:
    """One array (I, J, K), i fastest; close it when the job is done."""

    def __init__(self, address: Address, buffer: mmap.mmap | memoryview, release: Callable[[], None]) -> None:
        self.address = address
        # np.ndarray(buffer=...) would not hold on to the buffer: closing would pull the memory away from living views.
        values = np.frombuffer(buffer, address.dtype, count=int(np.prod(address.shape)))
        self.array: np.ndarray | None = values.reshape(address.shape, order="F")
        self._release = release

    def close(self) -> None:
        """Detach; the owner also destroys. Views that are still alive keep their memory until they die."""
        self.array = None
        with contextlib.suppress(BufferError):
            self._release()
        self._release = _nothing

    def __enter__(self) -> SharedArray:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def share(shape: tuple[int, int, int], dtype: np.dtype, named: bool = not HAS_MEMFD) -> SharedArray:
    """A new shared array, zeros. ``named`` takes the way of the systems without memfd.

    Raises:
        VolumeError: the computer has too little memory; says how much.
    """
    dtype = np.dtype(dtype)
    size = max(1, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
    try:
        return _make_named(shape, dtype, size) if named else _make_memfd(shape, dtype, size)
    except (OSError, MemoryError) as error:
        raise VolumeError(
            f"{size / 2**20:.0f} MiB of memory are needed to hand the volume over, but the system says: {error}; "
            "close other programs or crop the volume"
        ) from error


def attach(address: Address) -> SharedArray:
    """The array of another process, writable. Raises VolumeError when it is gone."""
    try:
        if address.name.startswith("/proc/"):
            descriptor = os.open(address.name, os.O_RDWR | os.O_CLOEXEC)
            try:
                memory = mmap.mmap(descriptor, 0)
            finally:
                os.close(descriptor)
            return SharedArray(address, memory, memory.close)
        with _untracked():
            block = SharedMemory(address.name)
        return SharedArray(address, block.buf, lambda: _detach(block))
    except (OSError, ValueError) as error:
        raise VolumeError(f"the shared volume {address.name} is gone: {error}; run again") from error


def abandon(address: Address) -> None:
    """Destroy an array whose owner has died. Nothing to do where memory vanishes by itself."""
    if not address.name.startswith("/proc/"):
        with contextlib.suppress(OSError), _untracked():
            SharedMemory(address.name).unlink()


def _make_memfd(shape: tuple[int, int, int], dtype: np.dtype, size: int) -> SharedArray:
    descriptor = os.memfd_create("LesionDiffusion", os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, 0, size)  # full memory is told here, not by a bus error at the first write
        memory = mmap.mmap(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise

    def release() -> None:
        os.close(descriptor)
        memory.close()

    return SharedArray(Address(f"/proc/{os.getpid()}/fd/{descriptor}", tuple(shape), dtype.str), memory, release)


def _make_named(shape: tuple[int, int, int], dtype: np.dtype, size: int) -> SharedArray:
    with _untracked():
        block = SharedMemory(create=True, size=size)
    if sys.platform == "linux":
        try:
            os.posix_fallocate(block._fd, 0, size)
        except OSError:
            _destroy(block)
            raise
    return SharedArray(Address(block.name, tuple(shape), dtype.str), block.buf, lambda: _destroy(block))


def _destroy(block: SharedMemory) -> None:
    with _untracked(), contextlib.suppress(FileNotFoundError):  # a worker that thought us dead may have done it
        block.unlink()
    _detach(block)


def _detach(block: SharedMemory) -> None:
    try:
        block.close()
    except BufferError:  # views are alive: the mapping goes with the last of them
        block._mmap = None
        block.close()


@contextlib.contextmanager
def _untracked() -> Iterator[None]:
    """Before Python 3.13 every `SharedMemory` is handed to a tracker process, also when it is only attached to."""
    saved = resource_tracker.register, resource_tracker.unregister
    resource_tracker.register = resource_tracker.unregister = _nothing
    try:
        yield
    finally:
        resource_tracker.register, resource_tracker.unregister = saved


def _nothing(*_: object) -> None:
    pass
