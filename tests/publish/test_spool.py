"""The spool without a broker: bounds, losses, damage, a small disk, and two who want the same file."""

from __future__ import annotations

import itertools
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_samples import stamper

from edgefer.messages import EventDriver, EventSystem
from edgefer.publish._flight import HOLD_S, MAX_HOLD_S, NOTE_S, PROGRESS_S, WINDOW, Flight, Token
from edgefer.publish._mailbox import Ask
from edgefer.publish._spool_file import FILE
from edgefer.publish.courier import Courier
from edgefer.publish.spool import BATCH, MAX_LOSSES, Event, Spool

MIB = 1 << 20
A, B = "0123abcd", "4567ef01"
DRIVER, SYSTEM = "event/driver", "event/system"
PAYLOAD = b'{"replayed":false,"x":"' + b"x" * 300 + b'"}'


def events(first: int, count: int, stream: str = A) -> list[Event]:
    return [Event(stream, first + n, DRIVER, PAYLOAD) for n in range(count)]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Callable[..., Spool]]:
    made: list[Spool] = []

    def make(folder: Path | None = tmp_path, size: int = MIB) -> Spool:
        made.append(Spool(folder, size))
        return made[-1]

    yield make
    for one in made:
        one.close()


def waiting(spool: Spool) -> list[int]:
    return [e.seq for _, e in spool.waiting(DRIVER, 0, 10**6)]


def test_what_is_committed_is_there_after_another_opening(spool: Callable[..., Spool]) -> None:
    first = spool()
    first.commit(events(1, 10))
    first.commit(events(11, 1), done=[row for row, e in first.waiting(DRIVER, 0, 3)])
    first.close()
    again = spool()
    assert (again.trouble, again.depth, waiting(again)) == ("", 8, list(range(4, 12)))
    assert [e.seq for e in again.stored(A, 2, 5, 100)] == [2, 3, 4, 5], "delivered ones stay for replay"
    assert again.tails == {A: 11}


def test_the_bound_holds_and_what_is_dropped_is_counted_and_named(spool: Callable[..., Spool], tmp_path: Path) -> None:
    one, made = spool(), 0
    sizes = set()
    while made < 4000:
        one.commit(events(made + 1, BATCH))
        made += BATCH
        sizes.add(sum(f.stat().st_size for f in tmp_path.iterdir()))
    assert max(sizes) <= 1.6 * MIB, "file and log"
    assert len(sizes) == 1, "the room is taken at the beginning and never grows"
    left = waiting(one)
    (loss,) = one.hand_losses(10)
    assert (loss.stream, loss.first, loss.last, loss.count) == (A, 1, left[0] - 1, left[0] - 1), "the oldest, one range"
    assert one.dropped == loss.count
    assert left == list(range(left[0], made + 1))
    assert one.depth == len(left)
    assert one.hand_losses(10) == [], "told once"


def test_delivered_events_make_room_first_and_are_no_loss(spool: Callable[..., Spool]) -> None:
    one, made = spool(), 0
    while made < 4000:
        one.commit(events(made + 1, BATCH), done=[row for row, _ in one.waiting(DRIVER, 0, BATCH)])
        made += BATCH
    assert one.hand_losses(10) == []
    assert one.dropped == 0


def test_a_report_of_a_loss_that_is_lost_itself_brings_its_range_back(spool: Callable[..., Spool]) -> None:
    one = spool()
    one.lose([(B, 7, 9, 3)])
    (loss,) = one.hand_losses(10)
    report = b'{"kind":"spool_lost","lost_stream":"%s","first":7,"last":9,"count":3}' % B.encode()
    one.commit([Event(A, 1, SYSTEM, report)], settled=[loss])
    assert one.hand_losses(10) == []
    made = 1
    while not one.dropped:
        one.commit(events(made + 1, BATCH))
        made += BATCH
    told = {(r.stream, r.first, r.last, r.count) for r in one.hand_losses(10)}
    assert told == {(B, 7, 9, 3), (A, 1, one.dropped, one.dropped)}


def test_a_report_from_before_the_damage_strikes_no_loss_of_the_new_spool(spool: Callable[..., Spool]) -> None:
    old, new = spool(None), spool(None)
    old.lose([(B, 7, 9, 3)])
    new.lose([(A, 1, 2, 2)])
    (before,), (after,) = old.hand_losses(10), new.hand_losses(10)
    assert before.id == after.id
    new.commit(events(3, 1), settled=[before])
    assert new._one("SELECT count(*) FROM loss") == 1, "not told yet: it stays on record"
    new.commit(events(4, 1), settled=[after])
    assert new._one("SELECT count(*) FROM loss") == 0


def test_losses_on_record_are_bounded_by_merging(spool: Callable[..., Spool]) -> None:
    one = spool(None)
    for seq in range(1, 4 * MAX_LOSSES, 2):  # never neighbours
        one.lose([(A, seq, seq, 1)])
    losses = one.hand_losses(10**6)
    assert len(losses) <= MAX_LOSSES
    assert sum(r.count for r in losses) == 2 * MAX_LOSSES
    assert (losses[0].first, losses[-1].last) == (1, 4 * MAX_LOSSES - 1)


def test_memory_is_a_spool_too_and_bounded(spool: Callable[..., Spool]) -> None:
    one, made = spool(None), 0
    while not one.dropped:
        one.commit(events(made + 1, BATCH))
        made += BATCH
    assert 2000 < one.depth < 20000


FILLING = """
import sys
from edgefer.publish.spool import BATCH, Event, Spool

def resident_kb():
    with open("/proc/self/smaps_rollup") as file:
        return int(next(line for line in file if line.startswith("Rss")).split()[1])

spool, seq = Spool(None, 1 << 20), 0
before = resident_kb()
while not spool.dropped:
    spool.commit([Event("0123abcd", seq + n, "event/driver", b"x" * 300) for n in range(BATCH)])
    seq += BATCH
print(resident_kb() - before)
"""


def test_memory_is_taken_at_the_start_not_over_the_hours() -> None:
    done = subprocess.run([sys.executable, "-c", FILLING], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 1024


def garbage(file: Path) -> None:
    file.write_bytes(b"not a database at all" * 1000)


def torn(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2 + 100)


def scratched(file: Path) -> None:
    """Every used page but the first overwritten."""
    with file.open("r+b") as disk:
        disk.seek(4096)
        disk.write(os.urandom(40 * 4096))


def other_version(file: Path) -> None:
    db = sqlite3.connect(file)
    db.execute("PRAGMA user_version = 99")
    db.close()


@pytest.mark.parametrize("damage", [garbage, torn, scratched, other_version])
def test_a_damaged_file_is_set_aside_and_said(
    damage: Callable[[Path], None], spool: Callable[..., Spool], tmp_path: Path
) -> None:
    first = spool()
    first.commit(events(1, 50))
    first.close()
    damage(tmp_path / FILE)
    again = spool()
    assert "set aside" in again.trouble
    assert "\n" not in again.trouble
    assert (tmp_path / f"{FILE}.damaged").exists()
    assert again.depth == 0
    again.commit(events(1, 5, B))
    again.close()
    third = spool()
    assert (third.trouble, waiting(third)) == ("", [1, 2, 3, 4, 5]), "the new one is sound"


def test_a_bit_that_changed_on_the_disk_costs_no_other_event(spool: Callable[..., Spool], tmp_path: Path) -> None:
    """In a row: its stream, number (so that it meets another one's), topic, and whether it was delivered (now NULL)."""
    first, file = spool(), tmp_path / FILE
    said = b'{"stream":"%s","seq":%d}'
    first.commit([Event(A, n, DRIVER, said % (A.encode(), n)) for n in range(50, 70)])
    first.lose([(B, 7, 9, 3)])
    first.close()
    sound = file.read_bytes()
    row = sound.index(A.encode() + bytes([55]) + DRIVER.encode())
    for place, bit in [(row - 1, 3), *itertools.product(range(row, row + len(A) + 1 + len(DRIVER)), (0, 7))]:
        changed = bytearray(sound)
        changed[place] ^= 1 << bit
        file.write_bytes(changed)
        again = spool()
        assert again.trouble.endswith("spool.db: was damaged, is mended; 1 of its rows had to be struck out")
        assert (again.depth, waiting(again)) == (19, [n for n in range(50, 70) if n != 55])
        assert len(again.hand_losses(10)) == 1
        again.close()
        once_more = spool()
        assert once_more.trouble == "", "it is sound now"
        once_more.close()


@pytest.mark.parametrize(
    "what", [A.encode() + bytes([55]), B.encode(), b"INDEX numbered", b"CREATE TABLE loss", b"TEXT"]
)
def test_a_changed_bit_elsewhere(spool: Callable[..., Spool], tmp_path: Path, what: bytes) -> None:
    """In an index, a loss, and what names the tables: there is a spool to work with, and it says what happened."""
    first, file = spool(), tmp_path / FILE
    first.commit([Event(A, 55, DRIVER, b'{"stream":"%s","seq":55}' % A.encode())])
    first.lose([(B, 7, 9, 3)])
    first.close()
    sound = file.read_bytes()
    for place, bit in itertools.product([m.start() for m in re.finditer(what, sound)], (6, 7)):
        changed = bytearray(sound)
        changed[place] ^= 1 << bit
        file.write_bytes(changed)
        again = spool()
        assert "is mended" in again.trouble or "set aside" in again.trouble
        again.commit(events(1, 1, B))
        assert 1 <= again.depth <= 2
        again.close()


def test_a_report_that_can_no_longer_be_read_is_dropped_like_any_event(spool: Callable[..., Spool]) -> None:
    told = b'{"kind":"spool_lost","lost_stream":"%s","first":1,"last":2,"count":%s}'
    one, made = spool(), 4
    damaged = [
        told[:40] + b"\xef",
        told % (b"4567ev01", b"2"),
        told % (B.encode(), b"0"),
        told % (B.encode(), b"9" * 30),
    ]
    one.commit([Event(A, 1 + n, SYSTEM, payload) for n, payload in enumerate(damaged)])
    while one.dropped == 0:
        one.commit(events(made + 1, BATCH))
        made += BATCH
    (loss,) = one.hand_losses(10)
    assert (loss.stream, loss.first, loss.count) == (A, 1, one.dropped)


def test_a_folder_that_takes_no_file_leaves_memory(spool: Callable[..., Spool], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    one = spool(tmp_path / "file" / "folder")
    assert "held in memory" in one.trouble
    one.commit(events(1, 5))
    assert waiting(one) == [1, 2, 3, 4, 5]


def test_one_file_has_one_user(spool: Callable[..., Spool]) -> None:
    first, second = spool(), spool()
    assert "locked" in second.trouble
    second.commit(events(1, 1, B))
    first.commit(events(1, 1))
    assert [e.stream for _, e in first.waiting(DRIVER, 0, 9)] == [A]


steps = st.lists(
    st.tuples(st.sampled_from(["commit", "deliver", "replace", "lose"]), st.integers(1, BATCH)),
    min_size=20,
    max_size=80,
)


@settings(max_examples=15, deadline=None)
@given(steps)
def test_every_event_is_waiting_delivered_or_on_record_as_lost(plan: list[tuple[str, int]]) -> None:
    """Whatever the order of commits, deliveries and losses: nobody is forgotten, and depth and counts agree."""
    one = Spool(None, 0)
    made, delivered, lost = 0, set[int](), set[int]()
    for what, n in plan:
        if what == "commit":
            for _ in range(8):
                one.commit(events(made + 1, n))
                made += n
        elif what == "lose":
            one.lose([(A, made + 1, made + n, n)])
            lost |= set(range(made + 1, made + n + 1))
            made += n
        else:
            rows = one.waiting(DRIVER, 0, n)
            one.commit([], done=[row for row, _ in rows])
            delivered |= {e.seq for _, e in rows}
    left = set(waiting(one))
    told = {seq for r in one.hand_losses(10**6) for seq in range(r.first, r.last + 1)}
    assert left | delivered | told == set(range(1, made + 1))
    assert not left & told
    assert one.depth == len(left)
    assert one.dropped == len(told) - len(lost)
    one.close()


# -- the window -----------------------------------------------------------------------------------------------------


class Rows:
    """A spool of plain numbers; ``topics`` take turns. ``read``: rows looked at."""

    floor = read = 0

    def __init__(self, count: int, topics: str | tuple[str, ...] = DRIVER) -> None:
        take_turns = (topics,) if isinstance(topics, str) else topics
        self.rows = [(n, Event(A, n, take_turns[n % len(take_turns)], b"")) for n in range(1, count + 1)]
        self._newest = count

    def waiting(self, topic: str, after: int, limit: int) -> list[tuple[int, Event]]:
        found = [row for row in self.rows if row[0] > after and row[1].topic == topic][:limit]
        upto = found[-1][0] if len(found) == limit else self._newest
        self.read += len([row for row in self.rows if after < row[0] <= upto])
        return found

    def newest(self) -> int:
        return self._newest

    def done(self, noted: list[int]) -> None:
        self.rows = [row for row in self.rows if row[0] not in noted]

    def add(self, topic: str) -> int:
        self._newest += 1
        self.rows.append((self._newest, Event(A, self._newest, topic, b"")))
        return self._newest


def window() -> Flight:
    return Flight((DRIVER, SYSTEM))


def fly(flight: Flight, rows: Rows, now: float) -> list[int]:
    """Which rows leave now."""
    sent = []
    while flight.room(WINDOW) and flight.ready(now) and (left := flight.take(rows, now)):
        sent.append(left[0].row)
    return sent


def land(flight: Flight, reason: int, now: float, *rows: int) -> None:
    """The verdict on ``rows``, or on all that are on their way."""
    for token in sorted(flight.flying):
        if not rows or token.row in rows:
            flight.landed(token, reason, now)


def test_no_more_than_a_window_is_out_or_unnoted() -> None:
    flight, rows = window(), Rows(100, (DRIVER, SYSTEM))
    assert fly(flight, rows, 0) == list(range(1, WINDOW + 1)), "one window for all topics, in the order of seq"
    land(flight, 0, 0, *range(1, 11))
    assert fly(flight, rows, 0) == [], "ten are delivered but not noted: a power cut would repeat them"
    assert flight.due(WINDOW, 0)
    rows.done(flight.noted())
    assert fly(flight, rows, 0) == list(range(WINDOW + 1, WINDOW + 11))


def test_what_was_dropped_meanwhile_is_not_sent() -> None:
    flight, rows = window(), Rows(40)
    fly(flight, rows, 0)
    rows.floor = 30
    land(flight, 0, 0)
    rows.done([*flight.noted(), *range(1, 31)])
    assert fly(flight, rows, 0) == list(range(31, 41)), "told as lost: not delivered as well"


def test_deliveries_are_noted_late_when_nothing_presses() -> None:
    flight, rows = window(), Rows(1)
    fly(flight, rows, 0)
    land(flight, 0, 1.0)
    assert not flight.due(WINDOW, 1.0 + NOTE_S / 2)
    assert flight.due(WINDOW, 1.0 + NOTE_S)


def test_nobody_there_is_tried_again_alone_and_less_and_less_often() -> None:
    flight, rows, now = window(), Rows(40), 0.0
    fly(flight, rows, now)
    pauses = []
    for _ in range(8):
        land(flight, 16, now)
        assert fly(flight, rows, now) == []
        pauses.append(flight.wait_s(now))
        now += min(MAX_HOLD_S, HOLD_S * 2 ** (len(pauses) - 1))
        assert fly(flight, rows, now) == [1], "the oldest, alone"
    assert pauses[:3] == [HOLD_S, 2 * HOLD_S, 1.0]
    land(flight, 16, now)
    assert fly(flight, rows, now + MAX_HOLD_S - 0.01) == []
    now += MAX_HOLD_S
    assert fly(flight, rows, now) == [1]
    land(flight, 0, now)
    assert fly(flight, rows, now) == list(range(2, WINDOW + 1)), "one got through: all of them"


def test_a_topic_that_nobody_hears_holds_no_other_one_up() -> None:
    flight, rows, now = window(), Rows(40), 0.0
    for _ in range(40):
        fly(flight, rows, now)
        land(flight, 16, now)
        new = [rows.add(SYSTEM), rows.add(SYSTEM)]
        flight.more()
        assert set(new) <= set(fly(flight, rows, now)), "at once, whatever the pause"
        land(flight, 0, now, *new)
        rows.done(flight.noted())
        now += 0.1
    assert [row for row, _ in rows.rows] == list(range(1, 41)), "no verdict on one topic is taken for one on another"
    now += MAX_HOLD_S
    fly(flight, rows, now)
    land(flight, 0, now)
    rows.done(flight.noted())
    assert fly(flight, rows, now) == list(range(2, WINDOW + 2)), "somebody hears it now: in order from where it stood"


@pytest.mark.parametrize("heard", [True, False])
def test_a_backlog_is_not_looked_through_for_every_event_of_another_topic(heard: bool) -> None:
    """The one event of the other topic, heard or not, lies behind thousands that nobody hears, and more come."""
    flight, rows, now = window(), Rows(1000), 0.0
    system = rows.add(SYSTEM)
    for _ in range(100):
        fly(flight, rows, now)
        land(flight, 0 if heard else 16, now, system)
        land(flight, 16, now)
        rows.done(flight.noted())
        rows.add(DRIVER)
        flight.more()
        now += MAX_HOLD_S
    assert rows.read <= 2 * 1101, "everything once for either topic, whatever the tries"


def test_while_a_pause_is_over_and_nothing_can_leave_the_thread_sleeps() -> None:
    """The first of a window found nobody, the verdicts on the others do not come: the link hangs, or is gone."""
    flight, rows = window(), Rows(40)
    fly(flight, rows, 0)
    land(flight, 16, 0, 1)
    assert fly(flight, rows, 2 * HOLD_S) == []
    assert flight.wait_s(2 * HOLD_S) > 0.1


def test_what_is_noted_after_a_pause_is_not_sent_once_more() -> None:
    """Delivered before the pause, read again after it, noted meanwhile."""
    flight, rows = window(), Rows(3)
    fly(flight, rows, 0)
    land(flight, 16, 0, 1)
    land(flight, 0, 0, 2, 3)
    assert fly(flight, rows, HOLD_S) == [1]
    rows.done(flight.noted())
    land(flight, 0, HOLD_S)
    assert fly(flight, rows, HOLD_S) == []


verdicts = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 16, 151, 135]), st.sets(st.integers(0, WINDOW - 1)), st.booleans(), st.floats(0, 5)
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(verdicts)
def test_whatever_the_verdicts_each_event_lands_once_and_the_window_holds(
    plan: list[tuple[int, set[int], bool, float]],
) -> None:
    flight, rows, now = window(), Rows(60, (DRIVER, SYSTEM, DRIVER)), 0.0
    landed: list[int] = []

    def verdict(reason: int, tokens: list[Token]) -> None:
        for token in tokens:
            flight.landed(token, reason, now)
            landed.extend([token.row] if reason in {0, 135} else [])

    def note() -> None:
        rows.done(flight.noted())

    for reason, places, noting, passed in plan:
        fly(flight, rows, now)
        assert len(flight.flying) + len(set(landed) & {row for row, _ in rows.rows}) <= WINDOW
        verdict(reason, [token for n, token in enumerate(sorted(flight.flying)) if n in places])
        if noting or flight.due(WINDOW, now):
            note()
        now += passed
    for _ in range(100):
        now += MAX_HOLD_S
        fly(flight, rows, now)
        verdict(0, list(flight.flying))
        note()
    assert sorted(landed) == list(range(1, 61))
    assert flight.over


def test_a_final_refusal_is_not_tried_again() -> None:
    flight, rows = window(), Rows(1)
    fly(flight, rows, 0)
    assert flight.landed(next(iter(flight.flying)), 135, 0) == 1
    rows.done(flight.noted())
    assert fly(flight, rows, 99) == []


def test_no_acknowledgement_for_long_is_a_dead_link() -> None:
    flight, rows = window(), Rows(3)
    assert not flight.stuck(PROGRESS_S)
    fly(flight, rows, 0)
    assert not flight.stuck(PROGRESS_S - 1)
    land(flight, 0, PROGRESS_S - 1, 1)
    assert not flight.stuck(PROGRESS_S + 1)
    assert flight.stuck(2 * PROGRESS_S)
    assert not flight.stuck(2 * PROGRESS_S + 1), "once, then it is given time"


def test_verdicts_on_rows_of_a_spool_that_is_gone_mean_nothing() -> None:
    flight, rows = window(), Rows(1)
    fly(flight, rows, 0)
    old = next(iter(flight.flying))
    flight.new_life()
    fly(flight, rows, 0)
    assert flight.landed(old, 0, 0) is None
    assert len(flight.flying) == 1


# -- the courier, its far side being a list -------------------------------------------------------------------------


class Far:
    """Acknowledges with what ``verdict`` says (None: not at all), or ``deaf`` with 16."""

    def __init__(self) -> None:
        self.courier: Courier
        self.sent: list[tuple[str, bytes]] = []
        self.verdict: int | None = 0
        self.deaf = ""
        """a topic that nobody subscribes to"""
        self.stalls = 0
        self.news = threading.Condition()

    def send_event(self, topic: str, payload: bytes, token: object) -> None:
        with self.news:
            self.sent.append((topic, payload))
            self.news.notify_all()
        if self.verdict is not None:
            self.courier.settle(token, 16 if topic == self.deaf else self.verdict)  # type: ignore[arg-type]

    def stalled(self) -> None:
        self.stalls += 1

    def wait(self, count: int) -> None:
        self.wait_for(lambda: len(self.sent) >= count)

    def wait_for(self, what: Callable[[], bool]) -> None:
        with self.news:
            assert self.news.wait_for(what, 10), self.sent

    def of(self, topic: str) -> list[int]:
        return [json.loads(payload)["seq"] for name, payload in self.sent if name == topic]


@pytest.fixture
def far() -> Iterator[Far]:
    one = Far()
    yield one
    one.courier.close(0.0)


def start(far: Far, open_spool: Callable[[], Spool], **limits: int) -> Courier:
    far.courier = Courier(open_spool, far, **limits)
    far.courier.start()
    return far.courier


def test_putting_never_waits_for_the_disk_and_what_finds_no_place_is_told(far: Far, tmp_path: Path) -> None:
    disk, clock = threading.Event(), stamper()

    def hanging_disk() -> Spool:
        assert disk.wait(10)
        return Spool(tmp_path, MIB)

    courier = start(far, hanging_disk, queue_limit=10)
    for _ in range(25):
        courier.put(clock.message(EventSystem, kind="started"))
    assert courier.counters()["events_lost"] == 15
    disk.set()
    courier.link(True)
    far.wait(10)
    end = threading.Event()
    while not (notices := courier.notices()):
        assert not end.wait(0.01)
    (loss,) = [n.loss for n in notices if n.loss]
    assert (loss.first, loss.last, loss.count) == (11, 25, 15)
    told = clock.message(EventSystem, kind="spool_lost", lost_stream=loss.stream, first=11, last=25, count=15)
    courier.put(told, settles=loss)
    far.wait(11)
    courier.close(1.0)
    again = Spool(tmp_path, MIB)
    assert again.hand_losses(10) == [], "told and struck from the record in one transaction"
    again.close()


def test_a_file_that_goes_bad_while_running_is_replaced(far: Far, tmp_path: Path) -> None:
    clock = stamper()
    spools: list[Spool] = []

    def opened() -> Spool:
        spools.append(Spool(tmp_path, MIB))
        return spools[-1]

    def malformed(*_: object) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    courier = start(far, opened)
    courier.link(True)
    courier.put(clock.message(EventSystem, kind="started"))
    far.wait(1)
    spools[0].commit = malformed  # type: ignore[method-assign]
    courier.put(clock.message(EventSystem, kind="started"))
    far.wait(2)
    assert b'"seq":2' in far.sent[-1][1]
    assert len(spools) == 2
    assert courier.fault == ""


def test_what_not_even_another_file_takes_is_lost_and_on_record(far: Far) -> None:
    clock = stamper()

    def malformed(*_: object) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    def refusing() -> Spool:
        one = Spool(None, 0)
        one.commit = malformed  # type: ignore[method-assign]
        return one

    courier = start(far, refusing)
    courier.link(True)
    courier.put(clock.message(EventSystem, kind="started"))
    tick = threading.Event()
    for _ in range(500):
        if (notices := courier.notices()) or tick.wait(0.01):
            break
    (loss,) = [n.loss for n in notices if n.loss]
    assert (loss.stream, loss.first, loss.count) == (clock.stream, 1, 1)
    assert courier.counters()["events_lost"] == 1
    assert far.sent == []


def test_an_event_that_nobody_subscribes_to_holds_up_no_other_topic(far: Far) -> None:
    clock = stamper()
    far.deaf = DRIVER
    courier = start(far, lambda: Spool(None, 0))
    courier.link(True)
    courier.put(clock.message(EventDriver, kind="label", before="a", after="b"))
    far.wait(1)
    for last in range(2, 32):
        courier.put(clock.message(EventSystem, kind="started"))
        far.wait_for(lambda n=last: far.of(SYSTEM) == list(range(2, n + 1)))  # type: ignore[misc]
    assert set(far.of(DRIVER)) == {1}
    assert courier.counters()["spool_depth"] <= WINDOW, "delivered ones do not pile up behind it"
    far.deaf = ""
    tries = len(far.sent)
    far.wait_for(lambda: len(far.sent) > tries)
    courier.close(1.0)
    assert courier.counters()["spool_depth"] == 0


def test_a_replay_is_marked_and_says_how_much_is_here(far: Far) -> None:
    clock = stamper()
    courier = start(far, lambda: Spool(None, 0))
    courier.link(True)
    for _ in range(5):
        courier.put(clock.message(EventSystem, kind="started"))
    far.wait(5)
    answers: list[int] = []
    courier.replay(Ask(clock.stream, 2, 9, answers.append))
    far.wait(9)
    assert answers == [4]
    assert [b'"replayed":true' in payload for _, payload in far.sent] == [False] * 5 + [True] * 4
    courier.replay(Ask(clock.stream, 90, 99, answers.append))
    courier.close(1.0)
    assert answers == [4, 0]


def test_no_ask_however_bad_ends_the_thread(far: Far, tmp_path: Path) -> None:
    """Numbers that SQLite cannot hold, then a file that cannot be read: both are answered, and events go on."""
    clock, answers = stamper(), list[int]()
    spools: list[Spool] = []

    def opened() -> Spool:
        spools.append(Spool(tmp_path, MIB))
        return spools[-1]

    def malformed(*_: object) -> list[Event]:
        raise sqlite3.DatabaseError("database disk image is malformed")

    courier = start(far, opened)
    courier.link(True)
    courier.replay(Ask(clock.stream, 1, 10**20, answers.append))
    courier.put(clock.message(EventSystem, kind="started"))
    far.wait(1)
    spools[0].stored = malformed  # type: ignore[method-assign]
    courier.replay(Ask(clock.stream, 1, 1, answers.append))
    courier.put(clock.message(EventSystem, kind="started"))
    far.wait_for(lambda: b'"seq":2' in far.sent[-1][1])
    assert courier.fault == ""
    assert answers == [0, -1], "the first are nowhere; the second may be asked for again"
    assert len(spools) == 2, "the file was opened anew"


@pytest.mark.parametrize("reading", ["waiting", "hand_losses", "event"])
def test_a_file_that_cannot_be_read_is_opened_anew(far: Far, tmp_path: Path, reading: str) -> None:
    """Whatever it was read for: events to send, losses to tell, what the broker refused."""
    clock = stamper()
    spools: list[Spool] = []

    def opened() -> Spool:
        with far.news:
            spools.append(Spool(tmp_path, MIB))
            far.news.notify_all()
        return spools[-1]

    def unreadable(*_: object) -> list[Event]:
        raise sqlite3.OperationalError("disk I/O error")

    far.verdict = 135 if reading == "event" else 0
    courier = start(far, opened)
    courier.put(clock.message(EventSystem, kind="started"))
    far.wait_for(lambda: bool(spools))
    setattr(spools[0], reading, unreadable)
    courier.link(True)
    far.wait_for(lambda: len(spools) > 1)
    far.verdict = 0
    courier.put(clock.message(EventSystem, kind="started"))
    far.wait_for(lambda: any(b'"seq":2' in payload for _, payload in far.sent))
    courier.close(1.0)
    assert courier.fault == ""
    assert {1, 2} <= set(far.of(SYSTEM))
    assert courier.counters()["spool_depth"] == 0


def test_the_old_file_is_let_go_before_it_is_opened_anew(far: Far, tmp_path: Path) -> None:
    """A text that is none, in a real file: what the reading had open would lock the file against ourselves."""
    spools = list[Spool]()

    def opened() -> Spool:
        spools.append(Spool(tmp_path, MIB))
        if len(spools) == 1:
            streams = [f"{k:08x}" for k in range(3)]
            spools[0].commit([Event(s, 1, SYSTEM, b'{"stream":"%s","seq":1}' % s.encode()) for s in streams])
            spools[0]._db.execute("UPDATE event SET stream = CAST(x'ff' AS TEXT) WHERE id = 1")
        return spools[-1]

    courier = start(far, opened)
    courier.link(True)
    far.wait(2)
    courier.close(1.0)
    assert courier.fault == ""
    assert "1 of its rows had to be struck out" in spools[1].trouble
    assert [one.depth for one in spools[1:]] == [0]


def test_what_was_to_be_stored_when_no_file_could_be_opened_is_on_record(far: Far, tmp_path: Path) -> None:
    """The file goes bad at a commit and cannot be opened again at once."""
    clock, openings = stamper(), list[Spool | None]()

    def malformed(*_: object) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    def opened() -> Spool:
        openings.append(None if len(openings) == 1 else Spool(tmp_path, MIB))
        if (spool := openings[-1]) is None:
            raise sqlite3.OperationalError("unable to open database file")
        if len(openings) == 1:
            spool.commit = malformed  # type: ignore[method-assign]
        return spool

    courier = start(far, opened)
    courier.put(clock.message(EventSystem, kind="started"))
    courier.link(True)
    told = list[tuple[int, int]]()

    def tell() -> bool:
        told.extend((n.loss.first, n.loss.count) for n in courier.notices() if n.loss)
        return bool(told)

    tick = threading.Event()
    assert any(tell() or tick.wait(0.02) for _ in range(500)), courier.fault
    assert (told, courier.counters()["events_lost"], len(openings)) == ([(1, 1)], 1, 3)


def test_refusals_that_cannot_be_looked_up_are_booked_once(far: Far, tmp_path: Path) -> None:
    """The first of two is read, the second is not: both are sent again from the file opened anew, and refused again."""
    clock, spools, seen = stamper(), list[Spool](), list[int]()

    def opened() -> Spool:
        spools.append(Spool(tmp_path, MIB))
        return spools[-1]

    def unreadable(row: int) -> Event | None:
        seen.append(row)
        if len(seen) == 2:
            raise sqlite3.OperationalError("disk I/O error")
        return Spool.event(spools[0], row)

    far.verdict = 135
    courier = start(far, opened)
    for _ in range(2):
        courier.put(clock.message(EventSystem, kind="started"))
    tick = threading.Event()
    assert any(courier.counters()["spool_depth"] == 2 or tick.wait(0.02) for _ in range(500))
    spools[0].event = unreadable  # type: ignore[method-assign]
    courier.link(True)
    far.wait(4)
    courier.close(1.0)
    assert (seen, len(spools), courier.fault) == ([1, 2], 2, "")
    assert courier.counters()["events_lost"] == 2


def test_a_file_that_stays_unreadable_is_the_service_s_end(far: Far, tmp_path: Path) -> None:
    """Opened anew once, not for ever: the service's restarts keep their distance."""
    spools: list[Spool] = []

    def unreadable(*_: object) -> list[Event]:
        raise sqlite3.OperationalError("disk I/O error")

    def opened() -> Spool:
        spools.append(Spool(tmp_path, MIB))
        spools[-1].hand_losses = unreadable  # type: ignore[method-assign, assignment]
        return spools[-1]

    courier = start(far, opened)
    courier.link(True)
    courier._thread.join(10)
    assert "disk I/O error" in courier.fault
    assert len(spools) == 2


def test_an_event_refused_for_good_is_told_and_a_refused_telling_is_not(far: Far) -> None:
    clock = stamper()
    far.verdict = 135
    courier = start(far, lambda: Spool(None, 0))
    courier.link(True)
    courier.put(clock.message(EventSystem, kind="started"))
    tick = threading.Event()
    while not (notices := courier.notices()):
        assert not tick.wait(0.01)
    (loss,) = [n.loss for n in notices if n.loss]
    assert (loss.first, loss.last) == (1, 1)
    courier.put(clock.message(EventSystem, kind="spool_lost", lost_stream=A, first=1, last=1, count=1), settles=loss)
    far.wait(2)
    courier.close(1.0)
    assert courier.notices() == []
    assert len(far.sent) == 2


def test_a_thread_that_dies_is_told_to_the_pipeline(far: Far) -> None:
    def broken() -> Spool:
        raise ZeroDivisionError("defect")

    courier = start(far, broken)
    courier._thread.join(10)
    assert "defect" in courier.fault
