"""Files that others may read or change and should not: a line each, at the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefer.config_file import build
from edgefer.private import findings


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """All private, as they should be."""
    made = {name: tmp_path / name for name in ("edgefer.toml", "client.key", "password", "update.pub")}
    for name, path in made.items():
        path.write_text("")
        path.chmod(0o644 if name == "update.pub" else 0o600)
    (tmp_path / "state").mkdir(mode=0o700)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    return {**made, "state": tmp_path / "state"}


def found(files: dict[str, Path]) -> list[str]:
    publish = {"key_file": str(files["client.key"]), "password_file": str(files["password"])}
    settings = build({"publish": publish, "update": {"key_1": str(files["update.pub"])}}, "test")
    return list(findings(files["edgefer.toml"], settings))


def test_what_is_private_is_not_mentioned(files: dict[str, Path]) -> None:
    assert found(files) == []
    files["client.key"].chmod(0o640)  # root's, readable by the service's group
    files["edgefer.toml"].chmod(0o644)
    assert found(files) == []


@pytest.mark.parametrize(
    ("name", "mode", "part"),
    [
        ("edgefer.toml", 0o666, "others may change the configuration"),
        ("edgefer.toml", 0o620, "others may change the configuration"),
        ("client.key", 0o604, "'publish.key_file' is not private"),
        ("password", 0o660, "'publish.password_file' is not private"),
        ("update.pub", 0o646, "others may change 'update.key_1'"),
        ("state", 0o750, "the state folder is not private"),
    ],
)
def test_what_is_not_is_a_line_with_its_remedy(name: str, mode: int, part: str, files: dict[str, Path]) -> None:
    files[name].chmod(mode)
    lines = found(files)
    assert len(lines) == 1
    assert lines[0].startswith(f"{files[name]}: {part} (mode {mode:04o}); chmod ")


@pytest.mark.parametrize(
    "camera", ["rtsp://eye:secret@192.0.2.7/live", "http://192.0.2.7/v?pwd=secret", "rtspsrc user-pw=secret ! x"]
)
def test_the_configured_folders_count_and_a_password_in_the_configuration(camera: str, files: dict[str, Path]) -> None:
    """state.folder goes before the service manager's, and the bundles lie in it."""
    own = files["state"].parent / "own"
    for folder in (own, own / "bundles"):
        folder.mkdir(mode=0o755)
    files["state"].chmod(0o755)
    files["edgefer.toml"].chmod(0o644)
    capture = {"kind": "rtsp", "visible": camera}
    settings = build({"state": {"folder": str(own)}, "capture": capture}, "test")
    lines = list(findings(files["edgefer.toml"], settings))
    assert [line.split(": ")[0] for line in lines] == [str(files["edgefer.toml"]), str(own), str(own / "bundles")]
    assert "a camera's password" in lines[0]
    assert "secret" not in lines[0]


def test_credentials_are_the_service_managers_own(files: dict[str, Path]) -> None:
    settings = build({"publish": {"key_file": "$CREDENTIALS_DIRECTORY/client.key"}}, "test")
    assert list(findings(files["edgefer.toml"], settings)) == []
