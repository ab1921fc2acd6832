"""One thread that keeps one source going: open, read, and again after a failure, for ever."""

from __future__ import annotations

import logging
import threading

from edgefer.capture.mailbox import Mailbox
from edgefer.capture.source import Clock, EndOfStream, Source, WrongDeviceError
from edgefer.errors import CameraError

log = logging.getLogger("edgefer.capture")

REOPEN_LIMIT_S = 2.5
"""longest pause between two tries: with the camera's own two seconds to open, a replugged lens is back within five"""
WRONG_LIMIT_S = 30.0
"""and where something else than a camera is plugged in"""
_READ_S = 0.1
"""How long a read may block: the most a stop has to wait for it."""


def pause_s(tries: int, first_s: float, error: CameraError) -> float:
    """Seconds to wait after the ``tries``-th failure in a row (from 1): twice as long each time, within the limits."""
    limit = WRONG_LIMIT_S if isinstance(error, WrongDeviceError) else max(REOPEN_LIMIT_S, first_s)
    return min(limit, first_s * 2.0 ** min(tries - 1, 30))


class Reader:
    """Feeds the mailbox from ``source`` until `stop`, the end of the stream, or an error that a retry cannot cure."""

    def __init__(self, source: Source, mailbox: Mailbox, reopen_s: float, clock: Clock, unit: int = 0) -> None:
        self._source = source
        self._mailbox = mailbox
        self._reopen_s = reopen_s
        self._clock = clock
        self._unit = unit
        self.name = "+".join(lens.value for lens in source.lenses) + (" 2" if unit else "")
        self._stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"capture-{self.name}", daemon=True)
        self._lost_ns: int | None = None
        self._step_ns = clock()
        self._waiting = self._left_behind = False
        self._tries = 0
        self.lenses = source.lenses
        self.reopened = 0

    def start(self) -> None:
        self._step_ns = self._clock()
        self.thread.start()

    def ask_to_stop(self) -> None:
        self._stop.set()

    def join(self, timeout_s: float | None = None) -> None:
        """Waits for the thread; the source is closed then. One that is not over in time is not waited for again."""
        if self.thread.ident is None or self._left_behind:
            return
        self.thread.join(timeout_s)
        self._left_behind = self.thread.is_alive()
        if self._left_behind:
            log.warning("%s lens: the driver hangs and does not let go of the device; left behind", self.name)

    @property
    def held(self) -> bool:
        """Whether it was left behind and has its device open still."""
        return self._left_behind and self.thread.is_alive()

    @property
    def running(self) -> bool:
        return self.thread.is_alive()

    def idle_s(self) -> float:
        """Seconds since the last step (a call of the source or of the mailbox came back); -1 while the plug is out.

        Read by another thread without a lock: a value that is one step old does no harm.
        """
        return -1.0 if self._waiting else (self._clock() - self._step_ns) / 1e9

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._session()
        except EndOfStream:
            pass
        except Exception as e:  # whatever it is, the pipeline's thread must see it
            self._mailbox.fail(e)
        finally:
            self._close()
            self._mailbox.end(self.lenses, self._unit)

    def _close(self) -> None:
        """At the end; what goes wrong here must be seen too, and must not leave the pipeline waiting."""
        try:
            self._source.close()
        except Exception as e:
            self._mailbox.fail(e)

    def _session(self) -> None:
        """From open to failure."""
        try:
            self._source.open()
            self._step_ns = self._clock()
            while not self._stop.is_set():
                frames = self._source.read(_READ_S)
                self._step_ns = self._clock()
                if frames and not self._stop.is_set():  # not what a driver that hung brings after the stop
                    self._tries = 0
                    self._note_return()
                    self._mailbox.post(frames, self._unit)
                    self._step_ns = self._clock()
        except CameraError as e:
            self._source.close()
            self._note_loss(e)
            self._waiting = True
            self._tries += 1
            self._stop.wait(pause_s(self._tries, self._reopen_s, e))
            self._step_ns = self._clock()
            self._waiting = False

    def _note_loss(self, error: CameraError) -> None:
        """One line a loss, however many tries it takes."""
        self._mailbox.lose(self.lenses, self._unit)
        if self._lost_ns is None:
            self._lost_ns = self._clock()
            log.warning("%s lens lost: %s; trying again", self.name, error)

    def _note_return(self) -> None:
        if self._lost_ns is not None:
            self.reopened += 1
            log.info("%s lens is back after %.1f s", self.name, (self._clock() - self._lost_ns) / 1e9)
            self._lost_ns = None
