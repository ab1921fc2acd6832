"""The configuration: strict, one clear line for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefer import config
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
    "not TOML": ("device = \n", ["TOML"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_file_key_and_remedy(mistake: str, tmp_path: Path) -> None:
    text, expected = MISTAKES[mistake]
    file = tmp_path / "edgefer.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as e:
        config.read(file)
    line = str(e.value)
    assert "\n" not in line
    assert e.value.exit_code == EX_CONFIG
    for part in (str(file), *expected):
        assert part in line


def test_a_missing_file_and_a_folder_are_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: no such"):
        config.read(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        config.read(tmp_path)


def test_the_example_that_ships_is_valid() -> None:
    assert config.read(ROOT / "deploy" / "edgefer.toml").capture.visible == "/dev/video0"


def test_every_key_is_documented() -> None:
    rows = list(config.reference())
    assert len(rows) > 40
    for key, kind, default, meaning in rows:
        assert key, key
        assert all((kind, default, meaning)), key


def test_the_readme_holds_the_reference_as_the_code_has_it() -> None:
    from edgefer.doctor import reference

    assert reference() in (ROOT / "README.md").read_text()
