"""Jobs for the worker, one at a time: sent, heard of, cancelled, and ended with a sentence for the user."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from LesionDiffusionLib.errors import LesionDiffusionError, SettingsError, WorkerError
from LesionDiffusionLib.extension.progress import RunProgress
from LesionDiffusionLib.shared_arrays import SharedArray
from LesionDiffusionLib.worker_client import Event, WorkerClient


def _ignore(*_: object) -> None:
    pass


class State(enum.Enum):
    """What the Apply button shows."""

    IDLE = "idle"
    RUNNING = "running"
    CANCELLING = "cancelling"


@dataclass
class Listener:
    """Who wants to know.

    Attributes:
        progress: share (0 to 1) and text of the job under way.
        log: a line for the log pane.
        ended: the last sentence about a job, and whether it is good news.
        devices: what the worker computes on, see `worker_jobs.devices`.
        lesions: lesions or candidates in the scene have changed.
    """

    progress: Callable[[float, str], None] = _ignore
    log: Callable[[str], None] = _ignore
    ended: Callable[[str, bool], None] = _ignore
    devices: Callable[[list[Mapping[str, Any]]], None] = _ignore
    lesions: Callable[[], None] = _ignore


@dataclass(frozen=True, eq=False)
class Errand:
    """A job for the worker.

    Attributes:
        do: the job's name.
        content: what it needs.
        shared: memory that ``content`` names; freed when the job ends.
        done: called with the job's result; returns the sentence for the user.
        preview: called with each finished candidate.
        progress: counts its steps.
    """

    do: str
    content: Mapping[str, Any]
    done: Callable[[Mapping[str, Any]], str]
    shared: Sequence[SharedArray] = ()
    preview: Callable[[Mapping[str, Any]], None] = _ignore
    progress: RunProgress | None = None


class Errands:
    """The worker and the one job that is under way.

    Attributes:
        state: what the window shows.
        last_failure: the last error in full, for diagnostics.
        outcome: the last sentence about the last job, and whether it is good news.
    """

    def __init__(self, client: WorkerClient | None = None, listener: Listener | None = None) -> None:
        self.client = client or WorkerClient()
        self.listener = listener or Listener()
        self.state = State.IDLE
        self.last_failure = ""
        self.outcome = ("", True)
        self._number: int | None = None
        self._errand: Errand | None = None

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return self._errand is not None

    def begin(self, errand: Errand) -> None:
        """Send a job. Raises SettingsError when one is under way; the errand's memory is freed on every error."""
        if self._errand is not None:
            for block in errand.shared:
                block.close()
            raise SettingsError("another job is under way; wait for its end or cancel it")
        self._number = self.client.send(errand.do, errand.shared, **errand.content)
        self._errand, self.state = errand, State.RUNNING
        self.listener.progress(0.0, "Starting")

    def cancel(self) -> None:
        """Stop the job, within one diffusion step."""
        if self.state == State.RUNNING:
            self.state = State.CANCELLING
            self.client.cancel(self._number)

    def abandon(self) -> None:
        """Stop the job and let nothing come of it: the scene that it was for is going away."""
        self.cancel()
        self._errand = self._errand and Errand(self._errand.do, {}, lambda _: "")

    def stop(self) -> None:
        """End the worker, and the job with it."""
        self.client.stop()
        self._errand, self.state = None, State.IDLE

    def poll(self, idle_s: float | None = None) -> None:
        """Hear the worker; a timer calls it often. A worker idle for longer than ``idle_s`` is ended."""
        for event in self.client.poll():
            self._hear(event)
        idle = self.client.running and not self.client.busy
        if idle_s is not None and idle and time.monotonic() - self.client.idle_since > idle_s:
            self.client.stop()
            self.listener.log("The worker was idle and has been ended; it starts again when needed.")

    def wait(self) -> None:
        """Hear the worker until the job ends (scripts; a window polls)."""
        while self._errand is not None:
            for event in self.client.poll(patience_s=0.2):
                self._hear(event)

    def finish(self) -> str:
        """Wait for the end of the job; the sentence about it. Raises WorkerError when it failed."""
        self.wait()
        text, good = self.outcome
        if not good:
            raise WorkerError(text)
        return text

    def _hear(self, event: Event) -> None:
        if event.name == "log":
            self.listener.log(event.content["text"])
        elif event.name == "ready":
            self.listener.devices(event.content["devices"])
        elif self._errand is not None and event.id == self._number:
            self._hear_of_errand(event, self._errand)
        elif event.name == "gone":
            self.listener.log(event.content["message"])

    def _hear_of_errand(self, event: Event, errand: Errand) -> None:
        progress = errand.progress or RunProgress()
        if event.name == "progress":
            progress.heard(event.content["stage"], event.content["step"], event.content["total"])
            self.listener.progress(progress.share, progress.text)
        elif event.name == "preview":
            errand.preview(event.content)
            progress.candidate_done()
        elif event.ends_job:
            self._errand, self.state = None, State.IDLE
            self.outcome = self._outcome(event, errand)
            self.listener.ended(*self.outcome)

    def _outcome(self, event: Event, errand: Errand) -> tuple[str, bool]:
        """The last sentence about a job, and whether it is good news."""
        content = event.content
        if event.name == "cancelled":
            return "Cancelled.", True
        if event.name == "error":
            self.last_failure = content.get("trace", content["message"])
            bug = " This is a bug: please report it with Copy diagnostics." if content["kind"] == "bug" else ""
            return content["message"] + bug, False
        if event.name == "gone":
            self.last_failure = "\n".join([content["message"], *content["log"]])
            return f"{content['message']}. It starts again with the next run.", False
        try:
            return errand.done(content), True
        except LesionDiffusionError as error:
            self.last_failure = str(error)
            return str(error), False
