"""Does the label hold still, and does it follow in time? On the demo's drive, and on faces that change at a known time.

The drive goes through the whole pipeline, every frame of it; its script says when the face changes. The faces are
PrivateTest's, through network and decision at 25 frames/s: two seconds of one, then another with another expression.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgefer import app
from edgefer.config import Capture, Config, Infer, Publish
from edgefer.config import Decide as Decision
from edgefer.decide import DOUBT_MARGIN, Decider
from edgefer.demo import clip, show
from edgefer.types import F32, UNKNOWN, Face, FramePair, Lens, LensState, Reading, Scores
from export import metrics
from export.data.faces import Labels

HELD_S = 2.0
"""how long each face is shown"""
PAIRS = 500
IN_TIME_S = 0.8
"""a label that follows a change of face within this is in time"""
Said = Sequence[tuple[float, str]]
"""seconds and label of every reading that has one"""


def drive(bundle: Path) -> dict[str, Any]:
    """The demo's drive through the daemon's pipeline: see :func:`judged`."""
    with tempfile.TemporaryDirectory() as folder:
        source = str(show.make_clip(Path(folder) / "drive"))
        config = Config(
            capture=Capture(kind="recording", source=source, realtime=False),
            infer=Infer(bundle=str(bundle)),
            publish=Publish(kind="stdout"),
        )
        readings: list[Reading] = []
        with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
            app.run(config, lambda: False, readings.append)
    start = readings[0].mono_ns
    return judged([((r.mono_ns - start) / 1e9, r.label) for r in readings if r.label != UNKNOWN], true_changes())


def true_changes() -> list[float]:
    """Seconds at which the drive's face is half changed."""
    mixes = [clip.script(k / clip.FPS).mix >= 0.5 for k in range(clip.SECONDS * clip.FPS)]
    return [k / clip.FPS for k in range(1, len(mixes)) if mixes[k] != mixes[k - 1]]


def judged(said: Said, true: Sequence[float]) -> dict[str, Any]:
    """Changes of label against changes of face, and seconds from each change of face to the label that follows it.

    A change of label that comes before half of the fade counts as no delay; None: none came before the next change.
    """
    changes = [t for (_, before), (t, after) in itertools.pairwise(said) if after != before]
    ends = [*true[1:], float("inf")]
    fade = 0.25  # half the length of a fade: from its start a new label is no mistake
    delays = []
    for at, end in zip(true, ends, strict=True):
        inside = [t for t in changes if at - fade <= t < end - fade]
        delays.append(round(max(0.0, inside[0] - at), 2) if inside else None)
    return {"true_changes": len(true), "label_changes": len(changes), "delay_s": delays}


def reaction(logits: F32, labels: Labels, names: list[str], temperature: float, least: float, seed: int) -> Any:
    """Seconds until the label follows when one sure and right answer gives way to another; ``PAIRS`` random pairs.

    in_time: share of all within ``IN_TIME_S``; median_s, longest_s: of those that came within ``HELD_S``; never: the
    others, answers so little above doubt that the filter has not carried them over it by then.
    """
    probs = metrics.probabilities(logits, temperature)
    # Below that a face that came out of doubt stays in doubt.
    sure = np.flatnonzero((probs.argmax(axis=1) == labels) & (probs.max(axis=1) >= least + DOUBT_MARGIN))
    rng = np.random.default_rng(seed)
    delays: list[float] = []
    while len(delays) < PAIRS and len(np.unique(labels[sure])) > 1:
        a, b = rng.choice(sure, 2)
        if labels[a] != labels[b]:
            delays.append(_delay(logits[a], logits[b], names, int(labels[b]), temperature, least))
    came = [d for d in delays if np.isfinite(d)]
    median = float(np.median(came)) if came else None
    return {
        "pairs": len(delays), "median_s": median, "longest_s": max(came, default=None),
        "in_time": sum(d <= IN_TIME_S for d in came) / max(1, len(delays)), "never": len(delays) - len(came),
    }  # fmt: skip


def _delay(before: F32, after: F32, names: list[str], to: int, temperature: float, least: float) -> float:
    """Infinite when the label has not followed after ``HELD_S``."""
    decider = Decider(Decision(), names, temperature, least)
    count = round(HELD_S * clip.FPS)
    for k in range(2 * count):
        reading = decider.update(_pair(k), FACE, Scores(before if k < count else after))
        if k >= count and reading.label == names[to]:
            return (k - count + 1) / clip.FPS
    return float("inf")


FACE = Face(Lens.VISIBLE, (0, 0, 1, 1), np.array([[1, 1], [3, 1], [2, 2], [1, 3], [3, 3]], np.float32), 0.95)
"""a face seen well: only its score counts here"""


def _pair(k: int) -> FramePair:
    return FramePair(None, None, LensState.OK, LensState.OK, round(k * 1e9 / clip.FPS))


def table(found: dict[str, Any]) -> list[str]:
    """Aligned plain text."""
    d, r = found["drive"], found["reaction"]
    delays = ", ".join("none" if x is None else f"{x:.2f}" for x in d["delay_s"])
    median = "never" if r["median_s"] is None else f"after {r['median_s']:.2f} s (median)"
    return [
        f"demo drive: {d['label_changes']} changes of label for {d['true_changes']} changes of face, after {delays} s",
        f"sure faces that change at once, {r['pairs']} pairs: label {median}, "
        f"{r['in_time']:.1%} within {IN_TIME_S} s, {r['never']} not within {HELD_S:g} s, {clip.FPS} frames/s",
    ]
