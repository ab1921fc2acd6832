"""Which frames are delivered together: properties over arbitrary arrival orders, and the rate with one lens dead."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefer.capture.pairing import Match, Pairing
from edgefer.types import Frame, Lens

MS = 1_000_000
BOTH = frozenset(Lens)
PIXEL = np.zeros((1, 1), np.uint8)


def frame(lens: Lens, at_ms: float, index: int = 0) -> Frame:
    return Frame(lens, PIXEL, round(at_ms * MS), index)


def times(match: Match | None) -> tuple[float | None, ...] | None:
    return None if match is None else tuple(None if f is None else f.mono_ns / MS for f in match)


def test_frames_within_the_tolerance_are_a_pair() -> None:
    pairing = Pairing(tolerance_ms=15, fps=25)
    pairing.put(frame(Lens.VISIBLE, 100))
    assert pairing.take(100 * MS, BOTH) is None
    pairing.put(frame(Lens.INFRARED, 112))
    assert times(pairing.take(112 * MS, BOTH)) == (100, 112)
    assert pairing.take(113 * MS, BOTH) is None
    assert pairing.unpaired == 0


def test_a_frame_goes_alone_when_its_partner_is_late() -> None:
    pairing = Pairing(tolerance_ms=15, fps=25)
    pairing.put(frame(Lens.VISIBLE, 100))
    assert pairing.take(114 * MS, BOTH) is None
    assert pairing.wait_s(114 * MS) == pytest.approx(0.001)
    assert times(pairing.take(115 * MS, BOTH)) == (100, None)
    assert pairing.unpaired == 1


def test_a_lens_that_is_not_awaited_delays_nothing() -> None:
    pairing = Pairing(tolerance_ms=15, fps=25)
    pairing.put(frame(Lens.INFRARED, 100))
    assert times(pairing.take(100 * MS, {Lens.INFRARED})) == (None, 100)
    assert pairing.unpaired == 0


def test_the_newest_frame_wins_and_the_others_are_counted() -> None:
    pairing = Pairing(tolerance_ms=15, fps=25)
    for i in range(5):
        pairing.put(frame(Lens.VISIBLE, 40 * i))
        pairing.put(frame(Lens.INFRARED, 40 * i + 5))
    assert times(pairing.take(170 * MS, BOTH)) == (160, 165)
    assert pairing.drops == {Lens.VISIBLE: 4, Lens.INFRARED: 4}


def test_a_frame_too_old_for_a_pair_makes_room_for_the_newer_ones_partner() -> None:
    pairing = Pairing(tolerance_ms=15, fps=25)
    pairing.put(frame(Lens.VISIBLE, 100))
    pairing.put(frame(Lens.INFRARED, 130))
    assert pairing.take(131 * MS, BOTH) is None
    assert pairing.drops[Lens.VISIBLE] == 1
    pairing.put(frame(Lens.VISIBLE, 140))
    assert times(pairing.take(140 * MS, BOTH)) == (140, 130)


def test_lockstep_delivers_every_frame_in_order_and_waits_for_the_slower_reader() -> None:
    pairing = Pairing(tolerance_ms=15, fps=25, lockstep=True)
    pairing.put(frame(Lens.VISIBLE, 0))
    assert pairing.take(10**12, BOTH) is None
    pairing.put(frame(Lens.INFRARED, 80))
    assert times(pairing.take(80 * MS, BOTH)) == (0, None)
    pairing.put(frame(Lens.VISIBLE, 90))
    assert times(pairing.take(90 * MS, BOTH)) == (90, 80)
    assert pairing.drops == {Lens.VISIBLE: 0, Lens.INFRARED: 0}


arrivals = st.lists(
    st.tuples(st.sampled_from(list(Lens)), st.integers(0, 60 * MS), st.integers(0, 20 * MS), st.booleans()),
    max_size=60,
)
"""lens, nanoseconds since the last arrival, how much later it is put than stamped, whether someone looks then"""


@given(arrivals, st.floats(1, 60), st.floats(5, 240), st.sets(st.sampled_from(list(Lens))))
def test_every_delivery_keeps_the_promises(
    events: list[tuple[Lens, int, int, bool]], tolerance_ms: float, fps: float, awaited: set[Lens]
) -> None:
    pairing, now, put = Pairing(tolerance_ms, fps), 0, 0
    stamps = dict.fromkeys(Lens, -1)
    seen: list[Match] = []
    for index, (lens, gap, late, looks) in enumerate(events):
        now += gap
        stamp = max(now - late, stamps[lens] + 1)  # a lens's own stamps increase
        stamps[lens] = stamp
        pairing.put(Frame(lens, PIXEL, stamp, index))
        put += 1
        match = pairing.take(now, awaited) if looks else None
        if match is not None:
            seen.append(match)
    delivered = [f for match in seen for f in match if f is not None]
    assert len({f.index for f in delivered}) == len(delivered), "no frame twice"
    pair_times = [min(f.mono_ns for f in match if f is not None) for match in seen]
    assert all(a < b for a, b in pairwise(pair_times)), "time never goes back"
    assert all(abs(v.mono_ns - i.mono_ns) <= tolerance_ms * MS for v, i in seen if v is not None and i is not None)
    assert all(match != (None, None) for match in seen)
    left = sum(pairing.waiting(lens) for lens in Lens)
    assert put == len(delivered) + sum(pairing.drops.values()) + left, "every frame is accounted for"


@given(
    fps=st.floats(5, 120),
    tolerance_ms=st.floats(1, 1000),
    asked_fps=st.floats(5, 120),
    work_share=st.floats(0, 0.95),
)
def test_a_dead_lens_costs_the_live_one_nothing(
    fps: float, tolerance_ms: float, asked_fps: float, work_share: float
) -> None:
    """The other lens is still awaited, as in the first moments after it died: the worst case."""
    pairing = Pairing(tolerance_ms, asked_fps)
    period, free_at, delivered, count = 1e9 / fps, 0.0, 0, 60
    for i in range(count):
        arrival = i * period
        pairing.put(Frame(Lens.VISIBLE, PIXEL, round(arrival), i))
        now = max(arrival, free_at)
        while now < arrival + period:
            match = pairing.take(round(now), BOTH)
            wait_ns = pairing.wait_s(round(now)) * 1e9
            if match is not None:
                delivered += 1
                free_at = now = now + work_share * period
            elif wait_ns == float("inf"):
                break
            else:
                now += wait_ns + 1
        free_at = max(free_at, now if now != arrival else 0)
    fair = count * min(1.0, asked_fps / fps)
    assert delivered >= 0.8 * fair - 1


def test_lenses_of_one_rate_find_each_other_whatever_their_phase() -> None:
    for phase in range(40):
        pairing, paired = Pairing(tolerance_ms=25, fps=25), 0
        for now in range(2000):
            for lens, offset in ((Lens.VISIBLE, 0), (Lens.INFRARED, phase)):
                if now >= offset and (now - offset) % 40 == 0:
                    pairing.put(frame(lens, now))
            match = pairing.take(now * MS, BOTH)
            paired += match is not None and None not in match
        assert paired >= 48, phase
