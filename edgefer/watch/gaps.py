"""What a subscriber owes itself: each event once, and the missing ones asked for. Pure; time is an argument, seconds.

The key of an event is (stream, seq). Inside a stream ``seq`` has no holes, so a hole is a gap: after GRACE_S (first
deliveries may overtake each other after an outage) it is asked for with cmd/replay. What the device reports lost, or
answers not to have, is given up and never asked for again. The end of a stream shows no hole; ``health`` tells it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter

GRACE_S = 2.0
ANSWER_S = 10.0
"""an ask that brought nothing for this long is made again"""
TRIES = 5
CHUNK = 1000
"""most events of one ask; what a device sends for one"""
STREAMS = 64
"""streams remembered of one device"""


@dataclass(frozen=True, slots=True)
class Ask:
    stream: str
    first: int
    last: int


@dataclass(slots=True)
class Stream:
    """Everything up to ``upto`` is settled: heard or given up; ``ahead`` has the ranges settled beyond it, first to
    last, in order, with a hole before each: a device may name any number, so none is counted up to."""

    upto: int = 0
    tail: int = 0
    ahead: list[tuple[int, int]] = field(default_factory=list)
    held: int = 0
    """how many these are"""
    since: float | None = None
    """when the first hole was noticed, or last asked for"""
    asked: bool = False
    tries: int = 0

    def settle(self, seq: int) -> bool:
        """False when it was settled before."""
        new = self._settle(seq, seq) == 1
        self.tail = max(self.tail, seq) if new else self.tail
        self._rest()
        return new

    def give_up(self, first: int, last: int) -> int:
        """How many of ``first`` to ``last`` were still missing; they no longer are."""
        gone = self._settle(first, min(last, self.tail))
        self._rest()
        return gone

    def _settle(self, first: int, last: int) -> int:
        """How many of ``first`` to ``last`` were not settled before."""
        first = max(first, self.upto + 1)
        if last < first:
            return 0
        low = bisect_left(self.ahead, first - 1, key=itemgetter(1))
        high = bisect_right(self.ahead, last + 1, key=itemgetter(0))
        touched = self.ahead[low:high]
        known = sum(min(b, last) - max(a, first) + 1 for a, b in touched)
        self.ahead[low:high] = [(min([first, *(a for a, _ in touched)]), max([last, *(b for _, b in touched)]))]
        self.held += last - first + 1 - known
        return last - first + 1 - known

    def _rest(self) -> None:
        if self.ahead and self.ahead[0][0] == self.upto + 1:  # the first hole is closed: the next one has all its tries
            first, self.upto = self.ahead.pop(0)
            self.held -= self.upto - first + 1
            self.asked, self.tries = False, 0
        if self.upto >= self.tail:
            self.since, self.asked, self.tries = None, False, 0

    @property
    def missing(self) -> int:
        return self.tail - self.upto - self.held

    def hole(self) -> tuple[int, int]:
        """First to last of the first hole, CHUNK at most."""
        last = min(self.tail, self.upto + CHUNK, *(a - 1 for a, _ in self.ahead[:1]))
        return self.upto + 1, last


class Gaps:
    """The events of one device. ``from_start``: also ask for what was before the first event heard."""

    def __init__(self, from_start: bool = False) -> None:
        self._from_start = from_start
        self._streams: OrderedDict[str, Stream] = OrderedDict()
        self._met = False
        self.duplicates = self.given_up = self.heard = 0

    def take(self, stream: str, seq: int) -> bool:
        """Whether this event is new. Call for every event, replayed or not."""
        new = self._stream(stream, seq - 1).settle(seq)
        self.heard += new
        self.duplicates += not new
        return new

    def _stream(self, name: str, before: int, history: bool = False) -> Stream:
        """The first stream ever heard begins where it was met; a later one is new since then, so at its start."""
        if name not in self._streams:
            start = 0 if self._from_start or (self._streams and not history) else before
            self._streams[name] = Stream(upto=start, tail=start)
            while len(self._streams) > STREAMS:
                self._streams.popitem(last=False)
        return self._streams[name]

    def lost(self, stream: str, first: int, last: int) -> int:
        """The device says that these will not come: how many were missing here."""
        self._stream(stream, last).tail = max(self._stream(stream, last).tail, last)
        gone = self._stream(stream, last).give_up(first, last)
        self.given_up += gone
        return gone

    def tails(self, tails: Mapping[str, int]) -> None:
        """What ``health`` says there is. Streams that the first health ever names and nobody has heard are history."""
        history, self._met = not self._met and not self._from_start, True
        for name, tail in tails.items():
            known = self._stream(name, tail, history)
            known.tail = max(known.tail, tail)

    def due(self, now: float) -> Iterator[Ask]:
        """What to ask for now. Gives up what was asked for TRIES times."""
        for name, stream in self._streams.items():
            if stream.missing <= 0:
                continue
            if stream.since is None:
                stream.since = now
            if now - stream.since < (ANSWER_S if stream.asked else GRACE_S):
                continue
            first, last = stream.hole()
            if stream.tries >= TRIES:
                self.given_up += stream.give_up(first, last)
                stream.tries = 0
                continue
            stream.since, stream.asked, stream.tries = now, True, stream.tries + 1
            yield Ask(name, first, last)

    def answered(self, ask: Ask, count: int, now: float) -> int:
        """``count`` of the asked events are there and follow: how many were given up because they are not."""
        stream = self._streams.get(ask.stream)
        if stream is None:
            return 0
        if count > 0:
            stream.since = now
            return 0
        gone = stream.give_up(ask.first, ask.last)
        self.given_up += gone
        stream.asked, stream.tries = False, 0
        return gone

    @property
    def missing(self) -> int:
        return sum(stream.missing for stream in self._streams.values())
