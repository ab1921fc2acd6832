"""Updates as a fleet's operator types them: keygen and sign on the workstation, install to rollback on the device."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from bundle_workshop import edit_manifest
from release_workshop import Workshop, quick_folder

from edgefer.bundle import DEFAULT, open_bundle
from edgefer.cli import main
from edgefer.errors import EX_CONFIG, EX_NOINPUT, EX_OK, EX_USAGE
from edgefer.store import Store, become_owner
from export.__main__ import main as export_main


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A configuration that trusts the key made on the workstation; its store is beside it."""
    assert export_main(["keygen", str(tmp_path / "keys")]) == EX_OK
    file = tmp_path / "edgefer.toml"
    file.write_text(f'[update]\nkey_1 = "{tmp_path}/keys/update.pub"\nstore = "{tmp_path}/store"\n')
    return file


def signed(folder: Path, version: str, number: int) -> Path:
    made = Path(shutil.copytree(DEFAULT, folder / f"made-{version}"))
    edit_manifest(made, lambda m: m.update(version=version))
    command = ["sign", str(made), "--key", str(folder / "keys" / "update.key"), "--number", str(number)]
    assert export_main(command) == EX_OK
    return made


def test_from_the_workstation_to_the_device_and_back(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--config", str(device)]
    assert main(["bundle", "install", str(signed(device.parent, "1.1.0", 5)), *where]) == EX_OK
    assert "activate default@1.1.0" in capsys.readouterr().out
    assert main(["bundle", "activate", "default@1.1.0", *where]) == EX_OK
    assert "on trial" in capsys.readouterr().out
    assert main(["bundle", "list", *where, "--json"]) == EX_OK
    assert json.loads(capsys.readouterr().out) == [{"name": "default@1.1.0", "number": 5, "roles": ["current"]}]
    assert main(["bundle", "list", *where]) == EX_OK
    assert "release 5" in capsys.readouterr().out
    assert main(["bundle", "rollback", *where]) == EX_OK
    assert "the bundle that ships is active again" in capsys.readouterr().out


def test_what_is_wrong_is_one_line_and_its_exit_code(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unsigned, where = shutil.copytree(DEFAULT, device.parent / "unsigned"), ["--config", str(device)]
    faults = {
        "not signed": (["install", str(unsigned), *where], EX_CONFIG),
        "nowhere": (["install", "nowhere", *where], EX_CONFIG),
        "no name of a staged bundle": (["activate", "../../etc", *where], EX_USAGE),
        "not staged here": (["activate", "default@9.9.9", *where], EX_CONFIG),
        "ships serves already": (["rollback", *where], EX_CONFIG),
        "gone.toml": (["list", "--config", "gone.toml"], EX_CONFIG),
    }
    for part, (args, code) in faults.items():
        assert main(["bundle", *args]) == code, part
        captured = capsys.readouterr()
        assert part in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""


def test_the_workstation_says_what_it_cannot_sign(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sign = ["sign", str(DEFAULT), "--number", "1", "--key"]
    assert export_main([*sign, "gone.key"]) == EX_NOINPUT
    assert export_main(["keygen", str(device.parent / "keys")]) == EX_USAGE
    errors = capsys.readouterr().err.splitlines()
    assert [("gone.key" in x, "is there already" in x) for x in errors] == [(True, False), (False, True)]
    with pytest.raises(SystemExit) as e:
        export_main([*sign, "x", "--number", "0"])
    assert e.value.code == EX_USAGE


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_works_on_the_services_store_as_the_service(tmp_path: Path) -> None:
    folder = quick_folder(tmp_path)
    folder.chmod(0o755)
    w = Workshop(folder)
    bundle, store = w.bundle("1.1.0", 5), folder / "store"
    keys = w.keys()
    store.mkdir(mode=0o700)
    os.chown(store, 65534, 65534)
    shutil.chown(bundle, 65534)
    for file in bundle.iterdir():
        file.chmod(0o644)
    child = os.fork()
    if child == 0:  # for good: the child never becomes root again
        try:
            become_owner(store / "not yet there")
            Store(store, keys, lambda bundle: None).install(bundle)
            os._exit(os.getuid() != 65534)
        except BaseException as e:
            os.write(2, f"{e}\n".encode())
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    made = list(store.rglob("*"))
    assert len(made) > 8
    assert {f.lstat().st_uid for f in made} == {65534}
    assert open_bundle(store / "staged" / "default@1.1.0").title == "default@1.1.0"
    shutil.rmtree(folder)
