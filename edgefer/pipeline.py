"""The loop, on one page: capture -> locate -> align -> infer -> decide -> publish. Data never flows back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue

from edgefer.align import Aligner
from edgefer.capture.rig import Rig
from edgefer.decide import Decider
from edgefer.health import HealthReports, StageTimes, Watchdog
from edgefer.infer import Network
from edgefer.locate import Locator
from edgefer.publish import Publisher
from edgefer.report import Reporter
from edgefer.types import AlignedPair, Face, FramePair, Reading, Scores

STUCK_S = 5.0
"""cameras that come back from no call for this long, with no picture left to work on, are a case for the watchdog"""
WAIT_S = 0.25
"""longest wait for the cameras, well below the watchdog and the one second in which a loss must show"""


@dataclass
class Pipeline:
    """The stages, wired by :mod:`edgefer.app`. ``step`` handles one pair."""

    rig: Rig
    locator: Locator
    aligner: Aligner
    network: Network
    decider: Decider
    reporter: Reporter
    publisher: Publisher
    watchdog: Watchdog
    health: HealthReports
    times: StageTimes = field(default_factory=StageTimes)
    on_reading: Callable[[Reading], None] | None = None
    changes: SimpleQueue[Callable[[Pipeline], object]] = field(default_factory=SimpleQueue)
    """made between two frames, by the pipeline's thread: a reload"""

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Until told to stop or a recording ends. Errors that a restart does not cure come out as EdgeferError."""
        while not should_stop() and not self.rig.ended:
            while not self.changes.empty():
                self.changes.get()(self)
            finished = self.step()
            self.publisher.check()
            if finished or not self.rig.stuck(STUCK_S):
                self.watchdog.work_finished()

    def step(self) -> bool:
        """Whether a pair with a picture was finished; the rest is waiting."""
        with self.times.measure("frame"):
            with self.times.measure("wait"):
                pair = self.rig.next_pair(WAIT_S)
            if pair is None:
                return False
            reading = self._read(pair)
            with self.times.measure("publish"):
                self._publish(reading)
        return pair.visible is not None or pair.infrared is not None

    def _read(self, pair: FramePair) -> Reading:
        with self.times.measure("locate"):
            face = self.locator.find(pair)
        if face is None:
            self.network.reset()
        scores = self._score(pair, face) if face is not None else None
        with self.times.measure("decide"):
            return self.decider.update(pair, face, scores)

    def _score(self, pair: FramePair, face: Face) -> Scores:
        with self.times.measure("align"):
            crops: AlignedPair = self.aligner.cut(pair, face)
        with self.times.measure("infer"):
            return self.network.infer(crops)

    def _publish(self, reading: Reading) -> None:
        for message in self.reporter.report(reading, self.rig.now_ns()):
            self.publisher.publish(message)
        health = self.health()
        if health is not None:
            self.publisher.publish(health)
        if self.on_reading is not None:
            self.on_reading(reading)
