"""Fault drills: every fault that can be asked for is the one that is then named."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from capture_helpers import FakeClock, scene

from edgefer.capture import open_rig
from edgefer.capture.drill import DrillSource, read_drills
from edgefer.capture.fake import FakeSource
from edgefer.capture.mailbox import Mailbox
from edgefer.config import Capture
from edgefer.errors import ConfigError
from edgefer.types import Frame, Lens, LensState

FAULTS = [state for state in LensState if state is not LensState.OK]
START_S, END_S = 1.0, 3.8
NAMED_S = {
    LensState.LOST: 0.6, LensState.BLACK: 0.0, LensState.SATURATED: 0.5, LensState.FROZEN: 1.0, LensState.FLICKER: 1.0,
    LensState.COVERED: 1.5, LensState.WRONG_SPECTRUM: 2.0, LensState.BLURRED: 2.0, LensState.DROPPING: 2.5,
}  # fmt: skip
"""the README's table; two frames more, in which the fault begins and is looked at"""


class TwoViews(FakeSource):
    """A colour and a grey view of one scene, both new in every frame."""

    def read(self, timeout_s: float) -> tuple[Frame, ...]:
        self._index += 1
        grey = scene(self._index)
        tinted = cv2.merge([grey // 2, grey, np.minimum(grey, 180)])
        views = {Lens.VISIBLE: tinted, Lens.INFRARED: scene(self._index + 5000)}
        return tuple(Frame(lens, views[lens], self._clock(), self._index) for lens in self.lenses)


@pytest.mark.parametrize("lens", list(Lens))
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_drilled_is_what_is_named(fault: LensState, lens: Lens, clock: FakeClock) -> None:
    drills = read_drills(f"{lens.value}:{fault.value}:{START_S:g}-{END_S:g}")
    source = DrillSource(TwoViews(tuple(Lens), clock=clock), drills, clock)
    source.open()
    mailbox = Mailbox(Capture(), [(each, 0) for each in Lens], False, clock)
    seen: dict[float, tuple[LensState, LensState]] = {}
    for k in range(165):
        clock.wait(0.04)
        mailbox.post(source.read(0.1))
        clock.wait(0.001)
        seen[0.041 * k] = mailbox.states()
    source.close()
    mine = list(Lens).index(lens)
    assert {s[mine] for t, s in seen.items() if t < START_S - 0.1} == {LensState.OK}
    assert {s[mine] for t, s in seen.items() if START_S + NAMED_S[fault] + 0.082 <= t < END_S - 0.1} == {fault}
    assert {s[mine] for t, s in seen.items() if t > END_S + 2.6} == {LensState.OK}
    if fault is not LensState.WRONG_SPECTRUM:
        assert {s[1 - mine] for s in seen.values()} == {LensState.OK}


@pytest.mark.parametrize(
    "text",
    ["visible", "visible:black", "visible:purple:1-2", "thermal:black:1-2", "visible:black:2-1", "visible:ok:1-2"],
)
def test_a_drill_that_is_not_understood_is_named(text: str, tmp_path: object) -> None:
    with pytest.raises(ConfigError, match=f"'capture.faults': '{text}'"):
        read_drills(f"infrared:lost:3-4 {text}")


def test_a_simulator_without_a_picture_names_the_key() -> None:
    with pytest.raises(ConfigError, match=r"capture\.source"):
        open_rig(Capture(kind="simulator"))
