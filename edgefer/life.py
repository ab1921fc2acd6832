"""How often the service died, and what follows from it.

The service manager starts it again for ever (StartLimitIntervalSec=0); the service itself counts, in ``life.json`` of
the state folder, how often it ended without saying so, and after every third time steps down:

    0 to 2 crashes   as configured
    3 to 5           the last good bundle (the one on trial is taken back)
    from 6           the visible lens alone, ONNX Runtime, the bundle that ships

STEADY_S without a crash clears the count: the next start tries as configured again. A power cut counts as a crash,
since a network that hangs the machine ends the same way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgefer import durable
from edgefer.journal import fields

log = logging.getLogger("edgefer.life")

CRASHES_A_STEP = 3
STEADY_S = 60.0
AGAIN_S = 60.0
"""a bundle that is proven is said to be so this often: the disk may have refused to note it"""
SCORED_MIN = 50
"""faces the network must have scored before a bundle can be called good: an empty seat proves nothing"""
FILE = "life.json"


class Step(IntEnum):
    AS_CONFIGURED = 0
    LAST_GOOD = 1
    VISIBLE_ONLY = 2


def step(crashes: int) -> Step:
    return Step(min(crashes // CRASHES_A_STEP, Step.VISIBLE_ONLY))


def proven(healthy_s: float, scored: int, confirm_s: float) -> bool:
    """Whether a bundle on trial has been in good health for long enough."""
    return healthy_s >= confirm_s and scored >= SCORED_MIN


class Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    running: bool = False
    """was started and has not said that it ended"""
    crashes: int = Field(default=0, ge=0)
    """in a row"""
    died: int = Field(default=0, ge=0)
    """crashes ever, for the health message"""
    suspect: str = ""
    """the bundle that served when the count reached LAST_GOOD: taken back once, however often that is cut short"""
    served: str = ""
    """what served last, to notice a change"""


class Life:
    """``folder``: the state folder; None: nothing is remembered. Never raises: a full disk must stop nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._file = folder / FILE if folder else None
        self.record = self._read()

    def begin(self) -> Step:
        """Count the last end if it was none, and say how to start now."""
        crashes = self.record.crashes + int(self.record.running)
        self._save(running=True, crashes=crashes, died=self.record.died + int(self.record.running))
        if self.record.crashes:
            log.warning(
                "died %d times in a row (step %s)",
                crashes,
                step(crashes).name.lower().replace("_", " "),
                extra=fields(crashes=crashes),
            )
        return step(crashes)

    def suspects(self, name: str) -> bool:
        """Whether ``name`` is what crashes: whatever served first when the count came that far."""
        if not self.record.suspect:
            self._save(suspect=name)
        return self.record.suspect == name

    def serves(self, name: str) -> str:
        """Note what serves; returns what served before, empty when that is not known."""
        before = self.record.served
        if before != name:
            self._save(served=name)
        return before

    def steady(self) -> None:
        if self.record.crashes or self.record.suspect:
            log.info("steady for %g s: the count of crashes starts anew", STEADY_S)
            self._save(crashes=0, suspect="")

    def end(self) -> None:
        """This end is none of those to be counted."""
        self._save(running=False)

    def _read(self) -> Record:
        try:
            return Record.model_validate_json(self._file.read_bytes()) if self._file else Record()
        except FileNotFoundError:
            return Record()
        except (OSError, ValidationError) as e:
            log.warning("%s: unreadable (%s); counting starts anew", self._file, str(e).splitlines()[0])
            return Record()

    def _save(self, **changes: object) -> None:
        self.record = self.record.model_copy(update=changes)
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.write(self._file, self.record.model_dump_json().encode())
        except OSError as e:
            log.warning("%s: %s; crashes are not counted", self._file, e.strerror)


class Heart:
    """Feeds on finished work, about once a second: ``steady()`` after STEADY_S; `beat` says when a trial is proven."""

    def __init__(self, clock: Callable[[], float], confirm_s: float, steady: Callable[[], object]) -> None:
        self._clock, self._start = clock, clock()
        self._steady, self._is_steady = steady, False
        self.confirm_s = confirm_s
        self.restart_trial(0)

    def restart_trial(self, scored: int) -> None:
        """Another bundle serves from now on."""
        self._since, self._scored = self._clock(), scored
        self._due = self._since

    def beat(self, scored: int) -> bool:
        """``scored``: faces scored since the start. True when what serves is proven, then every AGAIN_S."""
        now = self._clock()
        if not self._is_steady and now - self._start >= STEADY_S:
            self._is_steady = True
            self._steady()
        if now < self._due or not proven(now - self._since, scored - self._scored, self.confirm_s):
            return False
        self._due = now + AGAIN_S
        return True
