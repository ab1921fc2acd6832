"""The birth document: what runs here, told at every connection and at every change."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from edgefer import messages
from edgefer.bundle import Bundle
from edgefer.config import Config
from edgefer.messages import Meta
from edgefer.stamp import Stamper
from edgefer.types import Lens


class Birth:
    """``bundle`` and ``rate_hz`` are those of now: a reload changes both, ``cmd/rate`` the second. One thread."""

    def __init__(self, config: Config, bundle: Bundle, stamper: Stamper, lenses: Sequence[Lens]) -> None:
        self._capture, self._stamper, self._lenses = config.capture, stamper, lenses
        self.bundle, self.rate_hz = bundle, config.publish.rate_hz

    def __call__(self) -> Meta:
        m = self.bundle.manifest
        return self._stamper.message(
            Meta,
            software=f"edgefer {version()}",
            bundle=messages.BundleInfo(name=m.name, version=m.version, sha256=self.bundle.sha256),
            labels=tuple(m.labels),
            schemas=tuple(messages.schema_id(kind) for kind in messages.MESSAGES),
            cameras=tuple(f"{self._capture.kind} {lens.value}" for lens in self._lenses),
            limits={"state_rate_hz": self.rate_hz, "lost_after_s": self._capture.lost_s},
        )


def version() -> str:
    try:
        return metadata.version("edgefer")
    except metadata.PackageNotFoundError:
        return "unknown"
