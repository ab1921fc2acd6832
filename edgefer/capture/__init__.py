"""Capture: from the configuration to the newest pair of frames.

    with open_rig(config.capture) as rig:
        pair = rig.next_pair(0.5)

Where to add a camera kind: a file here with a class like `source.Source`, an entry in `KINDS`, a word in
`edgefer.config.Capture.kind`; the contract tests walk `KINDS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from edgefer.capture.drill import DrillSource, read_drills
from edgefer.capture.formats import Scale
from edgefer.capture.opencv import OpenCvSource
from edgefer.capture.picture import PictureSource
from edgefer.capture.recorder import Recorder, Room, record
from edgefer.capture.recording import Epoch, RecordingSource, read_recording
from edgefer.capture.rig import Rig
from edgefer.capture.single import only_visible
from edgefer.capture.source import Clock, EndOfStream, Source
from edgefer.capture.stacked import StackedSource
from edgefer.capture.v4l2 import V4l2Source
from edgefer.capture.v4l2_choice import Settings
from edgefer.config import Capture
from edgefer.errors import ConfigError, InputError
from edgefer.redact import without_password
from edgefer.types import Lens, now_ns

__all__ = ["KINDS", "EndOfStream", "Recorder", "Rig", "Room", "Source", "open_rig", "open_sources", "record"]


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
    if config.layout == "separate" or config.kind in ("picture", "simulator"):  # their second lens is simulated
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


def _simulator(config: Capture, clock: Clock) -> tuple[Source, ...]:
    drills = read_drills(config.faults)
    return tuple(DrillSource(source, drills, clock) for source in _picture(config, clock))


def _cameras(config: Capture, clock: Clock) -> tuple[Source, ...]:
    """Separate lenses, one or two of a spectrum, or the one stream that holds both, asked for both sizes."""
    w, h = config.width, config.height
    if config.layout != "separate":
        size = (2 * w, h) if config.layout == "side-by-side" else (w, 2 * h)
        return (_camera(config, Lens.VISIBLE, _needed(config, "source"), size, clock),)
    keys = {"visible": Lens.VISIBLE, "infrared": Lens.INFRARED, "visible2": Lens.VISIBLE, "infrared2": Lens.INFRARED}
    devices: dict[str, str] = {key: getattr(config, key) for key in keys if getattr(config, key)}
    if not devices:
        _needed(config, "visible")
    _check_distinct(config.kind, devices)
    return tuple(_camera(config, keys[key], device, (w, h), clock) for key, device in devices.items())


def _camera(config: Capture, lens: Lens, device: str, size: tuple[int, int], clock: Clock) -> Source:
    if config.kind != "v4l2":
        return OpenCvSource(lens, config.kind, device, size, config.fps, clock=clock)
    visible = lens is Lens.VISIBLE
    settings = Settings(
        exposure_ms=config.visible_exposure_ms if visible else config.infrared_exposure_ms,
        gain=config.visible_gain if visible else config.infrared_gain,
        illuminator="leave" if visible else config.illuminator,
    )
    scale = Scale(config.scaling, config.temperature_low_c, config.temperature_high_c, config.kelvin_per_count)
    return V4l2Source(lens, device, size, config.fps, settings, scale, clock=clock)


def _check_distinct(kind: str, devices: dict[str, str]) -> None:
    """Raises ConfigError for two lenses on one node, whatever the names by which it is called."""
    nodes: dict[str, str] = {}
    for key, device in devices.items():
        path = f"/dev/video{device}" if device.isdigit() else device
        node = os.path.realpath(path) if kind == "v4l2" else device
        if node in nodes:
            raise ConfigError(
                f"'capture.{key}': {without_password(device)} is the same camera as 'capture.{nodes[node]}'; name "
                "another, or choose the capture.layout by which one stream holds both lenses"
            )
        nodes[node] = key


def _needed(config: Capture, key: str) -> str:
    value: str = getattr(config, key)
    if not value:
        raise ConfigError(f"'capture.{key}': must be set when capture.kind is \"{config.kind}\"")
    return value


KINDS: dict[str, Callable[[Capture, Clock], tuple[Source, ...]]] = {
    "recording": _recording,
    "picture": _picture,
    "simulator": _simulator,
    "v4l2": _cameras,
    "gstreamer": _cameras,
    "rtsp": _cameras,
}
"""The camera kinds by name: from the configuration to sources that are not yet opened."""
