"""Recordings: written whole or not at all, played on the recorded time base, refused with one clear line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from capture_helpers import FakeClock, Write, picture

from edgefer.capture import Recorder, Room, open_rig, record
from edgefer.capture.fake import FakeSource, Step
from edgefer.capture.recording import Epoch, RecordingSource, read_recording
from edgefer.capture.rig import Rig
from edgefer.capture.source import EndOfStream
from edgefer.config import Capture
from edgefer.errors import CameraError, InputError, UsageError
from edgefer.types import Frame, FramePair, Lens, LensState

MS = 1_000_000
VISIBLE = (Lens.VISIBLE,)


def play(folder: Path, **changes: object) -> list[FramePair]:
    """Every pair of the recording, in lockstep."""
    config = Capture(kind="recording", source=str(folder), realtime=False).model_copy(update=changes)
    pairs = []
    with open_rig(config) as rig:
        while not rig.ended:
            pair = rig.next_pair(20.0)
            if pair is not None:
                pairs.append(pair)
    return pairs


def test_pictures_come_back_exactly(write_recording: Write) -> None:
    pairs = play(write_recording(images=True))
    assert len(pairs) == 8
    for i, pair in enumerate(pairs):
        assert pair.visible is not None
        assert pair.infrared is not None
        assert np.array_equal(pair.visible.image, picture(Lens.VISIBLE, i))
        assert np.array_equal(pair.infrared.image, picture(Lens.INFRARED, i))


def test_video_comes_back_with_its_times(write_recording: Write) -> None:
    pairs = play(write_recording())
    assert [pair.mono_ns - pairs[0].mono_ns for pair in pairs] == [i * 40 * MS for i in range(8)]
    assert {pair.infrared.image.shape for pair in pairs if pair.infrared} == {(48, 64)}
    assert {pair.visible.image.shape for pair in pairs if pair.visible} == {(48, 64, 3)}


@pytest.mark.parametrize("lens", list(Lens))
def test_one_lens_alone_is_a_recording(write_recording: Write, lens: Lens) -> None:
    pairs = play(write_recording(lenses=(lens,)))
    assert len([pair for pair in pairs if pair.frame(lens)]) == 8


def test_a_gap_in_time_is_a_dead_lens(write_recording: Write) -> None:
    folder = write_recording(count=40)
    table = folder / "timestamps.csv"
    rows = table.read_text().splitlines()
    table.write_text("\n".join(r for r in rows if not r.startswith("infrared") or not 5 <= int(r.split(",")[1]) < 35))
    pairs = play(folder)
    assert len(pairs) == 40
    states = [pair.infrared_state for pair in pairs]
    assert states[10] is LensState.OK, "silent for 0.24 s only"
    assert states[25] is LensState.LOST
    assert states[36] is LensState.OK


def test_frames_keep_the_recorded_pace_and_both_lenses_one_time_base(write_recording: Write, clock: FakeClock) -> None:
    recording, epoch, start = read_recording(write_recording()), Epoch(clock), clock.now
    sources = [RecordingSource(recording, lens, epoch, clock=clock, wait=clock.wait) for lens in Lens]
    for source in sources:
        source.open()
        clock.wait(0.001)  # the second reader thread is always a little later
    for i in range(8):
        for source in sources:
            frames = source.read(0.01) or source.read(0.05)
            assert [f.mono_ns - start for f in frames] == [i * 40 * MS]
        assert clock.now - start == max(i * 40 * MS, 2 * MS)
        assert sources[0].read(0.01) == () if i < 7 else True
    for source in sources:
        with pytest.raises(EndOfStream):
            source.read(1.0)
        source.close()


def test_repeat_starts_again_on_the_same_time_base(write_recording: Write, clock: FakeClock) -> None:
    recording, start = read_recording(write_recording(count=3)), clock.now
    source = RecordingSource(recording, Lens.INFRARED, Epoch(clock), repeat=True, clock=clock, wait=clock.wait)
    source.open()
    frames = [source.read(1.0)[0] for _ in range(7)]
    assert [f.mono_ns - start for f in frames] == [i * 40 * MS for i in range(7)]
    assert [f.index for f in frames] == list(range(7))
    source.close()


def test_a_late_reader_still_gets_every_frame(write_recording: Write, clock: FakeClock) -> None:
    recording = read_recording(write_recording())
    source = RecordingSource(recording, Lens.VISIBLE, Epoch(clock), clock=clock, wait=clock.wait)
    source.open()
    clock.wait(60.0)
    assert [source.read(0.0)[0].index for _ in range(8)] == list(range(8))
    source.close()


def edit_json(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "recording.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def edit_row(text: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "timestamps.csv"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[:3], text, *lines[4:]]))

    return edit


AT_OPEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, r"recording\.json: no such file"),
    "no video": (lambda f: (f / "visible.avi").unlink(), r"visible\.avi: missing"),
    "misnamed": (edit_json(infrared="ir.avi"), r"ir\.avi: missing"),
    "not a video": (lambda f: (f / "visible.avi").write_bytes(b"nonsense" * 99), r"visible\.avi: not a video"),
    "unknown format": (edit_json(format=2), r"recording\.json: format 2 is unknown"),
    "not json": (lambda f: (f / "recording.json").write_text("{"), r"recording\.json: cannot be read as JSON"),
    "no rate": (edit_json(fps=0), r"'fps' must be a positive number"),
    "no lens": (edit_json(visible=None, infrared=None), r"must name a video"),
    "no table": (lambda f: (f / "timestamps.csv").unlink(), r"timestamps\.csv: cannot be read"),
    "no header": (lambda f: (f / "timestamps.csv").write_text("visible,0,1\n"), r"timestamps\.csv:1: the header"),
    "short row": (edit_row("visible,1"), r"timestamps\.csv:4: 'visible,1' is not"),
    "odd lens": (edit_row("thermal,1,9"), r"timestamps\.csv:4: 'thermal,1,9' is not"),
    "time goes back": (edit_row("visible,1,4000000000"), r"timestamps\.csv:4: index and time_ns must increase"),
    "lens not named": (edit_json(infrared=None), r"timestamps\.csv:3: recording.json names no infrared lens"),
}


@pytest.mark.parametrize("fault", AT_OPEN)
def test_a_damaged_recording_is_refused_at_open(write_recording: Write, fault: str) -> None:
    damage, message = AT_OPEN[fault]
    folder = write_recording()
    damage(folder)
    with pytest.raises(InputError, match=message) as error:
        open_rig(Capture(kind="recording", source=str(folder)))
    assert "\n" not in str(error.value)


def test_a_truncated_video_is_refused_when_its_end_is_reached(write_recording: Write) -> None:
    folder = write_recording(count=30)
    video = folder / "visible.avi"
    os.truncate(video, video.stat().st_size // 2)
    with pytest.raises(InputError, match=r"visible\.avi: (ends before frame \d+|not a video)"):
        play(folder)


def test_more_rows_than_frames_is_refused(write_recording: Write) -> None:
    folder = write_recording()
    with (folder / "timestamps.csv").open("a") as table:
        table.write("visible,8,9000000000\n")
    with pytest.raises(InputError, match=r"visible\.avi: ends before frame 8"):
        play(folder)


def test_a_changed_frame_size_names_file_and_frame(write_recording: Write) -> None:
    for lens in Lens:
        folder = write_recording(images=True, name=lens.value)
        cv2.imwrite(str(folder / lens.value / "00000005.png"), picture(lens, 5, (32, 48)))
        with pytest.raises(InputError, match=rf"{lens.value}: frame 5 is 32x48, not 64x48"):
            play(folder)


def test_a_damaged_picture_is_named(write_recording: Write) -> None:
    folder = write_recording(images=True)
    (folder / "infrared" / "00000003.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"infrared/00000003\.png: not a picture"):
        play(folder)


def one(index: int = 0, size: tuple[int, int] = (64, 48)) -> Frame:
    return Frame(Lens.VISIBLE, picture(Lens.VISIBLE, index, size), 1 + index, index)


def write_all(folder: Path, frames: Iterable[Frame], images: bool = False) -> None:
    with Recorder(folder, 25.0, images) as recorder:
        for frame in frames:
            recorder.write(frame)


def test_nothing_has_the_final_name_before_the_end(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a", 25.0) as recorder:
        recorder.write(one())
        assert os.listdir(tmp_path) == ["a.part"]
    assert os.listdir(tmp_path) == ["a"]
    assert sorted(os.listdir(tmp_path / "a")) == ["recording.json", "timestamps.csv", "visible.avi"]


@pytest.mark.parametrize("images", [False, True])
def test_a_failed_recording_leaves_nothing(tmp_path: Path, images: bool) -> None:
    def stop_halfway() -> Iterator[Frame]:
        yield one()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_all(tmp_path / "a", stop_halfway(), images)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("images", [False, True])
def test_a_changed_size_ends_the_recording(tmp_path: Path, images: bool) -> None:
    with pytest.raises(InputError, match="from 64x48 to 32x48"):
        write_all(tmp_path / "a", [one(), one(1, (32, 48))], images)
    assert os.listdir(tmp_path) == []


def test_a_video_that_the_disk_does_not_hold_is_no_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk:
        def __init__(self, *options: object) -> None: ...
        def isOpened(self) -> bool:
            return True

        def write(self, image: object) -> None: ...
        def release(self) -> None: ...

    FullDisk.fourcc = cv2.VideoWriter.fourcc  # type: ignore[attr-defined]
    monkeypatch.setattr(cv2, "VideoWriter", FullDisk)
    with pytest.raises(InputError, match="holds 0 of 1 frames"):
        write_all(tmp_path / "a", [one()])
    assert os.listdir(tmp_path) == []


def test_an_empty_recording_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no frame was written"), Recorder(tmp_path / "a", 25.0):
        pass
    assert os.listdir(tmp_path) == []


def test_an_existing_recording_is_not_overwritten(write_recording: Write) -> None:
    folder = write_recording()
    before = sorted(os.listdir(folder))
    with pytest.raises(InputError, match="exists already"), Recorder(folder, 25.0):
        pass
    assert sorted(os.listdir(folder)) == before


def test_what_a_killed_recorder_left_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "a.part").mkdir()
    with pytest.raises(InputError, match="remove it"), Recorder(tmp_path / "a", 25.0):
        pass
    assert os.listdir(tmp_path) == ["a.part"]


def test_an_empty_folder_may_be_the_target(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with Recorder(tmp_path / "a", 25.0) as recorder:
        recorder.write(one())
    assert (tmp_path / "a" / "recording.json").is_file()


def test_frames_that_go_back_in_time_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not later"):
        write_all(tmp_path / "a", [one(1), one(0)])


def test_record_writes_what_the_rig_delivers(tmp_path: Path) -> None:
    source = FakeSource(tuple(Lens), [*range(20, 30), Step.END])
    with Rig([source], Capture(), lockstep=True) as rig, Recorder(tmp_path / "a", 25.0) as recorder:
        assert record(rig, recorder, 3600.0) is None
        assert recorder.count == 20
    assert len(play(tmp_path / "a")) == 10


def test_record_stops_when_told(tmp_path: Path) -> None:
    with Rig([FakeSource()], Capture()) as rig, Recorder(tmp_path / "a", 25.0) as recorder:
        recorder.write(one())
        record(rig, recorder, 3600.0, lambda: True)
        assert recorder.count == 1


@pytest.mark.parametrize("images", [False, True])
def test_a_recording_that_has_become_too_large_ends_and_is_kept(tmp_path: Path, images: bool) -> None:
    source = FakeSource(tuple(Lens), [*range(20, 120), Step.END])
    with Rig([source], Capture(), lockstep=True) as rig, Recorder(tmp_path / "a", 25.0, images) as recorder:
        full = record(rig, recorder, 3600.0, room=Room(most=100_000, spare=0))
        assert 100_000 <= recorder.bytes_written() < 240_000  # a video writer holds back up to 64 KiB a lens
    assert full == "the recording has reached 0 MB"
    held = sum(f.stat().st_size for f in (tmp_path / "a").rglob("*") if f.suffix in (".png", ".avi"))
    assert held < 240_000
    assert 5 < len(play(tmp_path / "a")) < 100


def test_a_disk_that_is_nearly_full_ends_it() -> None:
    room = Room(most=10_000_000, spare=1_000_000)
    assert room.why_full(9_999_999, 1_000_000) is None
    assert room.why_full(10_000_000, 10**9) == "the recording has reached 10 MB"
    assert room.why_full(0, 999_999) == "less than 1 MB are left on the disk"


def test_a_frame_that_is_forbidden_ends_it_and_nothing_is_kept(tmp_path: Path) -> None:
    def forbid(frame: Frame) -> None:
        if frame.index == 7:
            raise UsageError("not this one")

    source = FakeSource(tuple(Lens), [*range(20, 30), Step.END])
    with (
        pytest.raises(UsageError, match="not this one"),
        Rig([source], Capture(), lockstep=True) as rig,
        Recorder(tmp_path / "a", 25.0) as recorder,
    ):
        record(rig, recorder, 3600.0, guard=forbid)
    assert os.listdir(tmp_path) == []


def test_record_without_a_frame_is_a_camera_error(tmp_path: Path) -> None:
    with (
        pytest.raises(CameraError, match="no lens delivered"),
        Rig([FakeSource()], Capture()) as rig,
        Recorder(tmp_path / "a", 25.0) as recorder,
    ):
        record(rig, recorder, 0.0)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("lens", list(Lens))
def test_fine_grain_survives_the_video(tmp_path: Path, lens: Lens, capfd: pytest.CaptureFixture[str]) -> None:
    """Noise over a gradient, as an infrared sensor has it at night; OpenCV's grey Motion JPEG broke on it."""
    rng, shape = np.random.default_rng(3), (480, 640, 3) if lens is Lens.VISIBLE else (480, 640)
    ramp = np.linspace(0, 200, 640).reshape(1, 640, *[1] * (len(shape) - 2))
    sent = [np.clip(ramp + rng.normal(0, 3, shape), 0, 255).astype(np.uint8) for _ in range(5)]
    with Recorder(tmp_path / "drive", 25.0) as recorder:
        for k, image in enumerate(sent):
            recorder.write(Frame(lens, image, k * 40_000_000, k))
    source = RecordingSource(read_recording(tmp_path / "drive"), lens, Epoch(FakeClock()), realtime=False)
    source.open()
    got = [source.read(0.1)[0].image for _ in sent]
    source.close()
    assert min(cv2.PSNR(a, b) for a, b in zip(sent, got, strict=True)) > 30
    assert "mjpeg" not in capfd.readouterr().err
