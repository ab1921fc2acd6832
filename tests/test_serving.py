"""What serves and what is only named by the store: which of them is confirmed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from release_workshop import Workshop

from edgefer.config_file import build
from edgefer.infer import Network
from edgefer.life import AGAIN_S, SCORED_MIN, Heart
from edgefer.serving import Serving
from edgefer.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """1.1.0 and 2.0.0 are staged, the bundle that ships is current."""
    w = Workshop(tmp_path)
    store = w.store()
    for version, number in (("1.1.0", 5), ("2.0.0", 6)):
        store.install(w.real(version, number))
    return store


class Car:
    """A service on ``store`` on a clock of its own; a second of driving is one beat."""

    def __init__(self, store: Store) -> None:
        self.serving = Serving(build({}, "test"), store)
        self.now, self.scored, self._opened = 0.0, 0, list[Network]()
        self.serving.heart = Heart(lambda: self.now, 300.0, lambda: None)
        self.reload()

    def reload(self) -> None:
        bundle, network = self.serving.open()
        self._opened.append(network)
        if len(self._opened) > 1:
            self.serving.swapped(bundle, self.scored)

    def drive(self, seconds: float, faces: int) -> None:
        for _ in range(int(seconds)):
            self.now += 1.0
            self.scored += faces
            self.serving.beat(self.scored)
        for thread in threading.enumerate():
            if thread.name == "confirm":
                thread.join()

    def close(self) -> None:
        for network in self._opened:
            network.close()


@pytest.fixture
def cars(store: Store) -> Iterator[list[Car]]:
    made: list[Car] = []
    yield made
    for car in made:
        car.close()


def test_the_faces_of_one_bundle_do_not_confirm_another(store: Store, cars: list[Car]) -> None:
    """Activated in the empty car; the driver comes before the reload does."""
    store.activate("default@1.1.0")
    cars.append(Car(store))
    car = cars[0]
    car.drive(1000, faces=0)
    store.activate("default@2.0.0")
    car.drive(1000, faces=5)
    assert (store.on_trial(), store.highest()) == (True, 0)
    car.reload()
    car.drive(299, faces=5)
    assert (store.on_trial(), store.highest()) == (True, 0), "and its own time begins when it serves"
    car.drive(2, faces=5)
    assert (store.on_trial(), store.highest()) == (False, 6)


def test_a_configured_bundle_confirms_nothing_in_the_store(tmp_path: Path, store: Store, cars: list[Car]) -> None:
    """Though it has the very name of the one on trial there."""
    store.activate("default@2.0.0")
    copy = Path(store.path("default@2.0.0")).rename(tmp_path / "mine")
    store.install(copy)
    cars.append(Car(store))
    serving = cars[0].serving
    serving.infer = serving.infer.model_copy(update={"bundle": str(copy)})
    cars[0].reload()
    cars[0].drive(1000, faces=5)
    assert store.on_trial()


def test_a_disk_error_at_the_moment_of_confirming_is_not_the_last_word(
    store: Store, cars: list[Car], caplog: pytest.LogCaptureFixture
) -> None:
    store.activate("default@1.1.0")
    cars.append(Car(store))
    obstacle = store.folder / ".highest.part"
    obstacle.mkdir()  # where the new number is written first: EISDIR
    cars[0].drive(301, faces=SCORED_MIN)
    assert "not confirmed" in caplog.text
    assert store.on_trial()
    obstacle.rmdir()
    cars[0].drive(AGAIN_S + 1, faces=0)
    assert not store.on_trial()
