"""A fleet CA made by the shipped script, and a mosquitto with the shipped listener settings."""

from __future__ import annotations

import subprocess
from pathlib import Path

from mosquitto_broker import Mosquitto

SCRIPT = Path(__file__).parents[1] / "deploy" / "fleet-ca.sh"


def fleet_ca(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(SCRIPT), *args], capture_output=True, text=True, check=False, cwd=folder)


class Fleet:
    """``folder`` gets ca.crt, localhost.crt, and {device}.crt and .key of every device."""

    def __init__(self, folder: Path, *devices: str) -> None:
        self.folder = folder
        if (folder / "ca.key").exists():  # a copy
            return
        for args in (["ca"], ["server", "localhost", "127.0.0.1"], *(["device", d] for d in devices)):
            self.make(*args)

    def make(self, *args: str) -> None:
        done = fleet_ca(self.folder, str(self.folder), *args)
        assert done.returncode == 0, done.stderr

    def files(self, device: str) -> dict[str, str]:
        """As in [publish]."""
        f = self.folder
        return {"ca_file": f"{f}/ca.crt", "cert_file": f"{f}/{device}.crt", "key_file": f"{f}/{device}.key"}

    def listener(self) -> str:
        """What deploy/mosquitto.conf says of its listener, with this CA's files."""
        f, shipped = self.folder, (SCRIPT.parent / "mosquitto.conf").read_text()
        kept = [x for x in shipped.splitlines() if x.startswith(("require_", "use_identity", "tls_version", "allow_"))]
        files = [
            f"cafile {f}/ca.crt",
            f"certfile {f}/localhost.crt",
            f"keyfile {f}/localhost.key",
            f"crlfile {f}/ca.crl",
        ]
        return "\n".join([*files, *kept])


def secured(broker: Mosquitto, fleet: Fleet) -> Mosquitto:
    """``broker``, not yet started, asks for certificates from now on."""
    text = broker._config.read_text().replace("allow_anonymous true", "")
    listener, *rest = text.splitlines()
    broker._config.write_text("\n".join([listener, fleet.listener(), *rest]) + "\n")
    return broker
