"""The loop, on one page: capture -> locate -> align -> infer -> decide -> publish. Data never flows back,
but for one hint: on which lens the face was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue

from edgefer.align import Aligner
from edgefer.birth import Birth
from edgefer.control import Control, private_reading
from edgefer.decide import Decider
from edgefer.health import HealthReports, StageTimes, Watchdog
from edgefer.infer import Network
from edgefer.locate import Locator
from edgefer.messages import Message
from edgefer.publish import Publisher
from edgefer.report import Reporter
from edgefer.shutter import Shutter
from edgefer.types import AlignedPair, Face, FramePair, Reading, Scores

STUCK_S = 5.0
"""cameras that come back from no call for this long, with no picture left to work on, are a case for the watchdog"""
WAIT_S = 0.25
"""longest wait for the cameras, well below the watchdog and the one second in which a loss must show"""
PRIVATE_S = 0.1
"""while privacy is on: pause between two looks for commands"""


@dataclass
class Pipeline:
    """The stages, wired by :mod:`edgefer.app`. ``step`` handles one pair."""

    rig: Shutter
    locator: Locator
    aligner: Aligner
    network: Network
    decider: Decider
    reporter: Reporter
    publisher: Publisher
    birth: Birth
    control: Control
    watchdog: Watchdog
    health: HealthReports
    check: Callable[[FramePair, Face | None], Message | None]
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
        """Whether a pair with a picture was finished; the rest is waiting. Commands are obeyed before and after."""
        self.control.obey()
        if self.control.private:
            return self._keep_private()
        with self.times.measure("frame"):
            with self.times.measure("wait"):
                pair = self.rig.next_pair(WAIT_S)
            if pair is None:
                return False
            reading, face = self._read(pair)
            self.control.obey()
            if self.control.private:  # asked for while this frame was under way: its reading is not told
                return True
            with self.times.measure("publish"):
                self._publish(reading)
            drift = self.check(pair, face)
            if drift is not None:
                self.publisher.publish(drift)
        return pair.visible is not None or pair.infrared is not None

    def _keep_private(self) -> bool:
        """Nothing is read; that it is so is told. Finished work: there is no other."""
        self.network.reset()
        self._publish(private_reading(self.rig.now_ns()))
        self.rig.next_pair(PRIVATE_S)
        return True

    def _read(self, pair: FramePair) -> tuple[Reading, Face | None]:
        with self.times.measure("locate"):
            face = self.locator.find(pair)
        self.rig.note_face(face.lens if face is not None and face.fresh else None)
        if face is None:
            self.network.reset()
        scores = self._score(pair, face) if face is not None else None
        with self.times.measure("decide"):
            reading = self.decider.update(pair, face, scores)
        if pair.visible is not None or pair.infrared is not None:
            self.times.add("lag", max(0, self.rig.now_ns() - pair.mono_ns))
        return reading, face

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
