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
    left = sum(pairing.held(lens) for lens in Lens)
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


class Camera:
    """One simulated lens: a rate that may be off by parts per million, jitter of arrival, frames that go missing."""

    def __init__(
        self, lens: Lens, fps: float, *, ppm: float = 0, phase_ms: float = 0, latency_ms: float = 1, seed: int = 0,
        jitter_ms: float = 0, loss: float = 0,
    ) -> None:  # fmt: skip
        self.lens, self._period = lens, 1e9 / (fps * (1 + ppm * 1e-6))
        self._phase, self._latency, self._jitter, self._loss = phase_ms * MS, latency_ms * MS, jitter_ms * MS, loss
        self._rng = np.random.default_rng(seed)

    def arrivals(self, seconds: float) -> list[tuple[int, Frame]]:
        """(arrival time, frame), in order of arrival; stamps are capture times."""
        out = []
        for k in range(int(seconds * 1e9 / self._period)):
            if self._rng.random() >= self._loss:
                stamp = round(self._phase + k * self._period)
                late = round(self._latency + self._rng.random() * self._jitter)
                out.append((stamp + late, Frame(self.lens, PIXEL, stamp, k)))
        return sorted(out, key=lambda a: a[0])


def watch(pairing: Pairing, *cameras: Camera, seconds: float) -> list[tuple[int, Match]]:
    return play(pairing, [c.arrivals(seconds) for c in cameras])


def play(pairing: Pairing, sent: list[list[tuple[int, Frame]]]) -> list[tuple[int, Match]]:
    """A consumer that is always ready: looks at every arrival and whenever the pairing asks for it."""
    arrivals = sorted((a for camera in sent for a in camera), key=lambda a: a[0])
    seen: list[tuple[int, Match]] = []
    for k, (arrival, frame_) in enumerate(arrivals):
        now = arrival
        pairing.put(frame_, now)
        until = arrivals[k + 1][0] if k + 1 < len(arrivals) else now + 10**9
        while now <= until:
            match = pairing.take(now, BOTH)
            wait = pairing.wait_s(now)
            if match is not None:
                seen.append((now, match))
            elif wait == float("inf"):
                break
            else:
                assert wait > 0, "it asks to be looked at, and has nothing to show"
                now += round(wait * 1e9) + 1
    return seen


def lag_ms(seen: list[tuple[int, Match]]) -> list[float]:
    return [(at - max(f.mono_ns for f in match if f)) / MS for at, match in seen]


def skew_ms(seen: list[tuple[int, Match]]) -> list[float]:
    return [(v.mono_ns - i.mono_ns) / MS for _, (v, i) in seen if v is not None and i is not None]


@pytest.mark.parametrize(("visible", "infrared"), [(30, 25), (25, 30), (60, 25), (30, 15)])
def test_lenses_that_run_free_at_two_rates_pair_at_the_slower_one_for_ever(visible: float, infrared: float) -> None:
    """Four minutes."""
    cameras = Camera(Lens.VISIBLE, visible, ppm=40), Camera(Lens.INFRARED, infrared, ppm=-60, phase_ms=7, jitter_ms=3)
    pairing = Pairing(tolerance_ms=25, fps=30)
    seen = watch(pairing, *cameras, seconds=240)
    steady = seen[100:-5]
    assert sum(None in match for _, match in steady) == 0, "no frame goes alone"
    slower = min(visible, infrared)
    assert len(seen) == pytest.approx(240 * slower, rel=0.01)
    assert max(map(abs, skew_ms(steady))) <= 0.5e3 / max(visible, infrared) + 4
    assert max(lag_ms(steady)[-1000:]) <= max(lag_ms(steady)[:1000]) + 1, "the lag does not grow"
    assert max(lag_ms(steady)) <= 0.75e3 / max(visible, infrared) + 5


def test_two_clocks_that_drift_slip_by_a_frame_now_and_then_and_never_lose_a_pair_for_long() -> None:
    """25 frames/s, 2000 ppm apart: the phase goes round every 20 s."""
    seen = watch(
        Pairing(25, 25), Camera(Lens.VISIBLE, 25), Camera(Lens.INFRARED, 25, ppm=2000, jitter_ms=2), seconds=120
    )
    alone = sum(None in match for _, match in seen)
    assert alone <= 0.02 * len(seen)
    assert max(lag_ms(seen)) <= 40


def test_a_lens_whose_frames_take_longer_to_arrive_is_paired_by_capture_time() -> None:
    """Infrared comes 60 ms late: what was taken at the same instant belongs together, not what arrives together."""
    seen = watch(Pairing(25, 25), Camera(Lens.VISIBLE, 25), Camera(Lens.INFRARED, 25, latency_ms=61), seconds=20)
    steady = seen[50:-5]
    assert all(None not in match for _, match in steady)
    assert set(skew_ms(steady)) == {0.0}


def test_the_tolerance_never_spans_two_frames_of_a_fast_camera() -> None:
    pairing = Pairing(tolerance_ms=25, fps=30)
    watch(pairing, Camera(Lens.VISIBLE, 120), Camera(Lens.INFRARED, 120, phase_ms=2), seconds=5)
    assert pairing.tolerance_ns / MS == pytest.approx(5.0, abs=0.2)


@given(
    rates=st.tuples(st.floats(8, 90), st.floats(8, 90)),
    phase_ms=st.floats(0, 100),
    jitter_ms=st.tuples(st.floats(0, 30), st.floats(0, 30)),
    latency_ms=st.tuples(st.floats(0, 80), st.floats(0, 80)),
    loss=st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)),
    seed=st.integers(0, 1000),
)
def test_whatever_the_clocks_do_the_promises_hold(
    rates: tuple[float, float], phase_ms: float, jitter_ms: tuple[float, float], latency_ms: tuple[float, float],
    loss: tuple[float, float], seed: int,
) -> None:  # fmt: skip
    """Jitter beyond a period reorders arrivals; what comes out is in order, once, near enough, and never stale."""
    cameras = [
        Camera(lens, rates[k], phase_ms=k * phase_ms, jitter_ms=jitter_ms[k], latency_ms=latency_ms[k], loss=loss[k],
               seed=seed + k)
        for k, lens in enumerate(Lens)
    ]  # fmt: skip
    pairing = Pairing(25, 25)
    sent = [c.arrivals(4) for c in cameras]
    seen = play(pairing, sent)
    delivered = [f for _, match in seen for f in match if f is not None]
    assert len({(f.lens, f.index) for f in delivered}) == len(delivered), "no frame twice"
    moments = [min(f.mono_ns for f in match if f is not None) for _, match in seen]
    assert all(a < b for a, b in pairwise(moments)), "time never goes back"
    assert all(abs(skew) <= 25 for skew in skew_ms(seen))
    slowest = 1e3 / min(rates)
    bound = max(latency_ms) + max(jitter_ms) + 4 * slowest / (1 - max(loss))
    assert all(lag <= bound for lag in lag_ms(seen)), "nothing queues up"
    left = sum(pairing.held(lens) for lens in Lens)
    assert sum(map(len, sent)) == len(delivered) + sum(pairing.drops.values()) + left, "every frame is accounted for"
