"""Capture: from the configuration to the newest pair of frames.

    with open_rig(config.capture) as rig:
        pair = rig.next_pair(0.5)

Where to add a camera kind: a file here with a class like `source.Source`, an entry in `KINDS`, a word in
`edgefer.config.Capture.kind`; the contract tests walk `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgefer.capture.opencv import OpenCvSource
from edgefer.capture.picture import PictureSource
from edgefer.capture.recorder import Recorder, record
from edgefer.capture.recording import Epoch, RecordingSource, read_recording
from edgefer.capture.rig import Rig
from edgefer.capture.single import only_visible
from edgefer.capture.source import Clock, EndOfStream, Source
from edgefer.capture.stacked import StackedSource
from edgefer.config import Capture
from edgefer.errors import ConfigError, InputError
from edgefer.types import Lens, now_ns

__all__ = ["KINDS", "EndOfStream", "Recorder", "Rig", "Source", "open_rig", "open_sources", "record"]


def open_rig(config: Capture, clock: Clock = now_ns) -> Rig:
    """A rig for ``config``, not yet started.

    Raises ConfigError when a key that the kind needs is empty, InputError when a recording or picture is missing or
    unreadable. A missing camera is no error here: the rig goes on trying.
    """
    lockstep = config.kind == "recording" and not config.realtime
    return Rig(open_sources(config, clock), config, clock, lockstep)


def open_sources(config: Capture, clock: Clock = now_ns) -> tuple[Source, ...]:
    """The sources of ``config``, not yet opened; errors as `open_rig`."""
    sources = _both(config, clock)
    return only_visible(sources) if config.visible_only else sources


def _both(config: Capture, clock: Clock) -> tuple[Source, ...]:
    sources = KINDS[config.kind](config, clock)
    if config.layout == "separate" or config.kind == "picture":  # a picture's second lens is simulated
        return sources
    if len(sources) != 1:
        raise ConfigError(f"'capture.layout': \"{config.layout}\" wants one stream, but {config.source} has two lenses")
    return (StackedSource(sources[0], config.layout),)


def _recording(config: Capture, clock: Clock) -> tuple[Source, ...]:
    recording = read_recording(Path(_needed(config, "source")))
    epoch = Epoch(clock)
    return tuple(
        RecordingSource(recording, lens, epoch, realtime=config.realtime, repeat=config.repeat, clock=clock)
        for lens in recording.files
    )


def _picture(config: Capture, clock: Clock) -> tuple[Source, ...]:
    path = Path(_needed(config, "source"))
    if path.is_dir():
        raise InputError(f'{path}: a folder, not a picture; for a recording set capture.kind = "recording"')
    return (PictureSource(path, (config.width, config.height), config.fps, clock),)


def _cameras(config: Capture, clock: Clock) -> tuple[Source, ...]:
    """Separate lenses, or the one stream that holds both, which is asked for both widths or heights."""
    w, h = config.width, config.height
    if config.layout != "separate":
        size = (2 * w, h) if config.layout == "side-by-side" else (w, 2 * h)
        return (OpenCvSource(Lens.VISIBLE, config.kind, _needed(config, "source"), size, config.fps, clock=clock),)
    devices = {Lens.VISIBLE: config.visible, Lens.INFRARED: config.infrared}
    if not any(devices.values()):
        _needed(config, "visible")
    return tuple(
        OpenCvSource(lens, config.kind, device, (w, h), config.fps, clock=clock)
        for lens, device in devices.items()
        if device
    )


def _needed(config: Capture, key: str) -> str:
    value: str = getattr(config, key)
    if not value:
        raise ConfigError(f"'capture.{key}': must be set when capture.kind is \"{config.kind}\"")
    return value


KINDS: dict[str, Callable[[Capture, Clock], tuple[Source, ...]]] = {
    "recording": _recording,
    "picture": _picture,
    "v4l2": _cameras,
    "gstreamer": _cameras,
}
"""The camera kinds by name: from the configuration to sources that are not yet opened."""
