"""Mutual TLS against a real mosquitto, with the shipped script's certificates, listener settings and ACL."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import paho.mqtt.client as paho
import pytest
from fleet import SCRIPT, Fleet, fleet_ca, secured
from locate_portraits import astronaut
from mosquitto_broker import BOUND_S, MakeMosquitto, Mosquitto
from paho.mqtt.enums import CallbackAPIVersion
from torture import EPOCH, Source, on_disk, wall_clock
from wire_samples import one_of_each, stamper

from edgefer import config_file
from edgefer.config import Publish
from edgefer.errors import EX_OK, ConfigError
from edgefer.messages import EventSystem, Meta, Status
from edgefer.publish.mqtt import MqttPublisher

pytestmark = [
    pytest.mark.broker,
    # paho leaves the socket of a failed handshake to the garbage collector, which closes it.
    pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"),
]
ACL = (SCRIPT.parent / "mosquitto.acl").read_text()


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet(tmp_path_factory.mktemp("ca"), "car-1", "car-2", "fleet-monitor")


@pytest.fixture
def fleet(ca: Fleet, tmp_path: Path) -> Fleet:
    """A copy whose files a test may exchange."""
    shutil.copytree(ca.folder, tmp_path / "ca")
    return Fleet(tmp_path / "ca")


@pytest.fixture
def broker(make_mosquitto: MakeMosquitto, ca: Fleet) -> Mosquitto:
    made = secured(make_mosquitto(acl=ACL, started=False), ca)
    made.start()
    return made


@pytest.fixture
def publisher() -> Iterator[Callable[..., MqttPublisher]]:
    made: list[MqttPublisher] = []

    def make(port: int, dev: str = "car-1", **settings: Any) -> MqttPublisher:
        publish = Publish(**{"host": "localhost", "port": port, **settings})
        made.append(MqttPublisher(publish, dev, stamper(dev)))
        made[-1].open(next(m for m in one_of_each(stamper(dev)) if isinstance(m, Meta)))
        return made[-1]

    yield make
    for sender in made:
        sender.close(stamper().message(Status, state="stopped", session=1))


def until(true: Callable[[], object], what: str = "it never came true") -> None:
    end = time.monotonic() + BOUND_S
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.01)


class Monitor:
    """The fleet's reader, with its own certificate: what a device said, by topic."""

    def __init__(self, port: int, files: dict[str, str]) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        ready = threading.Event()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.tls_set(files["ca_file"], files["cert_file"], files["key_file"])
        self.client.on_message = lambda _c, _u, m: self.heard.append((m.topic, json.loads(m.payload or b"{}")))
        self.client.on_connect = lambda *_: self.client.subscribe("edgefer/v1/#", 1)
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.connect("localhost", port)
        self.client.loop_start()
        assert ready.wait(BOUND_S)

    def said(self, topic: str, **fields: object) -> list[dict[str, Any]]:
        return [p for t, p in self.heard[:] if t.endswith(topic) and fields.items() <= p.items()]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def monitor(broker: Mosquitto, ca: Fleet) -> Iterator[Monitor]:
    made = Monitor(broker.port, ca.files("fleet-monitor"))
    yield made
    made.close()


def test_a_device_is_who_its_certificate_says_and_writes_its_own_topics_only(
    broker: Mosquitto, ca: Fleet, monitor: Monitor, publisher: Callable[..., MqttPublisher]
) -> None:
    own = publisher(broker.port, "car-1", **ca.files("car-1"))
    until(lambda: own.connected)
    own.publish(stamper("car-1").message(EventSystem, kind="started"))
    until(lambda: monitor.said("car-1/event/system"))
    assert own.counters()["denied"] == 0
    posing = publisher(broker.port, "car-1", **ca.files("car-2"))  # a stolen id, another certificate
    until(lambda: posing.counters()["denied"] >= 2)
    assert {t.split("/")[2] for t, _ in monitor.heard} == {"car-1"}
    assert len(monitor.said("car-1/event/system")) == 1


def test_a_device_reads_its_own_commands_and_no_others(broker: Mosquitto, ca: Fleet) -> None:
    """And nobody but whom the ACL names writes commands."""
    client, granted, got = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5), [], []
    files, refused = ca.files("car-2"), []
    client.tls_set(files["ca_file"], files["cert_file"], files["key_file"])
    client.on_subscribe = lambda _c, _u, _m, codes, _p: granted.append([c.value for c in codes])
    client.on_publish = lambda _c, _u, _m, reason, _p: refused.append(reason.value)
    client.on_message = lambda _c, _u, m: got.append(m.topic)
    client.connect("localhost", broker.port)
    client.loop_start()
    client.subscribe([("edgefer/v1/car-1/cmd/#", 1), ("edgefer/v1/car-2/cmd/#", 1), ("edgefer/v1/+/state/#", 0)])
    until(lambda: granted)
    client.publish("edgefer/v1/car-1/cmd/privacy", b"{}", 1)
    client.publish("edgefer/v1/car-2/cmd/privacy", b"{}", 1)
    until(lambda: len(refused) == 2)
    client.disconnect()
    client.loop_stop()
    assert refused == [135, 135], "a device commands neither another nor itself"
    assert got == []


@pytest.mark.parametrize("without", ["certificate", "our CA"])
def test_without_a_certificate_of_the_fleet_nobody_gets_in(
    without: str, broker: Mosquitto, ca: Fleet, tmp_path: Path, publisher: Callable[..., MqttPublisher],
    caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    files = ca.files("car-1")
    if without == "certificate":
        files = {"ca_file": files["ca_file"]}
    else:
        other = Fleet(tmp_path, "car-1")
        files = {**other.files("car-1"), "ca_file": files["ca_file"]}
    sender = publisher(broker.port, **files)
    until(lambda: "broker localhost" in caplog.text)
    assert not sender.connected
    assert sender.counters()["connects"] == 0


def test_a_broker_that_is_not_ours_is_not_told_anything(
    broker: Mosquitto, ca: Fleet, tmp_path: Path, publisher: Callable[..., MqttPublisher],
    caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    other = Fleet(tmp_path)
    sender = publisher(broker.port, **{**ca.files("car-1"), "ca_file": str(other.folder / "ca.crt")})
    until(lambda: "certificate verify failed" in caplog.text)
    assert sender.counters()["connects"] == 0


def test_a_revoked_device_stays_outside(
    make_mosquitto: MakeMosquitto, fleet: Fleet, publisher: Callable[..., MqttPublisher],
    caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    fleet.make("device", "car-1")  # renewed: both are revoked
    fleet.make("revoke", "car-1")
    broker = secured(make_mosquitto(acl=ACL, started=False), fleet)
    broker.start()
    revoked = publisher(broker.port, **fleet.files("car-1"))
    until(lambda: "broker localhost" in caplog.text)
    assert revoked.counters()["connects"] == 0
    other = publisher(broker.port, "car-2", **fleet.files("car-2"))
    until(lambda: other.connected)


# -- renewal without a restart -----------------------------------------------------------------------------------------


def exchange(fleet: Fleet, device: str, by: str) -> None:
    for end in ("crt", "key"):
        os.replace(shutil.copy(fleet.folder / f"{by}.{end}", fleet.folder / "new"), fleet.folder / f"{device}.{end}")


def test_a_renewed_certificate_is_used_at_the_next_connection(
    broker: Mosquitto, fleet: Fleet, tmp_path: Path, publisher: Callable[..., MqttPublisher],
    caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    (tmp_path / "other").mkdir()
    other = Fleet(tmp_path / "other", "car-1")
    right = {end: (fleet.folder / f"car-1.{end}").read_bytes() for end in ("crt", "key")}
    for end in right:
        shutil.copy(other.folder / f"car-1.{end}", fleet.folder / f"car-1.{end}")
    sender = publisher(broker.port, **fleet.files("car-1"))
    until(lambda: "broker localhost" in caplog.text)
    assert sender.counters()["connects"] == 0
    for end, data in right.items():
        (fleet.folder / f"car-1.{end}").write_bytes(data)
    until(lambda: sender.connected, "it goes on trying with the old certificate")


def test_a_reload_uses_a_renewed_certificate_at_once_and_keeps_the_connection_when_there_is_none(
    broker: Mosquitto, fleet: Fleet, publisher: Callable[..., MqttPublisher], caplog: pytest.LogCaptureFixture
) -> None:
    sender = publisher(broker.port, **fleet.files("car-1"))
    until(lambda: sender.connected)
    sender.renew()
    with caplog.at_level(logging.WARNING):
        shutil.copy(fleet.folder / "car-2.crt", fleet.folder / "car-1.crt")  # half of a pair
        sender.renew()
    assert "new certificates or password not used" in caplog.text
    assert (sender.connected, sender.counters()["connects"]) == (True, 1)
    exchange(fleet, "car-1", by="car-2")
    sender.renew()
    until(lambda: sender.counters()["connects"] == 2)
    until(lambda: sender.counters()["denied"], "the broker sees car-2's certificate and refuses car-1's topics")


def test_credentials_come_from_the_service_manager_and_renewed_ones_go_first(
    broker: Mosquitto, fleet: Fleet, tmp_path: Path, publisher: Callable[..., MqttPublisher],
    monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    named = {"ca_file": "ca.crt", "cert_file": "client.crt", "key_file": "client.key"}
    settings = {key: f"$CREDENTIALS_DIRECTORY/{name}" for key, name in named.items()}
    shipped = config_file.read(SCRIPT.parent / "edgefer.toml").publish
    assert {key: getattr(shipped, key) for key in named} == settings, "the shipped configuration asks for the same"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigError, match=r"publish\.ca_file.*LoadCredential"):
        publisher(broker.port, **settings)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    put(fleet, "car-1", tmp_path / "credentials")
    sender = publisher(broker.port, **settings)
    until(lambda: sender.connected)
    put(fleet, "car-2", tmp_path / "run-renewed")
    sender.renew()
    until(lambda: sender.counters()["connects"] == 2)
    until(lambda: sender.counters()["denied"], "the renewed one is car-2's")


def put(fleet: Fleet, device: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, as_ in (("ca.crt", "ca.crt"), (f"{device}.crt", "client.crt"), (f"{device}.key", "client.key")):
        shutil.copy(fleet.folder / name, folder / as_)


# -- the service itself ------------------------------------------------------------------------------------------------


def test_the_service_renews_on_sighup_and_shows_no_secret(
    broker: Mosquitto, fleet: Fleet, monitor: Monitor, tmp_path: Path
) -> None:
    """Not in its log at the most talkative level, not in its arguments, not in its environment."""
    face, password, file = tmp_path / "face.png", tmp_path / "password", tmp_path / "edgefer.toml"
    cv2.imwrite(str(face), astronaut())
    password.write_text("hush-hush-7141\n")
    password.chmod(0o600)
    lines = "".join(f'{key} = "{name}"\n' for key, name in fleet.files("car-1").items())
    file.write_text(
        f'device = "car-1"\n[capture]\nkind = "picture"\nsource = "{face}"\n[log]\nlevel = "debug"\n[publish]\n'
        f'host = "localhost"\nport = {broker.port}\nusername = "car-1"\npassword_file = "{password}"\n{lines}'
    )
    command = [sys.executable, "-m", "edgefer", "run", "--config", str(file)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as service:
        until(lambda: monitor.said("car-1/state/driver"))
        first = monitor.said("car-1/status", state="online")[0]["session"]
        fleet.make("device", "car-1")
        service.send_signal(signal.SIGHUP)
        until(lambda: len(monitor.said("car-1/status", state="online")) == 2, "no new connection")
        assert monitor.said("car-1/status", state="online")[1]["session"] > first
        proc = Path("/proc", str(service.pid))
        shown = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
        service.terminate()
        assert service.stderr is not None
        shown += service.stderr.read().encode()
        assert service.wait(BOUND_S) == EX_OK
    until(lambda: monitor.said("car-1/status", state="stopped"), "the last state is no stop")
    assert b"new certificates or password loaded" in shown
    keys = [x for end in ("car-1.key",) for x in (fleet.folder / end).read_text().splitlines() if "---" not in x]
    for secret in ("hush-hush-7141", *keys):
        assert secret.encode() not in shown


def test_a_broker_behind_a_unix_socket(
    make_mosquitto: MakeMosquitto, publisher: Callable[..., MqttPublisher], tmp_path: Path
) -> None:
    broker, socket_ = make_mosquitto(started=False), tmp_path / "mqtt.sock"
    text = broker._config.read_text()
    broker._config.write_text(text.replace(f"listener {broker.port} 127.0.0.1", f"listener 0 {socket_}"))
    broker.start()
    sender = publisher(1, host=str(socket_))
    until(lambda: sender.connected)
    sender.publish(stamper().message(EventSystem, kind="started"))
    until(lambda: sender.counters()["unmatched"] == 1)


# -- the script --------------------------------------------------------------------------------------------------------


def test_the_script_writes_nothing_when_dry_and_its_keys_are_private(ca: Fleet, tmp_path: Path) -> None:
    for args in (["ca"], ["server", "localhost"], ["device", "car-1"]):
        done = fleet_ca(tmp_path, "--dry-run", str(tmp_path / "dry"), *args)
        assert done.returncode == 0, done.stderr
        assert "would run: openssl" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert {f.stat().st_mode & 0o077 for f in ca.folder.iterdir()} == {0}


@pytest.mark.parametrize(
    ("args", "code", "part"),
    [
        (["device", "Car/1"], 64, "device id"),
        (["device"], 64, "fleet-ca.sh"),
        (["ca"], 64, "is there already"),
        (["revoke", "car-9"], 66, "car-9"),
        (["--days"], 64, "fleet-ca.sh"),
    ],
)
def test_the_script_says_in_a_line_what_it_cannot_do(args: list[str], code: int, part: str, ca: Fleet) -> None:
    done = fleet_ca(ca.folder, *(args if args[0].startswith("--") else [str(ca.folder), *args]))
    assert done.returncode == code, done.stderr
    assert part in done.stderr


def test_the_script_needs_its_ca_first(tmp_path: Path) -> None:
    done = fleet_ca(tmp_path, str(tmp_path), "device", "car-1")
    assert done.returncode == 66
    assert "run: fleet-ca.sh" in done.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not here (apt install shellcheck)")
def test_shellcheck_has_nothing_to_say() -> None:
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.stdout == ""


def test_its_certificates_pass_the_strict_rules_of_newer_pythons(ca: Fleet) -> None:
    """Python 3.13 asks for VERIFY_X509_STRICT by default."""
    context = ssl.create_default_context(cafile=str(ca.folder / "ca.crt"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    files = ca.files("car-1")
    context.load_cert_chain(files["cert_file"], files["key_file"])
    command = ["openssl", "verify", "-x509_strict", "-CAfile", files["ca_file"], files["cert_file"],
               str(ca.folder / "localhost.crt")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_clock_that_comes_right_brings_the_connection_within_ten_seconds(
    broker: Mosquitto, ca: Fleet, monitor: Monitor, tmp_path: Path
) -> None:
    """In 1970 no certificate is valid yet: events wait in the spool until the clock is set."""
    clock = tmp_path / "clock"
    clock.write_text(EPOCH)
    tls = ca.files("car-1").values()
    command = ("--host", "localhost", "--every", "0.1", "--tls", *tls)
    source = Source(broker.port, tmp_path / "state", *command, env=wall_clock(clock))
    try:
        assert source.process.stderr is not None
        assert "certificate is not yet valid" in source.process.stderr.readline()
        assert monitor.said("car-1/event/driver") == []
        until(lambda: (tmp_path / "state" / "spool.db").exists() and on_disk(tmp_path / "state"))
        clock.write_text("+0")
        began = time.monotonic()
        until(lambda: monitor.said("car-1/event/driver", seq=1))
        took = time.monotonic() - began
        assert monitor.said("car-1/event/driver", seq=1)[0]["ts"].startswith("1970-01-01"), "from before it was right"
        until(lambda: monitor.said("car-1/event/system", kind="clock_step"))
        assert source.end()["connects"] == 1
    finally:
        source.process.kill()
        source.process.communicate()
    print(f"up after {took:.1f} s")
    assert took <= 10
