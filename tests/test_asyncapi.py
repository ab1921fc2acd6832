"""The AsyncAPI document: held to the code, to the README's table, to real messages, and to its own meta-schema."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from wire_samples import one_of_each, stamper

from edgefer import asyncapi, messages

ROOT = Path(__file__).parents[1]
FILE = ROOT / "deploy" / "asyncapi.json"
META_SCHEMA = ROOT / "node_modules" / "@asyncapi" / "specs" / "schemas" / "3.0.0.json"


def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


def resolve(ref: str, inside: dict[str, Any]) -> Any:
    """What ``ref`` points to: in the document, or a file beside it. KeyError or OSError for nothing."""
    if not ref.startswith("#/"):
        return json.loads((FILE.parent / ref).read_text())
    found: Any = inside
    for step in ref[2:].split("/"):
        found = found[step]
    return found


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        here = [value["$ref"]] if "$ref" in value else []
        return here + [ref for item in value.values() for ref in references(item)]
    return [ref for item in value for ref in references(item)] if isinstance(value, list) else []


def test_the_checked_in_document_is_the_code_s() -> None:
    assert document() == asyncapi.document(), "run: python -m edgefer.asyncapi"


def test_the_writer_writes_it(tmp_path: Path) -> None:
    target = tmp_path / "asyncapi.json"
    subprocess.run([sys.executable, "-m", "edgefer.asyncapi", str(target)], check=True, timeout=60)
    assert target.read_text() == FILE.read_text()


def test_every_reference_resolves_and_every_schema_is_told_of() -> None:
    refs = set(references(document()))
    for ref in refs:
        resolve(ref, document())
    told = {Path(ref).stem for ref in refs if not ref.startswith("#")}
    assert told == {path.stem for path in (FILE.parent / "schema").glob("*.json")}


def test_the_readme_s_table_and_the_document_say_the_same() -> None:
    table = (ROOT / "README.md").read_text().split("## Messages:")[1].split("\n\n")[1]
    rows = re.findall(r"^\| (`.*?`) \| (\d) \| (yes|no|refused)\b[^|]*\| ([^|]*?) \|", table, re.M)
    assert rows
    said = {}
    for names, qos, retain, expiry in rows:
        for name in re.findall(r"`([a-z/{}]+)`", names):
            said[name] = (int(qos), retain == "yes", seconds(expiry))
    answers = {name: f"rsp/{name[4:]}" for name in said if name.startswith("cmd/")}
    said |= {topic: said[name] for name in list(said) if name.startswith("rsp/{") for topic in answers.values()}
    said = {name: row for name, row in said.items() if "{" not in name}
    assert said == {lane.topic: (lane.qos, lane.retain, lane.expiry_s) for lane in asyncapi.lanes()}


def seconds(text: str) -> int | None:
    """``5 s``, ``7 d``, ``<= 30 s`` or ``-`` of the README's table."""
    found = re.search(r"(\d+) ([sd])", text)
    return int(found[1]) * {"s": 1, "d": 86400}[found[2]] if found else None


def test_the_operations_carry_qos_retain_and_expiry() -> None:
    for kind in messages.MESSAGES:
        key = kind.TOPIC.replace("/", ".")
        binding = document()["operations"][f"send.{key}"]["bindings"]["mqtt"]
        assert (binding["qos"], binding["retain"]) == (kind.QOS, kind.RETAIN)
        assert binding.get("messageExpiryInterval") == kind.EXPIRY_S
        assert document()["channels"][key]["address"] == messages.topic("x", kind).replace("/x/", "/{device}/", 1)


@pytest.mark.parametrize("index", range(len(messages.MESSAGES)))
def test_a_real_message_validates_against_what_its_channel_names(index: int) -> None:
    message = one_of_each(stamper())[index]
    address = messages.topic("{device}".strip("{}"), type(message)).replace("/device/", "/{device}/")
    channel = next(c for c in document()["channels"].values() if c["address"] == address)
    (said,) = (resolve(ref, document()) for ref in references(channel["messages"]))
    payload = json.loads(messages.encode(message))
    validator = jsonschema.Draft202012Validator(resolve(said["payload"]["schema"]["$ref"], document()))
    validator.validate(payload)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**payload, "surplus": 1})


def test_a_command_is_received_and_its_answer_is_its_reply() -> None:
    command, response = SimpleNamespace(NAME="rate"), SimpleNamespace(TOPIC="rsp", EXPIRY_S=60)
    made = asyncapi.document(tuple(asyncapi.command_lanes(command, response)))
    ask = made["operations"]["receive.cmd.rate"]
    assert ask["bindings"]["mqtt"] == {
        "qos": 1,
        "retain": False,
        "messageExpiryInterval": 30,
        "bindingVersion": "0.2.0",
    }
    assert resolve(ask["reply"]["channel"]["$ref"], made)["address"] == "edgefer/v1/{device}/rsp/rate"


@pytest.mark.skipif(not META_SCHEMA.exists(), reason="no meta-schema: npm install --no-save @asyncapi/specs@6.11.1")
def test_the_document_satisfies_asyncapi_s_own_schema() -> None:
    validator = jsonschema.Draft7Validator(json.loads(META_SCHEMA.read_text()))
    assert [error.message for error in validator.iter_errors(document())] == []
    for path, wrong in (
        (("operations", "send.status", "action"), "publish"),
        (("operations", "send.status", "bindings", "mqtt", "qos"), 3),
        (("channels", "status", "surplus"), 1),
    ):
        spoilt = copy.deepcopy(document())
        at: Any = spoilt
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = wrong
        assert not validator.is_valid(spoilt), path
