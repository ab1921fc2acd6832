"""Capture times on the host's clock, from lenses with clocks of their own: properties over simulated clocks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefer.capture.lensclock import LensClock

MS = 1_000_000
PERIOD = 40 * MS
START = 10**12


def arrivals(count: int, jitter_ms: float, seed: int = 0, latency_ms: float = 8) -> list[tuple[int, int]]:
    """(true capture time, arrival) on the host's clock, in order of arrival."""
    rng = np.random.default_rng(seed)
    taken = [START + k * PERIOD for k in range(count)]
    late = latency_ms * MS + rng.gamma(1.0, max(jitter_ms, 1e-9) * MS / 3, count)
    return [(t, round(t + d)) for t, d in zip(taken, late, strict=True)]


def test_stamps_of_the_hosts_clock_are_left_alone_whatever_the_transfer_takes() -> None:
    clock = LensClock()
    for taken, arrived in arrivals(200, jitter_ms=30):
        assert clock.host_ns(taken, arrived) == taken
    assert (clock.jumps, clock.drift_ppm) == (0, 0.0)


@given(offset_s=st.floats(-1e5, -2) | st.floats(2, 1e5), ppm=st.floats(-300, 300), jitter_ms=st.floats(0, 20),
       seed=st.integers(0, 100))  # fmt: skip
def test_a_clock_of_its_own_is_followed_through_drift_and_jitter(
    offset_s: float, ppm: float, jitter_ms: float, seed: int
) -> None:
    """What is left is the least delay, which no receiver sees, and what the clock drifts between two quick frames."""
    clock, errors, hosts = LensClock(), [], []
    for taken, arrived in arrivals(1500, jitter_ms, seed):
        device = round((taken - START) * (1 + ppm * 1e-6) + offset_s * 1e9)
        host = clock.host_ns(device, arrived)
        assert host <= arrived
        hosts.append(host)
        errors.append((host - taken) / MS - 8)
    assert all(a < b for a, b in pairwise(hosts))
    assert max(map(abs, errors[100:])) <= 4.0
    assert clock.jumps == 0


@pytest.mark.parametrize("ppm", [-200, 0, 150])
def test_the_drift_is_measured_in_a_minute(ppm: float) -> None:
    clock = LensClock()
    for taken, arrived in arrivals(2500, jitter_ms=3):
        clock.host_ns(round((taken - START) * (1 + ppm * 1e-6)), arrived)
    assert clock.drift_ppm == pytest.approx(ppm, abs=30)


@pytest.mark.parametrize("own_clock", [False, True])
@pytest.mark.parametrize("jump_s", [-0.4, -3600.0, 3600.0])
def test_a_clock_that_is_set_costs_nothing_but_a_count(jump_s: float, own_clock: bool) -> None:
    clock, hosts = LensClock(), []
    for k, (taken, arrived) in enumerate(arrivals(400, jitter_ms=5)):
        stamp = taken - (START - 5 * 10**9 if own_clock else 0) + (round(jump_s * 1e9) if k >= 200 else 0)
        hosts.append(clock.host_ns(stamp, arrived))
        assert arrived - 1000 * MS <= hosts[-1] <= arrived
    assert all(a < b for a, b in pairwise(hosts)), "time goes on"
    assert clock.jumps == 1
    assert max(b - a for a, b in pairwise(hosts)) <= 100 * MS, "and no frame was held back"


@pytest.mark.parametrize("glitch_s", [0.01, 2.0, -1.5])
def test_one_wild_stamp_does_not_cost_the_hosts_clock(glitch_s: float) -> None:
    """USB drivers work their stamps out, and now and then wrongly: what comes after is the driver's time again."""
    clock, sent = LensClock(), arrivals(100, jitter_ms=5, latency_ms=35)
    hosts = [clock.host_ns(t + (round(glitch_s * 1e9) if k == 50 else 0), a) for k, (t, a) in enumerate(sent)]
    assert all(a < b for a, b in pairwise(hosts))
    assert all(h <= a for h, (_, a) in zip(hosts, sent, strict=True))
    assert hosts[56:] == [t for t, _ in sent[56:]]
    assert clock.drift_ppm == 0.0


def test_frames_out_of_order_and_twice_stay_where_they_were() -> None:
    """The pairing drops them; the clock must not take them for a step."""
    clock, order = LensClock(), [0, 1, 2, 2, 4, 3, 5, 6, 6, 8, 7, 9]
    for place, k in enumerate(order):
        assert clock.host_ns(START + k * PERIOD, START + (place + 1) * PERIOD + 90 * MS) == START + k * PERIOD
    assert clock.jumps == 0


def test_a_transport_that_stalls_once_is_not_a_clock_that_was_set() -> None:
    clock = LensClock()
    for k, (taken, arrived) in enumerate(arrivals(300, jitter_ms=2)):
        stall = 600 * MS if k in (100, 101) else 0
        clock.host_ns(taken - START, arrived + stall)
    assert clock.jumps == 0
