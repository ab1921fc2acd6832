"""Expected readings: what counts as the same, what is said of the rest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgefer import expect
from edgefer.errors import InputError
from edgefer.types import LensState, Reading, Why

OK = (LensState.OK, LensState.OK)
HAPPY = Reading("happiness", 0.8, {"happiness": 0.8, "anger": 0.2}, None, 0.9, 0.0, OK, 0)


def drive(*changes: tuple[int, Reading], count: int = 20) -> list[Reading]:
    """Readings every 40 ms; from the given place on as the given one."""
    now, found = HAPPY, []
    for k in range(count):
        now = next((reading for place, reading in changes if place == k), now)
        found.append(replace(now, mono_ns=10**9 + k * 40_000_000))
    return found


ANGRY = replace(HAPPY, label="anger", conf=0.8, probs={"happiness": 0.2, "anger": 0.8})
BLIND = Reading("unknown", 0.0, {}, Why.NO_FACE, 0.0, 0.0, OK, 0)


def compare(got: list[Reading], tmp_path: Path, tolerance: float = 0.02) -> tuple[list[str], bool]:
    file = tmp_path / "e.json"
    expect.write(file, drive((10, BLIND)), "a@1")
    return expect.verdict(file, "b@2", got, tolerance)


def test_the_same_readings_are_the_same(tmp_path: Path) -> None:
    said, good = compare(drive((10, BLIND)), tmp_path)
    assert good
    assert said == [f"20 readings as expected ({tmp_path / 'e.json'})"]


def test_small_numbers_may_differ_by_the_tolerance_and_no_more(tmp_path: Path) -> None:
    near = replace(HAPPY, probs={"happiness": 0.81, "anger": 0.19})
    assert compare(drive((0, near), (10, BLIND)), tmp_path)[1]
    said, good = compare(drive((0, near), (10, BLIND)), tmp_path, tolerance=0.005)
    assert not good
    assert "reading 0 at 0.000 s: happiness 0.8100, expected 0.8000" in said[0]
    assert "10 differences in 20 readings" in said[-2]
    assert "was written with bundle a@1, this is b@2" in said[-1]
    assert len(said) == expect.SHOWN + 2


@pytest.mark.parametrize(("place", "good"), [(8, True), (9, True), (11, True), (12, True), (13, False), (6, False)])
def test_a_change_may_come_two_readings_early_or_late(place: int, good: bool, tmp_path: Path) -> None:
    assert compare(drive((place, BLIND)), tmp_path)[1] is good


@pytest.mark.parametrize(
    ("got", "part"),
    [
        (drive((5, ANGRY), (10, BLIND)), "reading 5 at 0.200 s: label anger, expected happiness"),
        (drive((10, replace(BLIND, why=Why.BLACK))), "why black, expected no_face"),
        (drive((10, replace(BLIND, lenses=(LensState.LOST, LensState.OK)))), "lenses ['lost', 'ok']"),
        (drive((10, BLIND), count=19), "19 readings, expected 20"),
        ([replace(r, mono_ns=r.mono_ns * 2) for r in drive((10, BLIND))], "reading 1 at 0.040 s: came at 0.080 s"),
        (drive((0, replace(HAPPY, face_score=0.7)), (10, BLIND)), "face 0.7000, expected 0.9000"),
        (drive((0, replace(HAPPY, probs={"joy": 1.0})), (10, BLIND)), "probabilities of joy"),
    ],
)
def test_each_difference_has_its_line(got: list[Reading], part: str, tmp_path: Path) -> None:
    said, good = compare(got, tmp_path)
    assert not good
    assert any(part in line for line in said), said


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "bundle": "a", "readings": [{}]}'])
def test_a_file_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "e.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"e\.json: holds no expected readings.*--write-expect"):
        expect.read(file)
    with pytest.raises(InputError, match="no reading"):
        expect.write(tmp_path / "x.json", [], "a@1")


def test_the_file_is_json_with_a_reading_a_line(tmp_path: Path) -> None:
    file = tmp_path / "e.json"
    expect.write(file, drive(count=3), "a@1")
    assert len(file.read_text().splitlines()) == 5
    assert json.loads(file.read_text())["readings"][1]["t_ms"] == 40.0
