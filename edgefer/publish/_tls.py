"""Certificates and passwords that may be renewed while the service runs, and where the service manager puts them.

A file named ``$CREDENTIALS_DIRECTORY/NAME`` is a systemd credential (LoadCredential=). systemd gives those once, at the
start; the unit's reload puts renewed ones into ``$RUNTIME_DIRECTORY-renewed/NAME``, root's, which is looked at first.
"""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path

from edgefer.config import Publish
from edgefer.errors import ConfigError
from edgefer.publish._mqtt_parts import read_password, tls_context

log = logging.getLogger("edgefer.publish")

CREDENTIALS = "$CREDENTIALS_DIRECTORY/"
FILES = ("ca_file", "cert_file", "key_file", "password_file")


def resolved(config: Publish) -> Publish:
    """``config`` with credentials as paths. Raises ConfigError when there is no credentials folder."""
    return config.model_copy(update={key: _path(key, getattr(config, key)) for key in FILES})


def _path(key: str, name: str) -> str:
    if not name.startswith(CREDENTIALS):
        return name
    folder, runtime = os.environ.get("CREDENTIALS_DIRECTORY"), os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if not folder:
        raise ConfigError(
            f"'publish.{key}': {name}: the service manager gave no credentials (LoadCredential=); name a file instead"
        )
    renewed = Path(f"{runtime}-renewed", name.removeprefix(CREDENTIALS))
    return str(renewed if runtime and renewed.exists() else Path(folder, name.removeprefix(CREDENTIALS)))


class Secrets:
    """TLS settings and password of one connection. Raises ConfigError naming the key at fault.

    ``context`` (None: no TLS) stays the same object: paho takes only one. New files are loaded into it, so a CA that
    was trusted once is trusted until the service restarts.
    """

    def __init__(self, config: Publish) -> None:
        self._config = config
        files = resolved(config)
        self.password = read_password(files)
        self.context: ssl.SSLContext | None = tls_context(files)
        self._seen = _stamps(files)

    def renew(self) -> bool:
        """Load what has changed on disk; whether there was anything. What cannot be used is told and left alone."""
        try:
            files = resolved(self._config)
            stamps = _stamps(files)
            if stamps == self._seen:
                return False
            self._seen = stamps
            password = read_password(files)
            tls_context(files)  # in one of their own first: a half-written pair must not spoil the one in use
            self._load(files)
            self.password = password
        except (ConfigError, OSError, ssl.SSLError) as e:
            log.warning("new certificates or password not used, the old ones stay: %s", e)
            return False
        log.info("new certificates or password loaded")
        return True

    def _load(self, files: Publish) -> None:
        if self.context is None:
            return
        self.context.load_verify_locations(files.ca_file)
        if files.cert_file:
            self.context.load_cert_chain(files.cert_file, files.key_file, password=lambda: "")


def _stamps(files: Publish) -> list[tuple[int, int, int] | None]:
    return [_stamp(getattr(files, key)) for key in FILES]


def _stamp(name: str) -> tuple[int, int, int] | None:
    try:
        s = os.stat(name)
    except OSError:
        return None
    return s.st_mtime_ns, s.st_ino, s.st_size
