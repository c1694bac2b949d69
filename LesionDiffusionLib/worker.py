"""The worker process: takes requests on stdin, does one job at a time, answers on stdout.

It is started by `worker_client`, keeps its networks between jobs, stops a job within one diffusion step, and ends when
its stdin closes, which also happens when the program at the other end is killed. Its own stdout and stdin are moved
out of the way first: whatever a library prints goes to stderr.
"""

from __future__ import annotations

import contextlib
import os
import platform
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from LesionDiffusionLib import __version__
from LesionDiffusionLib.errors import Cancelled, DeviceError, LesionDiffusionError
from LesionDiffusionLib.shared_arrays import Address, abandon
from LesionDiffusionLib.worker_protocol import decode, encode

LAST_STEP_S = 5.0  # what a job may still take when nobody waits for it any more
NO_LIBRARY = 3  # exit code


def main() -> int:
    """Serve until stdin closes. Exit code 0; 3 when torch or another library is missing."""
    requests, answers = _own_stdio()
    worker = Worker(requests, answers)
    try:
        from LesionDiffusionLib.worker_jobs import JOBS, Jobs, devices
    except ImportError as error:
        worker.say("error", None, kind="MissingLibrary", message=f"a Python package is missing: {error}")
        return NO_LIBRARY
    jobs = Jobs()
    worker.say("ready", None, version=__version__, python=platform.python_version(), devices=devices(ask_memory=False))
    worker.serve({name: getattr(jobs, name) for name in JOBS}, jobs.forget_models)
    return 0


class Worker:
    """Reads requests in a thread of its own, so that a cancel is heard while a job runs."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO) -> None:
        self._answers = answers
        self._waiting: queue.SimpleQueue[dict | None] = queue.SimpleQueue()
        self._cancelled: set[Any] = set()
        self._nobody_there = threading.Event()
        self._lent: dict[Any, list[Address]] = {}
        threading.Thread(target=self._read, args=(requests,), daemon=True).start()

    def say(self, event: str, request_id: Any, **content: Any) -> None:
        """Send one event."""
        self._answers.write(encode({"event": event, "id": request_id, **content}))
        self._answers.flush()

    def serve(self, jobs: Mapping[str, Any], after_full_memory: Any) -> None:
        """Do what is asked, in order, until nobody is there."""
        while (request := self._waiting.get()) is not None:
            with contextlib.suppress(BrokenPipeError):
                self._do(request, jobs, after_full_memory)
            self._lent.pop(request.get("id"), None)

    def _do(self, request: dict, jobs: Mapping[str, Any], after_full_memory: Any) -> None:
        number = request.get("id")

        def should_stop() -> bool:
            return number in self._cancelled or self._nobody_there.is_set()

        def say(event: str, **content: Any) -> None:
            self.say(event, number, **content)

        full = False
        try:
            if should_stop():
                raise Cancelled("cancelled before it began")
            result = jobs[request["do"]](request, say, should_stop)
            say("result", **result)
        except Cancelled:
            say("cancelled")
        except LesionDiffusionError as error:
            full = isinstance(error, DeviceError)
            say("error", kind=type(error).__name__, message=" ".join(str(error).split()))
        except BrokenPipeError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the window must hear of it
            full = True
            message = f"{type(error).__name__}: {error}"
            say("error", kind="bug", message=message, trace=traceback.format_exc())
        if full:  # not before the error is gone, which holds what filled it
            after_full_memory()

    def _read(self, requests: BinaryIO) -> None:
        for line in requests:
            message = decode(line)
            if message is None or "do" not in message:
                continue
            if message["do"] == "cancel":
                self._cancelled.add(message.get("id"))
            else:
                self._lent[message.get("id")] = list(_addresses(message))
                self._waiting.put(message)
        self._nobody_there.set()
        self._waiting.put(None)
        for lent in list(self._lent.values()):
            for address in lent:
                abandon(address)
        time.sleep(LAST_STEP_S)
        os._exit(0)


def _own_stdio() -> tuple[BinaryIO, BinaryIO]:
    """Private copies of stdin and stdout; 0 then reads nothing and 1 is stderr, also for C libraries and children."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdout.flush()
    os.dup2(2, 1)
    return requests, answers


def _addresses(message: Mapping) -> Iterator[Address]:
    """Shared memory that a request names."""
    for value in message.values():
        if isinstance(value, dict) and "voxels" in value:
            with contextlib.suppress(KeyError, TypeError):
                yield Address.from_json(value["voxels"])


if __name__ == "__main__":
    sys.exit(main())
