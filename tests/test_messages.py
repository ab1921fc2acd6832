"""The wire format: what is said, how long it is, and that the checked-in schemas are the code's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from wire_samples import BOOT, one_of_each, reading, stamper

from edgefer import messages, stamp
from edgefer.errors import ConfigError
from edgefer.messages import EventDriver, EventSystem, StateDriver, Status
from edgefer.stamp import Stamper
from edgefer.types import LensState, Reading, Why

SCHEMAS = Path(__file__).parents[1] / "deploy" / "schema"


def test_a_typical_state_fits_512_bytes_and_says_what_the_reading_said() -> None:
    payload = messages.encode(stamp.state_message(stamper(), reading(), "driver-expression-default@1.0.0"))
    assert len(payload) <= 512
    said = json.loads(payload)
    assert said["conf"] == 0.9123
    assert said["quality"] == {"face": 0.8765, "yaw_deg": -12.3457, "age_ms": 100, "lenses": ["ok", "black"]}
    assert "why" not in said
    assert said["ts"] == "2023-11-14T22:13:20.023Z"  # the wall clock now, less the 100 ms of age


def test_no_face_is_a_result_and_odd_numbers_do_not_break_the_wire() -> None:
    odd = reading(Why.NO_FACE, {"neutral": 1.0000001, "fear": -1e-9}, yaw_deg=float("nan"), mono_ns=60_000_000_000)
    said = json.loads(messages.encode(stamp.state_message(stamper(), odd, "default@1.0")))
    assert (said["valid"], said["why"], said["label"]) == (False, "no_face", "unknown")
    assert said["probs"] == {"neutral": 1.0, "fear": 0.0}
    assert "yaw_deg" not in said["quality"]
    assert said["quality"]["age_ms"] == 0


def test_contradictions_are_refused() -> None:
    good = stamp.state_message(stamper(), reading(), "default@1.0").model_dump()
    for wrong in ({"valid": False}, {"why": Why.NO_FACE}, {"label": "unknown"}, {"extra": 1}, {"conf": float("nan")}):
        with pytest.raises(ValidationError):
            StateDriver(**{**good, **wrong})
    with pytest.raises(ValidationError):
        stamper().message(EventSystem, kind="lens_back")


def test_seq_counts_per_topic_class_and_events_share_one_count() -> None:
    s = stamper()
    assert [s.header(kind)["seq"] for kind in (StateDriver, StateDriver, EventDriver, EventSystem, Status)] == [
        *(1, 2),
        *(1, 2),
        1,
    ]


@pytest.mark.parametrize("dev", ["a/b", "a+", "#", "Car", "", "x" * 33, "car\n"])
def test_a_bad_device_id_is_refused_in_one_line(dev: str) -> None:
    with pytest.raises(ConfigError) as caught:
        messages.topic(dev, StateDriver)
    assert "\n" not in str(caught.value)
    assert "'device'" in str(caught.value)


def test_topics_are_those_of_the_table() -> None:
    table = {kind.TOPIC: (kind.QOS, kind.RETAIN, kind.EXPIRY_S) for kind in messages.MESSAGES}
    assert table == {
        "status": (1, True, None),
        "meta": (1, True, None),
        "state/driver": (0, True, 5),
        "event/driver": (1, False, 604800),
        "event/system": (1, False, 604800),
        "health": (1, True, 30),
    }
    assert messages.topic("car-1", StateDriver) == "edgefer/v1/car-1/state/driver"


def test_checked_in_schemas_are_the_code_s() -> None:
    on_disk = {path.stem: json.loads(path.read_text()) for path in SCHEMAS.glob("*.json")}
    assert on_disk == messages.schemas(), "run: python -m edgefer.messages"
    for schema in on_disk.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_the_writer_writes_them(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "edgefer.messages", str(tmp_path)], check=True, timeout=60)
    assert {p.stem for p in tmp_path.glob("*.json")} == set(messages.schemas())


@pytest.mark.parametrize("index", range(len(messages.MESSAGES)))
def test_every_message_satisfies_its_schema_and_survives_the_wire(index: int) -> None:
    message = one_of_each(stamper())[index]
    payload = messages.encode(message)
    schema = messages.schemas()[messages.schema_name(type(message))]
    jsonschema.validate(json.loads(payload), schema, jsonschema.Draft202012Validator)
    again = messages.decode(type(message), payload)
    assert messages.encode(again) == payload


def test_the_schema_knows_that_an_invalid_state_says_why() -> None:
    payload = json.loads(messages.encode(one_of_each(stamper())[0]))
    schema = messages.schemas()["state.driver.v1"]
    for wrong in ({"valid": False}, {"label": "unknown"}, {"why": "no_face"}, {"surplus": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**payload, **wrong}, schema, jsonschema.Draft202012Validator)


share = st.floats(0, 1)
labels = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=24).filter(lambda t: t != "unknown")


@given(
    why=st.none() | st.sampled_from(list(Why)),
    label=labels,
    probs=st.dictionaries(labels, share, max_size=9),
    conf=share,
    yaw=st.floats(-180, 180) | st.just(float("nan")),
    mono=st.integers(0, 2**62),
)
def test_round_trip(
    why: Why | None, label: str, probs: dict[str, float], *, conf: float, yaw: float, mono: int
) -> None:
    lenses = (LensState.LOST, LensState.OK)
    said = Reading("unknown" if why else label, conf, probs, why, conf, yaw, lenses, mono)
    clock = Stamper("car-1", "0123abcd", BOOT, wall_ns=lambda: 10**18, mono_ns=lambda: mono, synchronised=lambda: False)
    sent = stamp.state_message(clock, said, "b@1")
    got = messages.decode(StateDriver, messages.encode(sent))
    assert (got.label, got.why, got.mono_ns, got.seq, got.ts) == (sent.label, why, mono, 1, sent.ts)
    assert got.probs == {name: round(p, 4) for name, p in probs.items()}


def test_boot_id_and_clock_flag_come_from_files(tmp_path: Path) -> None:
    flag = tmp_path / "synchronized"
    assert not stamp.clock_synchronised((flag,))
    flag.touch()
    assert stamp.clock_synchronised((tmp_path / "other", flag))
    (tmp_path / "boot").write_text(BOOT + "\n")
    assert stamp.boot_id(tmp_path / "boot") == BOOT
    assert stamp.boot_id(tmp_path / "none") == "00000000-0000-0000-0000-000000000000"
    assert Stamper("car-1", stamp.new_stream(), stamp.boot_id()).message(Status, state="online", session=1).v == 1
