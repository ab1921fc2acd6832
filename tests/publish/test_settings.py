"""Settings that cannot work are refused at open(), in one line that names the key."""

from __future__ import annotations

import re

import pytest
from wire_samples import one_of_each, stamper

from edgefer.config import Publish
from edgefer.errors import ConfigError
from edgefer.publish import open_publisher


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"username": "u", "password_file": "/nowhere"}, "publish.password_file"),
        ({"username": "u", "password_file": "/dev/null"}, "publish.password_file"),
        ({"password_file": "/dev/null"}, "publish.password_file"),
        ({"ca_file": "/nowhere"}, "publish.ca_file"),
        ({"ca_file": __file__}, "publish.ca_file"),
        ({"ca_file": __file__, "cert_file": "/nowhere", "key_file": __file__}, "publish.cert_file"),
        ({"ca_file": __file__, "cert_file": __file__}, "publish.key_file"),
        ({"key_file": __file__}, "publish.key_file"),
    ],
)
def test_secrets_that_cannot_be_read_name_their_key(settings: dict[str, str], key: str) -> None:
    sender = open_publisher(Publish(**settings), "car-1", stamper())
    with pytest.raises(ConfigError, match=re.escape(key)) as caught:
        sender.open(one_of_each(stamper())[4])  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    sender.close(one_of_each(stamper())[3])  # type: ignore[arg-type]


def test_a_bad_device_id_is_refused_before_anything_is_opened() -> None:
    for kind in ("mqtt", "stdout"):
        with pytest.raises(ConfigError, match="'device'"):
            open_publisher(Publish(kind=kind), "Car/1", stamper())
