"""The panel's end of the worker process: starts it, sends requests, delivers its events. No Qt, no torch.

`poll` is called from a timer of the window, `wait` by scripts. When the process dies, the job that it was doing ends
with a "gone" event that says why, and the next request starts a new process.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from LesionDiffusionLib.shared_arrays import SharedArray
from LesionDiffusionLib.worker_protocol import FINAL, decode, encode

BOOTSTRAP = "import sys; sys.path.insert(0, sys.argv[1]); from LesionDiffusionLib.worker import main; sys.exit(main())"
CANCEL_PATIENCE_S = 15.0  # a worker that has not stopped by then is killed
STOP_PATIENCE_S = 2.0
LOG_LINES = 30  # of the end of its stderr, told when it dies
FINALS = (*FINAL, "gone")  # events that end a job
Log = Callable[[str], None]


class Process(Protocol):
    """The part of `subprocess.Popen` that is used."""

    stdin: BinaryIO
    stdout: BinaryIO
    stderr: BinaryIO

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def kill(self) -> None: ...


@dataclass(frozen=True)
class Event:
    """What a worker said (see `worker_protocol`), "log" with a line of ``text``, or "gone" with ``message``."""

    name: str
    id: int | None
    content: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ends_job(self) -> bool:
        return self.name in FINALS and self.id is not None


def python_for_worker() -> str:
    """Slicer's own Python where there is a Slicer, else the one that is running."""
    return shutil.which("PythonSlicer") or sys.executable


def start_worker(python: str | None = None) -> Process:
    """A worker process of this library."""
    command = [python or python_for_worker(), "-u", "-c", BOOTSTRAP, str(Path(__file__).resolve().parents[1])]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}  # nothing is fetched behind the user's back
    if os.name == "nt":
        return subprocess.Popen(command, env=environment, creationflags=subprocess.CREATE_NO_WINDOW, **pipes)
    # A session of its own: Ctrl-C in the terminal that Slicer was started from is not meant for the worker.
    return _WholeSession(command, env=environment, start_new_session=True, **pipes)


class _WholeSession(subprocess.Popen):
    """PythonSlicer is a launcher: killing it alone would leave the Python below it running."""

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class WorkerClient:
    """One worker process, started on demand.

    Args:
        start: starts the process; a fake one in tests.
        clock: seconds that only grow.
    """

    def __init__(
        self, start: Callable[[], Process] = start_worker, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._start, self._clock = start, clock
        self._numbers = itertools.count(1)
        self._process: Process | None = None
        self._lines: queue.SimpleQueue[tuple[str, bytes | None]] = queue.SimpleQueue()
        self._lent: dict[int, list[SharedArray]] = {}  # request -> memory that is freed at its end
        self._deadlines: dict[int, float] = {}  # cancelled requests
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._kept: list[Event] = []  # heard behind the end of a job that was waited for
        self._last_words = ""  # why it cannot work at all
        self.idle_since = clock()

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return bool(self._lent)

    def send(self, do: str, shared: Iterable[SharedArray] = (), **content: Any) -> int:
        """Ask for a job; starts the worker when there is none.

        Args:
            do: name of the job.
            shared: memory that the request names; closed when the job ends.
            content: what the job needs, in plain JSON types.

        Returns:
            The request's number, which its events carry.

        Raises:
            OSError: the process cannot be started.
        """
        number = next(self._numbers)
        lent = list(shared)
        try:
            if self._process is None:
                self._begin()
            self._lent[number] = lent
            # A pipe that is broken by now means that the process died: poll() finds out and tells.
            with contextlib.suppress(BrokenPipeError, ConnectionError):
                self._write({"do": do, "id": number, **content})
        except BaseException:
            self._lent.pop(number, None)
            for array in lent:
                array.close()
            raise
        return number

    def cancel(self, number: int) -> None:
        """Ask a job to stop; a worker that does not listen is killed after a while."""
        if number in self._lent and number not in self._deadlines:
            self._deadlines[number] = self._clock() + CANCEL_PATIENCE_S
            with contextlib.suppress(BrokenPipeError, ConnectionError):
                self._write({"do": "cancel", "id": number})

    def poll(self, patience_s: float = 0.002) -> list[Event]:
        """The events since the last call.

        ``patience_s`` is the longest wait for the first one: never quite zero, since a program that spends its life in
        Qt's event loop gives the reading threads no other moment to run.
        """
        events, self._kept = self._kept, []
        with contextlib.suppress(queue.Empty):
            events += self._understood(*self._lines.get(timeout=patience_s))
            while True:
                events += self._understood(*self._lines.get_nowait())
        under_way = min(self._lent, default=None)  # jobs are done in order
        if self._deadlines.get(under_way, float("inf")) < self._clock():
            self.kill()
        return events

    def wait(self, number: int, told: Callable[[Event], None] = lambda _: None) -> Event:
        """Wait for the end of a job; every event of the worker is told on the way."""
        while True:
            events = self.poll(patience_s=0.2)
            for position, event in enumerate(events, start=1):
                told(event)
                if event.ends_job and event.id == number:
                    self._kept = events[position:]
                    return event

    def kill(self) -> None:
        """End the process at once; a job under way ends with "gone", or with "cancelled" if that was asked for."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """End the process politely, and if need be not; free all memory lent to it. It may be started again."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(timeout=STOP_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for number in list(self._lent):
            self._settle(number)
        self._lines, self._kept = queue.SimpleQueue(), []  # what the old process may still say is nobody's business

    def _begin(self) -> None:
        self._process = self._start()
        self._lines = queue.SimpleQueue()
        self._log.clear()
        self._last_words = ""
        for name in ("stdout", "stderr"):
            pipe = getattr(self._process, name)
            threading.Thread(target=_read_lines, args=(name, pipe, self._lines), daemon=True).start()

    def _write(self, message: Mapping[str, Any]) -> None:
        self._process.stdin.write(encode(message))
        self._process.stdin.flush()

    def _understood(self, pipe: str, line: bytes | None) -> list[Event]:
        """Events of one line of a pipe; None is the pipe's end."""
        if line is None:
            return self._ended() if pipe == "stdout" else []
        message = decode(line) if pipe == "stdout" else None
        if message is None or "event" not in message:
            text = line.decode("utf-8", "replace").rstrip()
            self._log.append(text)
            return [Event("log", None, {"text": text})]
        event = Event(message.pop("event"), message.pop("id", None), message)
        if event.ends_job:
            self._settle(event.id)
        elif event.name == "error":
            self._last_words = event.content.get("message", "")
        return [event]

    def _ended(self) -> list[Event]:
        """The process closed its stdout: every job under way is over."""
        if self._process is None:
            return []
        process, self._process = self._process, None
        try:
            code = process.wait(timeout=STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        told = {"code": code, "message": self._last_words or _reason(code), "log": list(self._log)}
        cancelled = set(self._deadlines)
        events = [Event("cancelled" if n in cancelled else "gone", n, told) for n in self._lent]
        for number in list(self._lent):
            self._settle(number)
        return events or [Event("gone", None, told)]

    def _settle(self, number: int) -> None:
        self._deadlines.pop(number, None)
        self.idle_since = self._clock()
        self._deadlines = {n: max(d, self.idle_since + CANCEL_PATIENCE_S) for n, d in self._deadlines.items()}
        for array in self._lent.pop(number, ()):
            array.close()


def _read_lines(name: str, pipe: BinaryIO, lines: queue.SimpleQueue) -> None:
    with contextlib.suppress(ValueError, OSError):  # closed while it is read
        for line in pipe:
            lines.put((name, line))
    lines.put((name, None))


def _reason(code: int) -> str:
    """Why a process ended by itself, in words."""
    if code < 0:
        with contextlib.suppress(ValueError):
            code_name = signal.Signals(-code).name
            hint = "; the computer probably ran out of memory" if code_name == "SIGKILL" else ""
            return f"the worker was ended by {code_name}{hint}"
    return f"the worker ended unexpectedly (exit code {code})"
