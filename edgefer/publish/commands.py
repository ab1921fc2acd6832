"""What comes in on ``cmd/...``: judged, answered once, and shut out for a while when there is too much of it.

Who may command is the broker's ACL. A command is refused when it is retained, has no message expiry or one above 30 s
(it could be old), is larger than MAX_BYTES, or is not exactly what :mod:`edgefer.messages` says. A flood is not worked
off: the device leaves the topic for SHUT_S seconds, and the broker throws the flood away.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgefer.messages import COMMANDS, Command, CommandId, Response

MAX_BYTES = 4096
"""the broker drops larger packets to us"""
MAX_EXPIRY_S = 30
BURST, PER_S = 40, 10.0
"""commands taken at once, and a second in the long run; above that it is a flood"""
SHUT_S = 10.0
WAITING = 16
REMEMBER_S = 60.0
"""an id is known for at least so long: twice what a command may live, since the broker's clock is not ours"""
REMEMBERED = round(BURST + PER_S * REMEMBER_S)
"""ids known: more the gate does not let pass in that time; below 1 MiB"""
NAMES = ("accepted", "repeated", "retained", "stale", "oversize", "malformed", "busy", "flood")
KINDS = {kind.NAME: kind for kind in COMMANDS}


class _Any(BaseModel):
    """As much as is needed to answer a malformed command."""

    model_config = ConfigDict(extra="ignore", strict=True)
    id: CommandId = Field()


@dataclass(frozen=True, slots=True)
class Refusal:
    """``kind``: the counter; ``id``: to answer to, None when there is none that could be trusted."""

    kind: str
    reason: str
    id: str | None = None


def judge(name: str, payload: bytes, *, retain: bool, expiry_s: int | None) -> Command | Refusal:
    """The command in ``payload``, or why it is none. Pure; never raises. ``expiry_s``: what is left of it, seconds."""
    if len(payload) > MAX_BYTES:
        return Refusal("oversize", f"larger than {MAX_BYTES} bytes")
    if retain:  # not answered: it would be, at every connection
        return Refusal("retained", "retained commands are not taken")
    kind = KINDS.get(name)
    if kind is None:
        return Refusal("malformed", "no such command")
    try:
        command = kind.model_validate_json(payload)
    except ValidationError as e:
        return Refusal("malformed", _first(e), _id(payload))
    if expiry_s is None or expiry_s > MAX_EXPIRY_S:
        return Refusal("stale", f"set a message expiry of at most {MAX_EXPIRY_S} s", command.id)
    return command


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(p) for p in problem['loc'])[:64]}: {problem['msg']}"[:200]


def _id(payload: bytes) -> str | None:
    try:
        return _Any.model_validate_json(payload).id
    except ValidationError:
        return None


class Gate:
    """A token bucket; once it is empty the gate is shut for SHUT_S. Time is an argument."""

    def __init__(self) -> None:
        self._tokens, self._at = float(BURST), 0.0
        self.shut_until: float | None = None

    def admit(self, now: float) -> bool:
        """Whether one more may pass. False the first time means: shut, leave the topic."""
        if self.shut_until is not None:
            return False
        self._tokens = min(BURST, self._tokens + max(0.0, now - self._at) * PER_S)
        self._at = now
        if self._tokens < 1:
            self.shut_until = now + SHUT_S
            return False
        self._tokens -= 1
        return True

    def reopen(self, now: float) -> bool:
        """True once, when a shut gate may be opened again."""
        if self.shut_until is None or now < self.shut_until:
            return False
        self.shut_until, self._tokens, self._at = None, BURST / 4, now
        return True


class Desk:
    """Commands between the network's thread, which brings them, and the pipeline's, which carries them out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inbox: deque[Command] = deque()
        self._answers: OrderedDict[str, Response | None] = OrderedDict()
        self._counts = dict.fromkeys(NAMES, 0)
        self._gate = Gate()

    @property
    def shut(self) -> bool:
        return self._gate.shut_until is not None

    def admit(self) -> bool:
        """Whether to look at one more command at all."""
        admitted = self._gate.admit(time.monotonic())
        if not admitted:
            self.count("flood")
        return admitted

    def reopen(self) -> bool:
        return self._gate.reopen(time.monotonic())

    def receive(self, name: str, payload: bytes, *, retain: bool, expiry_s: int | None) -> Command | Response | None:
        """Take one: the command when it is new, the answer when there is one already, None when there is none."""
        found = judge(name, payload, retain=retain, expiry_s=expiry_s)
        if isinstance(found, Refusal):
            self.count(found.kind)
            return Response(id=found.id, ok=False, reason=found.reason) if found.id else None
        with self._lock:
            if found.id in self._answers:
                self._counts["repeated"] += 1
                return self._answers[found.id]
            self._answers[found.id] = None
            while len(self._answers) > REMEMBERED:
                self._answers.popitem(last=False)
            self._counts["accepted"] += 1
            return found

    def enqueue(self, command: Command) -> bool:
        """Leave it for the pipeline's thread; False when that is too far behind."""
        with self._lock:
            if len(self._inbox) >= WAITING:
                self._counts["busy"] += 1
                return False
            self._inbox.append(command)
            return True

    def take(self) -> Command | None:
        with self._lock:
            return self._inbox.popleft() if self._inbox else None

    def answered(self, response: Response) -> None:
        """Remember the answer: the same id is answered with it again."""
        with self._lock:
            if response.id in self._answers:
                self._answers[response.id] = response

    def count(self, kind: str) -> None:
        with self._lock:
            self._counts[kind] += 1

    def counters(self) -> dict[str, int]:
        with self._lock:
            return {f"cmd_{name}": n for name, n in self._counts.items()}
