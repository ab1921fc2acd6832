"""``python -m export keygen`` and ``sign``: the workstation's half of signed bundles; devices only verify.

The private key stays here, in a file only its owner reads, with a passphrase where one is given. Losing it means moving
the fleet to the other key slot; leaking it means that anybody can release: see the README's update section.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgefer.bundle import MANIFEST, file_sha256, open_bundle
from edgefer.release import CONTEXT, RELEASE, SIGNATURE, Release
from export.errors import InputError, UsageError

PRIVATE, PUBLIC = "update.key", "update.pub"
_PEM = serialization.Encoding.PEM


def keygen(folder: Path, passphrase_file: Path | None = None) -> None:
    """``update.key`` (0600) and ``update.pub`` in ``folder``. Raises UsageError when there are keys already."""
    secret, private = _passphrase(passphrase_file), Ed25519PrivateKey.generate()
    lock = serialization.BestAvailableEncryption(secret) if secret else serialization.NoEncryption()
    pem = private.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, lock)
    public = private.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with open(os.open(folder / PRIVATE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
    except FileExistsError:
        raise UsageError(f"{folder / PRIVATE}: is there already; a new key belongs in a new folder") from None
    (folder / PUBLIC).write_bytes(public)


def sign(bundle: Path, number: int, key: Path, passphrase_file: Path | None = None) -> Release:
    """Write ``release.json`` and ``release.sig`` into a bundle that opens. Raises InputError, BundleError."""
    private, opened = _private(key, _passphrase(passphrase_file)), open_bundle(bundle)
    release = Release(
        schema_version=1, number=number, name=opened.manifest.name, version=opened.manifest.version,
        manifest_sha256=file_sha256(bundle / MANIFEST),
    )  # fmt: skip
    data = (json.dumps(release.model_dump(), indent=1) + "\n").encode()
    (bundle / SIGNATURE).unlink(missing_ok=True)  # never an old signature beside a new release
    (bundle / RELEASE).write_bytes(data)
    (bundle / SIGNATURE).write_text(private.sign(CONTEXT + data).hex() + "\n", encoding="ascii")
    return release


def _private(key: Path, passphrase: bytes | None) -> Ed25519PrivateKey:
    try:
        loaded = serialization.load_pem_private_key(key.read_bytes(), passphrase)
    except OSError as e:
        raise InputError(f"{key}: {e.strerror}; `python -m export keygen` makes a key") from None
    except TypeError:
        need = "is not encrypted, leave --passphrase-file out" if passphrase else "needs --passphrase-file"
        raise InputError(f"{key}: {need}") from None
    except ValueError:
        raise InputError(f"{key}: not a private key in PEM, or another passphrase") from None
    if not isinstance(loaded, Ed25519PrivateKey):
        raise InputError(f"{key}: not an Ed25519 key; `python -m export keygen` makes one")
    return loaded


def _passphrase(file: Path | None) -> bytes | None:
    if file is None:
        return None
    try:
        words = file.read_bytes().splitlines()
    except OSError as e:
        raise InputError(f"{file}: {e.strerror}") from None
    if not words or not words[0]:
        raise InputError(f"{file}: its first line is empty")
    return words[0]
