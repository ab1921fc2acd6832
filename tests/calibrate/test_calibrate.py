"""The calibration: what it finds on rendered boards, what it refuses and why, what it writes."""

from __future__ import annotations

import ast
import json
import math
import shutil
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgefer import calibrate as package
from edgefer.calibrate import board_map, boards, judge, render, selftest
from edgefer.calibrate.boards import Found
from edgefer.calibrate.captures import Captures, Pair, from_folder
from edgefer.calibrate.judge import Tally
from edgefer.calibrate.report import overlay
from edgefer.calibrate.solve import View, solve_rig
from edgefer.capture import Recorder
from edgefer.cli import main
from edgefer.errors import EX_NOINPUT, EX_OK, EX_USAGE, InputError, UsageError
from edgefer.types import Frame, Lens

BOARD = boards.parse("charuco:9x6:26")
SIZES = dict.fromkeys(Lens, (640, 480))
RIG = render.vehicle_rig()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered pairs; no test may change them."""
    return render.session(tmp_path_factory.mktemp("board"), RIG, BOARD, 27)


def run(folder: Path, out: Path, *more: str) -> int:
    return main(["calibrate", "--from", str(folder), "--out", str(out), *more])


def test_a_rendered_rig_comes_out_as_it_was_built(session: Path, tmp_path: Path) -> None:
    """Focal length within 0.5 %, baseline within 1 %, both crops within 1 pixel of 112 from 0.4 to 3.5 m."""
    out = tmp_path / "c.json"
    assert run(session, out) == EX_OK
    got = json.loads(out.read_text())
    for name, lens in (("visible", RIG.visible), ("infrared", RIG.infrared)):
        assert np.diag(got[name]["matrix"])[:2] == pytest.approx(lens.focal, rel=0.005)
    assert got["baseline_mm"] == pytest.approx(float(np.linalg.norm(RIG.translation_mm)), rel=0.01)
    off = selftest.registration(out, RIG)
    assert max(off.values()) <= 1.0
    assert min(selftest.registration(None, RIG).values()) > 20, "the yardstick sees an uncalibrated rig"
    one_distance = tmp_path / "old.json"
    one_distance.write_text(json.dumps({k: got[k] for k in ("homography", "visible_size", "infrared_size")}))
    assert max(selftest.registration(one_distance, RIG).values()) > 10, "one homography cannot serve all distances"
    report = out.with_suffix(".html").read_text()
    assert report.count("data:image/png;base64,") == 3
    assert "baseline" in report


def test_the_truth_never_reaches_the_code_under_test() -> None:
    """Only the self-test imports the renderer, and nothing imports the self-test but the command line."""
    for file in Path(package.__file__).parent.glob("*.py"):
        imports = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.ImportFrom)]
        names = {a.name for n in imports for a in n.names} | {(n.module or "").split(".")[-1] for n in imports}
        assert file.stem == "selftest" or "render" not in names
        assert "selftest" not in names


@pytest.mark.parametrize("spec", selftest.BOARDS)
@pytest.mark.parametrize("lens", [RIG.visible, RIG.infrared])
def test_every_kind_of_board_is_found_where_it_is(spec: str, lens: render.TrueLens) -> None:
    board = boards.parse(spec)
    rotation = render.turn((0.3, -0.25, 0.1))
    place = np.array([0.0, 0.0, 520.0]) - rotation @ board.points_mm.mean(0)
    picture = render.Camera(lens, board, np.random.default_rng(2)).picture(rotation, place)
    grey = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    found = board.find(grey)
    assert found is not None
    assert len(found.ids) > 0.9 * len(board.points_mm)
    true = lens.project((board.points_mm @ rotation.T + place).astype(np.float64))
    true = true[found.ids]
    error = boards.same_turn(board, Found(found.ids, true.astype(np.float32)), found).points - true
    assert np.sqrt((error**2).sum(1).mean()) < 0.3


def test_no_board_is_found_in_a_wall() -> None:
    wall = np.random.default_rng(0).integers(0, 255, (12, 16), np.uint8)
    picture = cv2.resize(wall, (640, 480), interpolation=cv2.INTER_CUBIC)
    assert [boards.parse(spec).find(picture) for spec in selftest.BOARDS] == [None] * 4


def test_one_row_of_a_board_is_not_enough() -> None:
    """Eight points on a line: no plane can be fitted through them."""
    page = cv2.copyMakeBorder(boards.draw(BOARD, 1.0)[:48], 40, 162, 40, 40, cv2.BORDER_CONSTANT, value=255)
    big = cv2.resize(page, None, fx=2, fy=2)
    assert boards._charuco(BOARD, big) is not None
    assert BOARD.find(big) is None


def test_warm_holes_in_a_sheet_are_circles_too() -> None:
    board = boards.parse("circles:8x5:28")
    light = cv2.bitwise_not(cv2.resize(boards.draw(board, 1.0), None, fx=1.2, fy=1.2, interpolation=cv2.INTER_AREA))
    found = board.find(light)
    assert found is not None
    assert len(found.ids) == 40


@pytest.mark.parametrize("spec", ["charuco", "charuco:9:26", "square:9x6:26", "charuco:2x6:26", "charuco:9x6:0"])
def test_a_board_that_is_none_is_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="--board"):
        boards.parse(spec)


# What is refused: points without pictures, so that every fault stands alone.


def poses(count: int, tilt: float = 1.0, reach: float = 1.0, seed: int = 3) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    for k in range(count):
        rotation = render.turn(tuple(tilt * rng.uniform(-0.6, 0.6, 3) * (1, 1, 0.3)))
        at = (np.array([(k % 3) - 1, (k // 3 % 3) - 1]) * (0.38, 0.28) + rng.uniform(-0.05, 0.05, 2)) * reach
        yield rotation, np.array([*at, 1.0]) * 480 - rotation @ BOARD.points_mm.mean(0)


def seen(lens: render.TrueLens, points: np.ndarray) -> Found | None:
    pixels = lens.project(points)
    inside = ((pixels > 2) & (pixels < np.array(lens.size) - 3)).all(1)
    noisy = pixels + np.random.default_rng(9).normal(0, 0.05, pixels.shape)
    ids = np.flatnonzero(inside).astype(np.int32)
    return Found(ids, noisy[inside].astype(np.float32)) if len(ids) >= boards.FEWEST else None


def views_of(made: list[tuple[np.ndarray, np.ndarray]], lag: int = 0) -> list[View]:
    """lag: the infrared picture is so many poses late."""
    points = [BOARD.points_mm @ r.T + t for r, t in made]
    late = points[lag:] + points[:lag]
    return [
        View(seen(RIG.visible, p), seen(RIG.infrared, q @ RIG.rotation.T + RIG.translation_mm))
        for p, q in zip(points, late, strict=True)
    ]


def tally(views: list[View], **changes: object) -> Tally:
    counts = {lens: sum(v.on(lens) is not None for v in views) for lens in Lens}
    return replace(Tally(pairs=len(views), seen=counts), **changes)  # type: ignore[arg-type]


def reasons(views: list[View], **changes: object) -> str:
    return "\n".join(judge.problems(BOARD, tally(views, **changes), views, SIZES))


def test_good_captures_have_no_problem_and_no_wish() -> None:
    views = views_of(list(poses(27)))
    assert reasons(views) == ""
    assert board_map.lines(BOARD, views, SIZES, "kept")[-1].strip() == ""
    assert judge.fit_problems(solve_rig(BOARD, views, SIZES)) == []


def test_too_few_views() -> None:
    assert "too few: " in reasons(views_of(list(poses(14))))
    shown = board_map.lines(BOARD, views_of(list(poses(6))), SIZES, "kept")
    assert shown[-2:] == ["  6 of 15 views, kept", "  hold the board to the bottom left of the visible picture"]
    assert "█" in shown[1]


def test_corners_that_were_never_covered_are_named() -> None:
    said = reasons(views_of(list(poses(27, reach=0.1))))
    assert "board not covering corners: never top left, top right" in said
    assert "visible" in said
    assert "infrared" in said


def test_boards_all_at_one_tilt() -> None:
    said = reasons(views_of(list(poses(27, tilt=0.05))))
    assert "all at one tilt on the visible lens" in said


def test_a_board_that_one_lens_never_sees() -> None:
    views = [replace(v, infrared=None) for v in views_of(list(poses(27)))]
    said = reasons(views)
    assert "board seen by one lens only: the infrared lens sees it in 0 of 27" in said
    assert "toner" in said


def test_blurred_swapped_moving_and_apart() -> None:
    views = views_of(list(poses(27)))
    assert "blurred: 20 of 27 infrared" in reasons(views, blurred={Lens.VISIBLE: 0, Lens.INFRARED: 20})
    assert "lenses swapped?" in reasons(views, grey=27)
    assert "not simultaneous: in 20 of 27" in reasons(views, apart=20)
    assert "hold it still" in reasons(views, moving=26)
    assert "no charuco:9x6:26 board in any" in reasons([], pairs=9)
    assert "12 of one lens alone" in reasons([], pairs=0, alone=12)
    assert reasons(views, grey=3, apart=3, moving=3, blurred={Lens.VISIBLE: 3, Lens.INFRARED: 3}) == ""


def test_pairs_that_were_not_taken_together_do_not_fit() -> None:
    fit = solve_rig(BOARD, views_of(list(poses(27)), lag=1), SIZES)
    said = judge.fit_problems(fit)
    assert len(said) == 1
    assert said[0].startswith("not simultaneous: ")


def test_a_few_strays_are_left_out() -> None:
    views = views_of(list(poses(27)))
    odd = views_of(list(poses(27, seed=5)))
    views[4] = replace(views[4], infrared=odd[4].infrared)
    fit = solve_rig(BOARD, views, SIZES)
    assert fit.views == 26
    assert float(np.linalg.norm(fit.translation_mm)) == pytest.approx(46.0, rel=0.01)


def test_a_board_whose_millimetres_are_wrong_shows_in_the_baseline_alone() -> None:
    """No picture can tell: the printed line must be measured, as the sheet says."""
    wrong = replace(BOARD, step_mm=BOARD.step_mm * 1.1)
    fit = solve_rig(wrong, views_of(list(poses(27))), SIZES)
    assert float(np.linalg.norm(fit.translation_mm)) == pytest.approx(1.1 * 46.0, rel=0.01)
    assert judge.fit_problems(fit) == []


# From pictures to verdicts.


def pictures(session: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    return tuple(cv2.imread(str(session / lens / f"{name}.png"), cv2.IMREAD_COLOR) for lens in ("visible", "infrared"))  # type: ignore[return-value]


def test_pictures_are_judged_before_they_are_kept(session: Path) -> None:
    colour, infrared = pictures(session, "004")
    infrared = infrared[:, :, 0].copy()
    soft = cv2.GaussianBlur(colour, (0, 0), 4)
    captures = Captures(BOARD, 25_000_000, stream=False)
    assert captures.take(Pair(colour, None)) == "one lens alone"
    assert captures.take(Pair(colour, infrared, skew_ns=30_000_000)) == "not simultaneous"
    assert captures.take(Pair(soft, np.zeros_like(infrared))) == "no board"
    assert captures.take(Pair(colour, infrared, skew_ns=20_000_000)) == "kept"
    assert captures.take(Pair(colour, infrared)) == "seen before"
    captures.take(Pair(cv2.merge([infrared] * 3), infrared))
    t = captures.tally
    assert (t.pairs, t.alone, t.apart, t.grey) == (5, 1, 1, 1)
    patch = captures.patches[0][1]
    assert (patch == 0).mean() > 0.5, "the room around the board is not kept"


def test_the_report_lays_the_pictures_of_the_best_view_over_each_other(session: Path) -> None:
    """Also when an earlier view shares too few points to be judged."""
    captures = Captures(BOARD, 25_000_000, stream=False)
    views = views_of([*poses(27)])[3:5]
    few = replace(views[0], infrared=Found(views[0].infrared.ids[:3], views[0].infrared.points[:3]))
    tones = [np.full((480, 640), tone, np.uint8) for tone in (50, 200)]
    captures.patches = [(few, tones[0], tones[0]), (views[1], tones[1], tones[1])]
    captures.views = [few, views[1]]
    laid = overlay(captures, np.eye(3))
    assert laid.max() == 200


def test_a_blurred_board_is_counted_as_that(session: Path) -> None:
    colour, _ = pictures(session, "004")
    grey = cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY)
    found = BOARD.find(grey)
    assert found is not None
    widths = [judge.edge_px(cv2.GaussianBlur(grey, (0, 0), s) if s else grey, found) for s in (0, 1, 2, 4)]
    assert widths == sorted(widths)
    assert widths[0] < widths[1] < judge.EDGE_PX < widths[3]


def test_a_lens_out_of_focus_is_refused() -> None:
    """Circles are found far out of focus too: what is found there is counted, not used."""
    board, turned = boards.parse("circles:8x5:28"), render.turn((0.1, 0.1, 0.0))
    place = np.array([0.0, 0.0, 450.0]) - turned @ board.points_mm.mean(0)
    soft = render.Camera(replace(RIG.visible, blur=3.5), board, np.random.default_rng(2)).picture(turned, place)
    assert board.find(cv2.cvtColor(soft, cv2.COLOR_BGR2GRAY)) is not None
    captures = Captures(board, 25_000_000, stream=False)
    assert captures.take(Pair(soft, np.zeros((480, 640), np.uint8))) == "no board"
    assert captures.tally.seen[Lens.VISIBLE] == captures.tally.blurred[Lens.VISIBLE] == 1


def test_a_board_in_the_hand_must_be_held_still(session: Path) -> None:
    captures = Captures(BOARD, 25_000_000, stream=True)
    first, second = (Pair(c, i[:, :, 0].copy()) for c, i in (pictures(session, "004"), pictures(session, "003")))
    assert [captures.take(p) for p in (first, first, second, second)] == ["hold it still", "kept"] * 2


def test_what_is_refused_is_not_written_but_reported(
    session: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few"
    for lens in ("visible", "infrared"):
        (few / lens).mkdir(parents=True)
        for k in range(3):
            shutil.copy(session / lens / f"{k:03d}.png", few / lens)
    assert run(few, tmp_path / "c.json") == EX_NOINPUT
    said = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("edgefer: too few: 3 usable") for line in said) == 1
    assert "not written" in said[-1]
    assert not (tmp_path / "c.json").exists()
    assert "Not calibrated" in (tmp_path / "c.html").read_text()


def test_swapped_folders_are_told(session: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for a, b in (("visible", "infrared"), ("infrared", "visible")):
        (tmp_path / a).mkdir()
        for k in range(3):
            shutil.copy(session / b / f"{k:03d}.png", tmp_path / a)
    assert run(tmp_path, tmp_path / "c.json", "--quick") == EX_NOINPUT
    assert "lenses swapped?" in capsys.readouterr().err
    assert run(tmp_path, tmp_path / "c.json", "--quick", "--grey-visible") == EX_OK


def test_the_quick_mode_is_right_at_the_distance_of_its_board(session: Path, tmp_path: Path) -> None:
    for lens in ("visible", "infrared"):
        (tmp_path / lens).mkdir()
        shutil.copy(session / lens / "004.png", tmp_path / lens)
    assert run(tmp_path, tmp_path / "c.json", "--quick") == EX_OK
    got = json.loads((tmp_path / "c.json").read_text())
    assert set(got) >= {"format", "homography", "visible_size", "infrared_size"}
    assert "rotation" not in got
    assert got["rms_px"] < 0.7
    moved = np.array(got["homography"]) @ [320, 240, 1]
    assert math.hypot(*(moved[:2] / moved[2] - (320, 240))) > 20, "it crosses the baseline"


def test_live_lenses_are_calibrated_as_they_come(session: Path, tmp_path: Path) -> None:
    """The same boards as a recording played by the cameras' own way, each held still for two pictures."""
    with Recorder(tmp_path / "seen", 10.0, images=True) as recorder:
        for k in range(54):
            colour, infrared = pictures(session, f"{k // 2:03d}")
            for lens, image in ((Lens.VISIBLE, colour), (Lens.INFRARED, infrared[:, :, 0].copy())):
                recorder.write(Frame(lens, image, k * 100_000_000, k))
    config = tmp_path / "edgefer.toml"
    config.write_text(f'[capture]\nkind = "recording"\nsource = "{tmp_path / "seen"}"\nrealtime = false\n')
    out = tmp_path / "c.json"
    assert main(["calibrate", "--config", str(config), "--out", str(out)]) == EX_OK
    assert json.loads(out.read_text())["baseline_mm"] == pytest.approx(46.0, rel=0.01)


def test_pairs_need_partners(session: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no PNG"):
        from_folder(tmp_path)
    for lens in ("visible", "infrared"):
        (tmp_path / lens).mkdir()
        shutil.copy(session / lens / "001.png", tmp_path / lens)
    shutil.copy(session / "visible" / "002.png", tmp_path / "visible")
    with pytest.raises(InputError, match="'002' is in one of"):
        from_folder(tmp_path)


def test_calibrate_wants_a_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate"]) == EX_USAGE
    assert "--config" in capsys.readouterr().err


def test_the_printed_board_knows_its_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "board.png"
    assert main(["calibrate", "--print-board", str(file)]) == EX_OK
    said = capsys.readouterr().out
    assert "260 x 194 mm, fits A4" in said
    assert "toner" in said
    data = file.read_bytes()
    at = data.index(b"pHYs")
    across, _, unit = struct.unpack(">IIB", data[at + 4 : at + 13])
    page = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    assert unit == 1
    assert page.shape[1] / across * 1000 == pytest.approx(260, abs=0.2)
    found = BOARD.find(cv2.resize(page, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA))
    assert found is not None
    step_mm = np.diff(found.points[:8, 0]).mean() * 4 / across * 1000
    assert step_mm == pytest.approx(26, rel=0.002)
