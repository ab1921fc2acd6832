"""The signed release of a bundle: which number it has in the order of updates, and who vouches for it.

    release.json   number, name, version and the sha256 of manifest.json, which holds those of all other files
    release.sig    Ed25519 over CONTEXT + release.json, 128 hexadecimal digits and a newline

Devices only verify: the signing half is the workstation's (``python -m export keygen``, ``sign``), so no device carries
code or key that could vouch for a bundle. The bundle inside the package needs no release: it is part of the package.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgefer.bundle import MANIFEST, MANIFEST_HASH, Sha256, file_sha256
from edgefer.errors import BundleError, ConfigError, ServiceError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

RELEASE = "release.json"
SIGNATURE = "release.sig"
CONTEXT = b"edgefer bundle release 1\0"
"""what the key signs here it signs nowhere else"""
MAX_BYTES = 4096
NAME = re.compile(r"[a-z0-9-]{1,32}@\d{1,9}\.\d{1,9}\.\d{1,9}")
"""a bundle's title, which is also its folder's name in the store"""


class Release(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    schema_version: Literal[1]
    number: int = Field(ge=1, lt=2**53)
    """rises with every release of a fleet, whatever the version says"""
    name: str = Field(pattern=r"^[a-z0-9-]{1,32}$")
    version: str = Field(pattern=r"^\d{1,9}\.\d{1,9}\.\d{1,9}$")
    manifest_sha256: Sha256

    @property
    def title(self) -> str:
        return f"{self.name}@{self.version}"


class Keys:
    """The public keys a device trusts: two slots, so that a fleet can move to a new key without a gap."""

    def __init__(self, files: Iterable[str]) -> None:
        """PEM files of the slots; an empty name is an empty slot. Raises ConfigError naming the slot."""
        self._keys = [_load(f"update.key_{slot}", name) for slot, name in enumerate(files, 1) if name]

    def __len__(self) -> int:
        return len(self._keys)

    def vouch(self, signature: bytes, data: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature

        for key in self._keys:
            try:
                key.verify(signature, data)
            except InvalidSignature:
                continue
            return True
        return False


def verify(folder: Path, keys: Keys) -> Release:
    """The release of the bundle in ``folder``: signed by a trusted key and about this very manifest.

    What the manifest lists is not looked at (``bundle.open_bundle`` does). Raises BundleError.
    """
    data, signature = _read(folder / RELEASE), _signature(folder / SIGNATURE)
    if not keys:
        raise BundleError(f"{folder}: no key to check its signature with; set 'update.key_1'")
    if not keys.vouch(signature, CONTEXT + data):
        raise BundleError(
            f"{folder / RELEASE}: not signed by a key this device trusts ('update.key_1', 'update.key_2')"
        )
    try:
        release = Release.model_validate_json(data)
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        raise BundleError(f"{folder / RELEASE}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    _about(folder, release)
    return release


def _about(folder: Path, release: Release) -> None:
    try:
        actual, noted = file_sha256(folder / MANIFEST), (folder / MANIFEST_HASH).read_bytes()
    except OSError as e:
        raise BundleError(f"{e.filename}: {e.strerror}; copy the bundle again") from None
    if actual != release.manifest_sha256 or noted != f"{actual}\n".encode():
        raise BundleError(f"{folder / MANIFEST}: not the manifest that was signed; copy the bundle again")


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as f:
            data = f.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise BundleError(f"{file}: not found, the bundle is not signed; `python -m export sign` does it") from None
    except OSError as e:
        raise BundleError(f"{file}: {e.strerror}") from None
    if len(data) > MAX_BYTES:
        raise BundleError(f"{file}: larger than {MAX_BYTES} bytes; copy the bundle again")
    return data


def _signature(file: Path) -> bytes:
    data = _read(file)
    if not re.fullmatch(rb"[0-9a-f]{128}\n", data):  # one form only: what differs in a byte is another file
        raise BundleError(f"{file}: not a signature; copy the bundle again")
    return bytes.fromhex(data.decode())


def _load(key: str, name: str) -> Ed25519PublicKey:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise ServiceError("signed bundles need cryptography: pip install cryptography") from None
    try:
        loaded = load_pem_public_key(Path(name).read_bytes())
    except OSError as e:
        raise ConfigError(f"'{key}': {name}: {e.strerror}") from None
    except ValueError:
        raise ConfigError(
            f"'{key}': {name}: not a public key in PEM; it is the update.pub of `export keygen`"
        ) from None
    if not isinstance(loaded, Ed25519PublicKey):
        raise ConfigError(f"'{key}': {name}: not an Ed25519 key; `python -m export keygen` makes one")
    return loaded
