"""The unit file and what belongs to it, as far as systemd's own tools can judge it without running it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgefer import config, config_file
from edgefer.publish._tls import resolved

HERE = Path(__file__).parents[1] / "systemd"
UNIT = HERE / "edgefer-daemon.service"
DROP_INS = sorted([*HERE.glob("local-broker-*.conf"), HERE / "broker-elsewhere.conf"])
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
EXPOSURE = {None: 1.5, "local-broker-tcp.conf": 1.5, "local-broker-socket.conf": 0.8, "broker-elsewhere.conf": 1.5}
"""highest exposure by drop-in"""


def placed(folder: Path, drop_in: str | None) -> Path:
    """The unit with one drop-in, its program replaced by one that exists: verify insists on that."""
    unit = folder / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/edgefer/bin/edgefer-daemon", "/bin/true"))
    if drop_in:
        (folder / f"{UNIT.name}.d").mkdir()
        shutil.copy(HERE / drop_in, folder / f"{UNIT.name}.d")
    return unit


@needs_systemd
@pytest.mark.parametrize("drop_in", EXPOSURE)
def test_systemd_accepts_the_unit_and_finds_it_little_exposed(drop_in: str | None, tmp_path: Path) -> None:
    unit = placed(tmp_path, drop_in)
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    command = ["systemd-analyze", "security", "--offline=true", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"exposure level for .*: ([\d.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found.group(1)) <= EXPOSURE[drop_in]


def test_every_drop_in_is_judged() -> None:
    assert {d.name for d in DROP_INS} == set(EXPOSURE) - {None}


YOUNGER = """ExitType RestrictFileSystems RestrictNetworkInterfaces LoadCredentialEncrypted SetCredentialEncrypted
ImportCredential ConditionCredential ExtensionDirectories MemoryZSwapMax OpenFile MemoryPressureWatch LogFilterPatterns
RootEphemeral RestartSteps RestartMaxDelaySec FileDescriptorStorePreserve ReloadSignal MemoryKSM PrivatePIDs"""
"""directives that came after 249"""


@pytest.mark.parametrize("file", [UNIT, *DROP_INS], ids=lambda f: f.name)
def test_nothing_is_younger_than_systemd_249(file: Path) -> None:
    used = set(re.findall(r"^(\w+)=", file.read_text(), re.MULTILINE))
    assert not used & set(YOUNGER.split())
    assert "notify-reload" not in file.read_text(), "253"
    assert not re.search(r"^\w+=.*%d", file.read_text(), re.MULTILINE), "the specifier for credentials came with 250"


def test_a_wrong_configuration_is_not_restarted_and_crashes_are_for_ever() -> None:
    from edgefer.errors import EX_CONFIG, EX_NOINPUT, EX_USAGE

    text = UNIT.read_text()
    assert f"RestartPreventExitStatus={EX_USAGE} {EX_NOINPUT} {EX_CONFIG}" in text
    for line in ("Type=notify", "WatchdogSec=10", "WatchdogSignal=SIGABRT", "Restart=on-failure", "RestartSec=3",
                 "StartLimitIntervalSec=0", "MemoryMax=2G", "MemorySwapMax=0", "TasksMax=128"):  # fmt: skip
        assert f"\n{line}\n" in text, line


def test_unit_and_configuration_mean_the_same_files() -> None:
    shipped = config_file.read(HERE.parent / "deploy" / "edgefer.toml").publish
    text = UNIT.read_text()
    assert str(config.SERVICE_CONFIG) in text
    assert f"StateDirectory={config.SERVICE_STATE.name}" in text
    for name in (shipped.ca_file, shipped.cert_file, shipped.key_file):
        credential = name.removeprefix("$CREDENTIALS_DIRECTORY/")
        assert f"LoadCredential={credential}:/etc/edgefer/tls/{credential}\n" in text
        assert f"/etc/edgefer/tls/{credential}" in text.split("ExecReload=+")[2].splitlines()[0], "renewed by a reload"


@pytest.mark.skipif(os.geteuid() != 0, reason="makes users in a folder of its own: needs root")
@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="systemd-tmpfiles is not here")
def test_user_and_folders_come_out_as_meant(tmp_path: Path) -> None:
    for name, part in (("sysusers", "sysusers.d"), ("tmpfiles", "tmpfiles.d")):
        (tmp_path / "usr/lib" / part).mkdir(parents=True)
        shutil.copy(HERE / f"{name}.conf", tmp_path / "usr/lib" / part / "edgefer.conf")
    (tmp_path / "etc/edgefer").mkdir(parents=True)
    (tmp_path / "etc/edgefer/edgefer.toml").write_text("")
    for command in (["systemd-sysusers"], ["systemd-tmpfiles", "--create"]):
        done = subprocess.run([*command, f"--root={tmp_path}"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    user = next(x for x in (tmp_path / "etc/passwd").read_text().splitlines() if x.startswith("edgefer:")).split(":")
    assert user[6].endswith("nologin")
    modes = {p: tmp_path.joinpath(p).stat() for p in ("etc/edgefer/tls", "var/lib/edgefer/bundles", "etc/edgefer/keys")}
    assert {p: (oct(s.st_mode & 0o777), s.st_uid) for p, s in modes.items()} == {
        "etc/edgefer/tls": ("0o700", 0), "var/lib/edgefer/bundles": ("0o700", int(user[2])),
        "etc/edgefer/keys": ("0o755", 0),
    }  # fmt: skip
    assert oct((tmp_path / "etc/edgefer/edgefer.toml").stat().st_mode & 0o777) == "0o640"


def test_the_reload_puts_renewed_certificates_where_the_daemon_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unit's own commands, with this folder in the place of the system's and this user in that of its users."""
    (tmp_path / "etc/edgefer/tls").mkdir(parents=True)
    (tmp_path / "run/edgefer").mkdir(parents=True)
    for name in ("ca.crt", "client.crt", "client.key"):
        (tmp_path / "etc/edgefer/tls" / name).write_text(f"new {name}")
    user = f"-o {os.getuid()} -g {os.getgid()}"
    start, *reload = (
        line.replace(" /etc/", f" {tmp_path}/etc/").replace(" /run/", f" {tmp_path}/run/").replace(OWNER, user).split()
        for line in re.findall(r"^Exec(?:StartPre|Reload)=\+(.*)$", UNIT.read_text(), re.MULTILINE)
    )
    for command in [*reload, *reload]:  # over older ones too
        subprocess.run(command, check=True)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run/edgefer"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/given/at/the/start")
    shipped = config_file.read(HERE.parent / "deploy" / "edgefer.toml").publish
    made = Path(resolved(shipped).key_file)
    assert (made.read_text(), oct(made.stat().st_mode & 0o777)) == ("new client.key", "0o440")
    assert oct(made.parent.stat().st_mode & 0o777) == "0o750"
    assert "RuntimeDirectory=edgefer\n" in UNIT.read_text()
    subprocess.run(start, check=True)
    assert resolved(shipped).key_file == "/given/at/the/start/client.key", "a start brings the newest itself"


OWNER = "-o root -g edgefer"
"""of what a reload makes: the daemon reads it"""


def test_root_writes_nowhere_the_daemon_may_write() -> None:
    """A daemon that was taken over would put a link there, and root would follow it."""
    text = UNIT.read_text()
    own = [f"/{root}/{name}" for kind, root in (("State", "var/lib"), ("Cache", "var/cache"), ("Runtime", "run"))
           for name in re.findall(rf"^{kind}Directory=(\S+)$", text, re.MULTILINE)]  # fmt: skip
    assert len(own) == 3
    privileged = re.findall(r"^Exec\w+=\+(.*)$", text, re.MULTILINE)
    assert len(privileged) == 3
    for command in privileged:
        assert not any(word == d or word.startswith(f"{d}/") for word in command.split() for d in own), command
        assert OWNER in command or command == "/usr/bin/rm -rf /run/edgefer-renewed"
