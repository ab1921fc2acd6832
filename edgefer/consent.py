"""Recording without faces: the default, since a face is a person's own."""

from __future__ import annotations

from typing import Final

from edgefer.config import Locate
from edgefer.errors import UsageError
from edgefer.locate.yunet import YuNet
from edgefer.types import Frame

NOTICE: Final = (
    "recording people: everybody who comes into view must have agreed, and may ask for the recording to be deleted; "
    "keep it as long as it is needed, no longer"
)
FACE_FREE: Final = "no face may come into view: the first one ends the recording and nothing of it is kept"


class FaceGuard:
    """Refuses frames that show a face, on either lens, with the detector at twice its usual resolution.

    It is as good as the detector: a face in profile, far away or covered may pass. Where people are about, ask them.
    """

    def __init__(self, config: Locate) -> None:
        self._detector = YuNet(config.model_copy(update={"width": 640, "min_face": 0.02, "min_score": 0.5}))

    def __call__(self, frame: Frame) -> None:
        """Raises UsageError when a face is seen."""
        if self._detector.detect(frame.image):
            raise UsageError(
                f"a face came into view of the {frame.lens.value} lens: nothing was kept; with the consent of "
                "everybody in view record with --i-have-consent"
            )
