"""EdgeFER: the driver's visible expression from a visible + infrared array camera.

For the impatient::

    import edgefer
    with edgefer.open_bundle() as estimate:
        reading = estimate(visible_bgr, infrared_grey)   # numpy uint8; either may be None
        print(reading.label, reading.conf)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgefer.api import Estimator

__all__ = ["open_bundle"]


def open_bundle(path: str | Path | None = None, *, threads: int = 2) -> Estimator:
    """A ready estimator on the bundle in ``path`` (None: the one that ships), verified on this machine.

    Raises :class:`edgefer.errors.BundleError` or :class:`edgefer.errors.ServiceError`, one line each.
    """
    from edgefer.api import Estimator

    return Estimator(path, threads=threads)
