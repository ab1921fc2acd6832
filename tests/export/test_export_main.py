"""Every failure the user can mend is one line and an exit code, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the export extra")
from export import __main__ as command

pytestmark = pytest.mark.torch


def _line(capsys: pytest.CaptureFixture[str]) -> str:
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert err.startswith("edgefer export: ")
    return err


def test_missing_data_variable(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("EDGEFER_DATA", raising=False)
    assert command.main(["train", str(recipe_file), "--out", str(tmp_path / "o")]) == 66
    assert "EDGEFER_DATA is not set" in _line(capsys)


def test_truncated_archive(
    recipe_file: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = data_root / "fer2013.npz"
    file.write_bytes(file.read_bytes()[:2000])
    assert command.main(["train", str(recipe_file), "--out", str(tmp_path / "o")]) == 66
    assert "fer2013.npz: unreadable" in _line(capsys)


def test_unknown_recipe_key(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe_file.write_text("colour = 1\n" + recipe_file.read_text())
    assert command.main(["train", str(recipe_file)]) == 78
    assert "'colour': unknown key" in _line(capsys)


def test_unknown_network(
    recipe_file: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe_file.write_text(recipe_file.read_text().replace("dual-resnet", "oracle"))
    assert command.main(["train", str(recipe_file), "--out", str(tmp_path / "o")]) == 64
    assert "one of dual-resnet" in capsys.readouterr().err.splitlines()[-1]


def test_missing_checkpoint(
    recipe_file: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["quantize", str(recipe_file), "--out", str(tmp_path / "o")]) == 66
    assert "run `python -m export train` first" in _line(capsys)


def test_missing_bundle(recipe_file: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["evaluate", str(recipe_file), "--bundle", str(tmp_path / "none")]) == 78
    assert "manifest.json: not found" in _line(capsys)


@pytest.mark.parametrize("arguments", [[], ["paint"], ["train"], ["train", "x.toml", "--threads", "0"]])
def test_a_wrong_command_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command.main(arguments)
    assert left.value.code == 64
    _line(capsys)


def test_ctrl_c(recipe_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(command.COMMANDS, "train", interrupted)
    assert command.main(["train", str(recipe_file)]) == 130
    assert "interrupted" in _line(capsys)
