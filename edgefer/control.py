"""Carries out what the far end asks for: privacy, rate, reload. On the pipeline's thread, between two frames.

Replays are the publisher's own affair. Privacy on is a file in the state folder: so neither a restart nor a power cut
nor a full disk switches it off.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from edgefer.errors import EdgeferError
from edgefer.messages import Command, Privacy, Rate, Reload
from edgefer.publish import Publisher
from edgefer.types import UNKNOWN, LensState, Reading, Why

log = logging.getLogger("edgefer")

PRIVACY_FILE = "privacy-on"
Activate = Callable[[], tuple[bool, str]]
"""Serve the bundle that is staged: whether that goes, and why not. Called on the pipeline's thread."""


def no_store() -> tuple[bool, str]:
    """The Activate of a device that has no bundle store."""
    return False, "there is no bundle store on this device"


class Lenses(Protocol):
    """The shutter, as far as privacy is concerned."""

    def close(self) -> None: ...
    def held(self) -> list[str]: ...
    def open(self) -> None: ...


class PrivacyMemory:
    """Whether privacy is on, over restarts. ``folder`` None: forgotten with the process."""

    def __init__(self, folder: Path | None) -> None:
        self._file = folder / PRIVACY_FILE if folder is not None else None

    def read(self) -> bool:
        """When in doubt, it is on."""
        try:
            return self._file is not None and self._file.exists()
        except OSError as e:
            log.error("%s: %s; privacy is on until a command says otherwise", self._file, e.strerror)
            return True

    def write(self, on: bool) -> str:
        """Why it will not be remembered, "" when it will."""
        if self._file is None:
            return "not remembered over a restart: there is no state folder"
        try:
            self._write(self._file, on)
        except OSError as e:
            return f"not remembered over a restart: {e.strerror}"
        return ""

    @staticmethod
    def _write(file: Path, on: bool) -> None:
        if on:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.touch(mode=0o600)
        else:
            file.unlink(missing_ok=True)
        if file.parent.exists():
            folder = os.open(file.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


class Control:
    """``set_rate(hz)`` sets the state rate and tells it; ``activate`` serves the staged bundle."""

    def __init__(
        self, publisher: Publisher, lenses: Lenses, memory: PrivacyMemory, set_rate: Callable[[float], object],
        activate: Activate = no_store,
    ) -> None:  # fmt: skip
        self._publisher, self._lenses, self._memory = publisher, lenses, memory
        self._set_rate, self.activate = set_rate, activate
        self.private = memory.read()

    def obey(self) -> None:
        """Carry out and answer what has come in."""
        while (command := self._publisher.take_command()) is not None:
            ok, reason = self._do(command)
            log.info("command %s: %s", command.NAME, reason or "done")
            self._publisher.answer(command, ok, reason)

    def _do(self, command: Command) -> tuple[bool, str]:
        if isinstance(command, Privacy):
            return self._privacy(command.on)
        if isinstance(command, Rate):
            self._set_rate(command.rate_hz)
            return True, ""
        if isinstance(command, Reload):
            return self.activate()
        return False, "not known to this version"

    def _privacy(self, on: bool) -> tuple[bool, str]:
        """On: the retained state goes first, the lenses after, both before the answer. Off is remembered last: what is
        refused, or killed on the way, leaves the next start private."""
        if on:
            self.private = True
            self._publisher.private(True)
            reasons = [self._memory.write(True)]
            self._lenses.close()
            if held := self._lenses.held():  # nothing of them is used: privacy is on all the same
                reasons.append(f"{' and '.join(held)} lens not released: the driver hangs")
            return True, "; ".join(filter(None, reasons))
        try:
            self._lenses.open()
        except EdgeferError as e:
            return False, str(e)
        self.private = False
        self._publisher.private(False)
        return True, self._memory.write(False)


def private_reading(now_ns: int) -> Reading:
    """What there is to say while privacy is on: that it is."""
    lenses = (LensState.LOST, LensState.LOST)
    return Reading(UNKNOWN, 0.0, {}, Why.PRIVACY, 0.0, math.nan, lenses, now_ns)
