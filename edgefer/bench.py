"""``edgefer bench``: the daemon's own loop, as fast as it goes, on frames that are already in memory.

Nothing is measured that the daemon does not do: the frames pass the reader threads and the pairing, readings are
smoothed, reported and serialised at the configured rate. Decoding is the camera's and left out. Start-up time and
memory are those of a real ``edgefer run`` process.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgefer import app, config_file
from edgefer.capture.rig import Rig
from edgefer.config import Config
from edgefer.demo import clip
from edgefer.errors import InputError, ServiceError, UsageError
from edgefer.health import STAGES, StageTimes
from edgefer.types import U8, Frame, Lens, now_ns

FRAMES = 100
SLICES = 4
"""a comparison alternates this many times, so that a slow spell of the machine meets both sides"""
WORK = ("locate", "infer")
"""detector and network; everything else is overhead"""


@dataclass(frozen=True)
class Plan:
    seconds: float
    recording: Path | None
    versus: str | None
    json: Path | None


def bench(config: Config, plan: Plan) -> None:
    """Measure, print the table, write the JSON when asked. Raises EdgeferError of one line."""
    sides = {"A": config}
    if plan.versus:
        sides["B"] = altered(config, plan.versus)
    _say("preparing frames")
    frames = load_frames(plan.recording)
    figures: dict[str, dict[str, Any]] = {}
    for name, side in sides.items():
        _say(f"starting a daemon with {name}")
        figures[name] = {"figures": [], "daemon": daemon_figures(side)}
    slices = SLICES if plan.versus else 1
    for k in range(slices):
        for name, side in sides.items():
            _say(f"measuring {name} {k + 1}/{slices}, {plan.seconds / slices:g} s")
            figures[name]["figures"].append(measure(side, frames, plan.seconds / slices))
    report = {
        "machine": machine(), "versus": plan.versus, **{name: merged(f) for name, f in figures.items()},
    }  # fmt: skip
    print("\n".join(table(report)))
    if plan.json:
        write_json(plan.json, report)


def _say(step: str) -> None:
    print(f"{step} ...", file=sys.stderr, flush=True)


def altered(config: Config, assignment: str) -> Config:
    """``section.key=value`` applied to a configuration. Raises UsageError or ConfigError."""
    key, equals, value = assignment.partition("=")
    section, dot, name = key.partition(".")
    if not equals or not dot:
        raise UsageError(f"--vs {assignment}: write it as section.key=value, for example infer.threads=1")
    raw: dict[str, Any] = config.model_dump()
    try:
        parsed: Any = json.loads(value)
    except ValueError:
        parsed = value
    raw.setdefault(section, {})
    if isinstance(raw[section], dict):
        raw[section][name] = parsed
    return config_file.build(raw, f"--vs {assignment}")


def load_frames(recording: Path | None) -> dict[Lens, list[U8]]:
    """Up to ``FRAMES`` pictures a lens: of a recording, or the daylight part of the demo's drive."""
    found: dict[Lens, list[U8]] = {lens: [] for lens in Lens}
    batches = _recorded(recording) if recording else (f for _, f in clip.render(FRAMES / clip.FPS))
    for batch in batches:
        for frame in batch:
            if len(found[frame.lens]) < FRAMES:
                found[frame.lens].append(frame.image.copy())
    if not any(found.values()):
        raise InputError(f"{recording}: no frames in it; record again")
    return {lens: images for lens, images in found.items() if images}


def _recorded(folder: Path) -> Iterator[list[Frame]]:
    from edgefer.capture import open_rig
    from edgefer.config import Capture

    with open_rig(Capture(kind="recording", source=str(folder), realtime=False)) as rig:
        for _ in range(FRAMES):
            pair = rig.next_pair(1.0)
            if pair is None:
                return
            yield [f for f in (pair.visible, pair.infrared) if f is not None]


class MemorySource:
    """One lens that always has its next picture ready; each is a new frame with the time it is taken."""

    def __init__(self, lens: Lens, images: list[U8]) -> None:
        self.lenses = (lens,)
        self._images, self._index = images, 0

    def open(self) -> None:
        self._index = 0

    def read(self, timeout_s: float) -> tuple[Frame, ...]:
        k = self._index
        self._index += 1
        return (Frame(self.lenses[0], self._images[k % len(self._images)], now_ns(), k),)

    def close(self) -> None:
        self._index = 0


def measure(config: Config, frames: dict[Lens, list[U8]], seconds: float) -> StageTimes:
    """Stage times of ``seconds`` of the real loop in lockstep; the first half second, a warm-up, is not counted."""
    quiet = config.publish.model_copy(update={"kind": "stdout"})
    rig = Rig([MemorySource(lens, images) for lens, images in frames.items()], config.capture, lockstep=True)
    settings = config.model_copy(update={"publish": quiet})
    with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink), app.started(settings, rig) as pipeline:
        pipeline.run(_after(0.5))
        pipeline.times.reset()
        pipeline.run(_after(seconds))
        return pipeline.times


def _after(seconds: float) -> Any:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def daemon_figures(config: Config) -> dict[str, float]:
    """Start to first reading and resident memory of a real daemon process; without cameras it looks at a picture."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "edgefer.toml"
        file.write_text(_toml(_daemon_config(config, Path(folder))))
        command = [sys.executable, "-m", "edgefer", "run", "--config", str(file), "--publisher", "stdout"]
        start = time.monotonic()
        log = Path(folder) / "log"
        with (
            log.open("w") as sink,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sink, text=True) as process,
        ):
            kill = threading.Timer(60, process.kill)
            kill.start()
            try:
                return _watch_daemon(process, start, log)
            finally:
                kill.cancel()
                process.terminate()


def _watch_daemon(process: subprocess.Popen[str], start: float, log: Path) -> dict[str, float]:
    """The first reading is the first that saw a face; memory after fifteen of them."""
    first, seen = 0.0, 0
    assert process.stdout is not None
    for line in process.stdout:
        message = json.loads(line)
        if message["topic"].endswith("state/driver") and message["payload"]["quality"]["face"] > 0:
            seen += 1
            first = first or time.monotonic() - start
        if seen == 15:
            from edgefer.health import memory_mb

            return {"first_reading_s": first, "memory_mb": memory_mb(Path(f"/proc/{process.pid}/status"))}
    said = log.read_text().strip().splitlines() or ["it said nothing"]
    raise ServiceError(f"the daemon gave no reading: {said[-1]}")


def _daemon_config(config: Config, folder: Path) -> Config:
    if config.capture.source or config.capture.visible:
        return config
    import cv2

    picture = folder / "face.png"
    cv2.imwrite(str(picture), clip.portraits()[0])
    capture = config.capture.model_copy(update={"kind": "picture", "source": str(picture)})
    return config.model_copy(update={"capture": capture})


def _toml(config: Config) -> str:
    rows = []
    for name, value in config.model_dump(exclude_none=True).items():
        if isinstance(value, dict):
            rows += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in value.items())]
        else:
            rows.insert(0, f"{name} = {json.dumps(value)}")
    return "\n".join(rows) + "\n"


def merged(side: dict[str, Any]) -> dict[str, Any]:
    """The figures of one side, over all its slices. Milliseconds, shares of 1, frames per second."""
    runs: list[StageTimes] = side["figures"]
    seconds = {name: np.concatenate([r.seconds(name) for r in runs]) for name in (*STAGES, "frame")}
    total, work = seconds["frame"].sum(), sum(seconds[name].sum() for name in WORK)
    stages = {name: _stage(s, total) for name, s in seconds.items() if len(s)}
    rate = len(seconds["decide"]) / total
    return {"frames_per_s": float(rate), "outside_share": float(1 - work / total), "stages": stages, **side["daemon"]}


def _stage(seconds: np.ndarray[Any, np.dtype[np.float64]], total: float) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, (50, 99)) * 1e3
    return {"p50_ms": float(p50), "p99_ms": float(p99), "share": float(seconds.sum() / total)}


def machine() -> dict[str, Any]:
    import cv2

    versions = {"python": platform.python_version(), "numpy": np.__version__, "opencv": cv2.__version__}
    return {"processors": os.cpu_count(), "architecture": platform.machine(), **versions}


def table(report: dict[str, Any]) -> list[str]:
    """Lines for a person."""
    rows = []
    for name in ("A", "B"):
        if name not in report:
            continue
        side = report[name]
        rows.append(f"{name}{': ' + report['versus'] if name == 'B' else ''}")
        rows.append(f"  {'stage':<10}{'p50 ms':>9}{'p99 ms':>9}{'share':>8}")
        rows += [
            f"  {stage:<10}{t['p50_ms']:>9.2f}{t['p99_ms']:>9.2f}{t['share']:>8.1%}"
            for stage, t in side["stages"].items()
        ]
        rows.append(f"  frames/s {side['frames_per_s']:.1f}, outside detector and network {side['outside_share']:.1%}")
        rows.append(f"  first reading after {side['first_reading_s']:.2f} s, memory {side['memory_mb']:.0f} MB")
    if "B" in report:
        rows.append(f"B / A frames/s: {report['B']['frames_per_s'] / report['A']['frames_per_s']:.3f}")
    return rows


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(report, indent=1) + "\n")
        os.replace(part, path)
    except OSError as e:
        raise UsageError(f"--json {path}: cannot be written: {e.strerror}") from None
