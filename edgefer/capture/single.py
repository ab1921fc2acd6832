"""The visible lens alone: sources of the other lens are not opened, its half of a common stream is dropped."""

from __future__ import annotations

from collections.abc import Sequence

from edgefer.capture.source import Source
from edgefer.errors import ConfigError
from edgefer.types import Frame, Lens


class VisibleSource:
    """Wraps a source of both lenses."""

    def __init__(self, inner: Source) -> None:
        self._inner = inner

    @property
    def lenses(self) -> tuple[Lens, ...]:
        return (Lens.VISIBLE,)

    def open(self) -> None:
        self._inner.open()

    def read(self, timeout_s: float) -> tuple[Frame, ...]:
        """The visible frame, if one came."""
        return tuple(frame for frame in self._inner.read(timeout_s) if frame.lens is Lens.VISIBLE)

    def close(self) -> None:
        self._inner.close()


def only_visible(sources: Sequence[Source]) -> tuple[Source, ...]:
    """Raises ConfigError when no source serves the visible lens."""
    kept = [source for source in sources if Lens.VISIBLE in source.lenses]
    if not kept:
        raise ConfigError("'capture.visible_only': there is no visible lens among the configured ones")
    return tuple(source if source.lenses == (Lens.VISIBLE,) else VisibleSource(source) for source in kept)
