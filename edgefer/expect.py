"""A recording as a regression test: the readings of a replay, written once and compared ever after."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from edgefer.errors import InputError
from edgefer.types import Reading

FORMAT: Final = 1
SHOWN: Final = 5
"""differences that are printed; the rest is counted"""
SLACK: Final = 2
"""readings by which a label, a reason or a lens's state may change earlier or later: processors round differently"""
Expected = list[dict[str, Any]]


def plain(readings: Sequence[Reading]) -> Expected:
    """What of ``readings`` is compared; times in milliseconds from the first."""
    start = readings[0].mono_ns if readings else 0
    return [
        {
            "t_ms": round((r.mono_ns - start) / 1e6, 3),
            "label": r.label,
            "why": r.why.value if r.why is not None else None,
            "lenses": [state.value for state in r.lenses],
            "conf": round(r.conf, 4),
            "face": round(r.face_score, 4),
            "probs": {label: round(p, 4) for label, p in r.probs.items()},
        }
        for r in readings
    ]


def write(path: Path, readings: Sequence[Reading], bundle: str) -> None:
    """bundle: name@version of the network. Raises InputError, also when there is nothing to write."""
    if not readings:
        raise InputError(f"{path}: not written, the recording gave no reading")
    rows = ",\n".join(json.dumps(row) for row in plain(readings))
    try:
        path.write_text(f'{{"format": {FORMAT}, "bundle": {json.dumps(bundle)}, "readings": [\n{rows}\n]}}\n')
    except OSError as e:
        raise InputError(f"{path}: cannot be written: {e.strerror}") from None


def read(path: Path) -> tuple[str, Expected]:
    """(bundle, readings). Raises InputError."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise ValueError(f"format {raw['format']!r} is unknown here")
        rows = list(raw["readings"])
        for row in rows:
            _ = float(row["t_ms"]), row["label"], row["why"], row["lenses"], dict(row["probs"])
            _ = float(row["conf"]), float(row["face"])
        return str(raw["bundle"]), rows
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; write one with --write-expect {path}") from None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(
            f"{path}: holds no expected readings ({type(e).__name__}: {e}); write them again with --write-expect"
        ) from None


def differences(expected: Expected, got: Expected, tolerance: float) -> list[str]:
    """A line for each reading that is not as expected; tolerance: of probabilities and scores, 0 to 1."""
    found = [line for k in range(min(len(expected), len(got))) for line in _of_one(expected, got, k, tolerance)]
    if len(expected) != len(got):
        found.append(f"{len(got)} readings, expected {len(expected)}")
    return found


def _of_one(expected: Expected, got: Expected, k: int, tolerance: float) -> Iterator[str]:
    want, have, where = expected[k], got[k], f"reading {k} at {expected[k]['t_ms'] / 1e3:.3f} s"
    if abs(want["t_ms"] - have["t_ms"]) > 0.5:
        yield f"{where}: came at {have['t_ms'] / 1e3:.3f} s"
    near = expected[max(0, k - SLACK) : k + SLACK + 1]
    for key in ("label", "why", "lenses"):
        if have[key] not in [row[key] for row in near]:
            yield f"{where}: {key} {have[key]}, expected {want[key]}"
    if [want[key] for key in ("why", "lenses")] == [have[key] for key in ("why", "lenses")]:
        yield from _numbers(want, have, tolerance, where)


def _numbers(want: dict[str, Any], have: dict[str, Any], tolerance: float, where: str) -> Iterator[str]:
    """The largest deviation, when it is too large; conf of another label within the slack is another probability."""
    if set(want["probs"]) != set(have["probs"]):
        yield f"{where}: probabilities of {', '.join(have['probs']) or 'nothing'}"
        return
    pairs = [(label, have["probs"][label], p) for label, p in want["probs"].items()]
    pairs.append(("face", have["face"], want["face"]))
    name, is_now, was = max(pairs, key=lambda p: abs(p[1] - p[2]))
    if abs(is_now - was) > tolerance:
        yield f"{where}: {name} {is_now:.4f}, expected {was:.4f}"


def verdict(path: Path, bundle: str, readings: Sequence[Reading], tolerance: float) -> tuple[list[str], bool]:
    """Lines to print, and whether the readings are as expected. Raises InputError."""
    made_with, expected = read(path)
    found = differences(expected, plain(readings), tolerance)
    if not found:
        return [f"{len(expected)} readings as expected ({path})"], True
    lines = [f"{path}: {line}" for line in found[:SHOWN]]
    lines.append(f"{path}: {len(found)} differences in {len(expected)} readings, tolerance {tolerance:g}")
    if made_with != bundle:
        lines.append(f"{path}: was written with bundle {made_with}, this is {bundle}")
    return lines, False
