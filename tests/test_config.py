"""The configuration: strict, one clear line for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefer import config_file, redact
from edgefer.errors import EX_CONFIG, ConfigError

ROOT = Path(__file__).parents[1]

MISTAKES = {
    "misspelt key": ("[capture]\nwidht = 640\n", ["capture.widht", "did you mean 'width'"]),
    "unknown section": ("[camera]\nfps = 5.0\n", ["'camera'", "capture"]),
    "key nowhere near": ("[infer]\nzzz = 1\n", ["infer.zzz", "threads"]),
    "wrong type": ('[infer]\nthreads = "two"\n', ["infer.threads", "integer", "'two'"]),
    "out of range": ("[publish]\nport = 70000\n", ["publish.port", "65535"]),
    "topic id with a slash": ('device = "car/1"\n', ["device", "car/1"]),
    "topic id with a plus": ('device = "car+1"\n', ["device", "car+1"]),
    "no such backend": ('[infer]\nbackend = "magic"\n', ["infer.backend", "onnxruntime"]),
    "empty region": ("[locate]\nregion = [0.5, 0.0, 0.5, 1.0]\n", ["locate", "left < right"]),
    "a lens never frozen": ("[capture]\nfrozen_s = 0.0\n", ["capture", "frozen_s must span two frames", "0.08 s"]),
    "a slow lens always lost": ("[capture]\nfps = 2.0\n", ["capture", "lost_s must span two frames", "1 s"]),
    "a drift never judged": (
        "[align]\ncheck_s = 5.0\ndrift_s = 140.0\n",
        ["'align.drift_s' = 140", "300 at least", "'align.check_s'"],
    ),
    "and one of a slow lens": (
        "[capture]\nfps = 4.0\n[align]\ncheck_s = 0.1\ndrift_s = 12.0\n",
        ["align.drift_s", "15 at least"],
    ),
    "a lost camera tried without a pause": ("[capture]\nreopen_s = 0.0\n", ["capture.reopen_s", "0.1"]),
    "and one left alone for a minute": ("[capture]\nreopen_s = 60.0\n", ["capture.reopen_s", "2.5"]),
    "not TOML": ("device = \n", ["TOML"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_file_key_and_remedy(mistake: str, tmp_path: Path) -> None:
    text, expected = MISTAKES[mistake]
    file = tmp_path / "edgefer.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as e:
        config_file.read(file)
    line = str(e.value)
    assert "\n" not in line
    assert e.value.exit_code == EX_CONFIG
    for part in (str(file), *expected):
        assert part in line


PASSWORDS = {
    "rtsp://admin:SECRET@192.0.2.7/live": "rtsp://192.0.2.7/live",
    "rtsp://admin:SEC@RET@192.0.2.7/live": "rtsp://192.0.2.7/live",
    "rtsp://admin:SEC RET@192.0.2.7/live": "rtsp://192.0.2.7/live",
    "http://192.0.2.7/v.cgi?user=ad&pwd=SECRET&channel=1": "http://192.0.2.7/v.cgi?user=...&pwd=...&channel=1",
    "http://192.0.2.7/v?loginuse=ad&loginpas=SECRET": "http://192.0.2.7/v?loginuse=...&loginpas=...",
    "http://192.0.2.7/v?u=ad&p=SECRET&res=3": "http://192.0.2.7/v?u=...&p=...&res=3",
    "http://192.0.2.7/v?res=3&auth=U0VDUkVU": "http://192.0.2.7/v?res=3&auth=...",
    "rtsp://192.0.2.7/user=ad_password=SECRET_channel=1.sdp": "rtsp://192.0.2.7/user=...",
    "rtspsrc location=rtsp://h/x user-id=ad user-pw=SEC!RET ! decodebin":
        "rtspsrc location=rtsp://h/x user-id=... user-pw=... ! decodebin",
    'rtspsrc user-pw = "SEC \\" RET" location=rtsp://h/x ! fakesink':
        "rtspsrc user-pw = ... location=rtsp://h/x ! fakesink",
    "rtspsrc user-pw=(string)'SEC RET' ! fakesink": "rtspsrc user-pw=(string)... ! fakesink",
    'souphttpsrc extra-headers="h,Authorization=(string)\\"Basic U0VDUkVU\\"" ! jpegdec':
        'souphttpsrc extra-headers="h,Authorization... ! jpegdec',
}  # fmt: skip
HARMLESS = (
    "/dev/v4l/by-id/usb-046d_Brio_5A0C-video-index0", "rtsp://192.0.2.7/cam/realmonitor?channel=1&subtype=0",
    "nvarguscamerasrc sensor-id=0 ! nvvidconv flip-method=2 ! appsink", "v4l2src device=/dev/video0 ! decodebin",
)  # fmt: skip


@pytest.mark.parametrize("name", [*PASSWORDS, *HARMLESS])
def test_a_camera_is_named_without_its_password(name: str) -> None:
    assert redact.without_password(name) == PASSWORDS.get(name, name)


@pytest.mark.parametrize(
    "text",
    [
        'visible = "rtsp://ad:SECRET@h/1"\nfps = 2.0\n',
        'visible = ["rtsp://ad:SECRET@h/1"]\n',
        'kind = "rtsp://ad:SECRET@h/1"\n',
        'visible = "rtsp://ad:SECRET@h/1"\n',
        'kind = "recording"\nsource = "rtspsrc user-pw=SECRET ! decodebin"\n',
    ],
    ids=["a section", "a list", "a text", "a kind forgotten", "a kind mistaken"],
)
def test_no_mistake_shows_a_password(text: str, tmp_path: Path) -> None:
    file = tmp_path / "edgefer.toml"
    file.write_text(f"[capture]\n{text}")
    with pytest.raises(ConfigError, match="capture") as e:
        config_file.read(file)
    assert "SECRET" not in str(e.value)


def test_a_missing_file_and_a_folder_are_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: no such"):
        config_file.read(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        config_file.read(tmp_path)


def test_the_example_that_ships_is_valid() -> None:
    assert config_file.read(ROOT / "deploy" / "edgefer.toml").capture.visible == "/dev/video0"


def test_every_key_is_documented() -> None:
    rows = list(config_file.reference())
    assert len(rows) > 40
    for key, kind, default, meaning in rows:
        assert key, key
        assert all((kind, default, meaning)), key


def test_the_readme_holds_the_reference_as_the_code_has_it() -> None:
    from edgefer.doctor import reference

    assert reference() in (ROOT / "README.md").read_text()
