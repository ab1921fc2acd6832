"""A real mosquitto for the tests that need a broker. Skipped without one, except on CI, where that is a failure."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mosquitto_broker import MakeMosquitto, Mosquitto


@pytest.fixture
def make_mosquitto(tmp_path: Path) -> Iterator[MakeMosquitto]:
    """``make_mosquitto(users={name: password}, acl="...", started=True)`` -> Mosquitto."""
    binary = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if binary is None:
        if os.environ.get("CI") == "true":
            pytest.fail("mosquitto is not installed, and on CI its tests must run")
        pytest.skip("mosquitto is not installed (apt install mosquitto)")
    made: list[Mosquitto] = []

    def make(users: dict[str, str] | None = None, acl: str = "", started: bool = True) -> Mosquitto:
        made.append(Mosquitto(binary, tmp_path, users or {}, acl))
        if started:
            made[-1].start()
        return made[-1]

    yield make
    for broker in made:
        broker.stop()


@pytest.fixture
def mosquitto(make_mosquitto: MakeMosquitto) -> Mosquitto:
    """A running broker that lets everybody do everything."""
    return make_mosquitto()
