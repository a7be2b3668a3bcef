"""Seals what must not lie about in the clear: the secrets of access keys, with AES-256-GCM.

Not for passwords (nothing here is a password) and not a place where secrets are kept: the store keeps what is sealed
here, the key lies in a file elsewhere, so that a copy of the database alone tells nothing. Invariant: a store whose
secrets were sealed with one key is never opened with another.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from freehold.store.base import StoreRefused

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_SEAL_TEXT: Final = "freehold vault"
_SEAL_NAME: Final = "store seal"


class Sealed(Protocol):
    """The part of a store that remembers whose key sealed it."""

    def get_seal(self) -> bytes | None: ...

    def set_seal(self, seal: bytes) -> None: ...


class Vault:
    """One master key. Use `open_vault`."""

    def __init__(self, master_key: bytes) -> None:
        if len(master_key) != KEY_BYTES:
            raise ValueError(f"a master key has {KEY_BYTES} bytes")
        self._master = master_key
        self._cipher = AESGCM(self.derive("secrets"))

    def __repr__(self) -> str:
        return "Vault(...)"

    def seal(self, secret: str, *, name: str) -> bytes:
        """Encrypt `secret` so that it opens only under the same `name` (an access key id): nonce + ciphertext."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret.encode(), name.encode())

    def unseal(self, sealed: bytes, *, name: str) -> str:
        """The secret again. Raises StoreRefused when the key, the name or the data is not the same."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode()).decode()
        except (InvalidTag, ValueError):
            raise StoreRefused(f"the sealed secret of {name} does not open: it was changed, or moved here") from None

    def derive(self, purpose: str) -> bytes:
        """A key of 32 bytes for another use, that tells nothing about the master key."""
        return HKDF(SHA256(), KEY_BYTES, salt=None, info=f"freehold {purpose}".encode()).derive(self._master)


def open_vault(key_file: Path, database: Path, store: Sealed) -> Vault:
    """The vault of `store`, whose file is `database`; makes the key for a new store.

    Raises StoreRefused when the key is missing, is not this store's, may be read by others, or lies beside the
    database, where one backup would take both.
    """
    directory = database.resolve().parent
    if key_file.resolve().is_relative_to(directory):
        raise StoreRefused(f"the master key {key_file} must not lie in the database's directory {directory}")
    seal = store.get_seal()
    if seal is None:
        if not key_file.exists():
            _make_key(key_file)
        vault = Vault(_read_key(key_file))
        store.set_seal(vault.seal(_SEAL_TEXT, name=_SEAL_NAME))
        return vault
    if not key_file.exists():
        raise StoreRefused(
            f"the master key {key_file} is missing, and without it the access keys in {database} can't be read: "
            "restore the key file"
        )
    vault = Vault(_read_key(key_file))
    try:
        proof = vault.unseal(seal, name=_SEAL_NAME)
    except StoreRefused:
        proof = ""
    if proof != _SEAL_TEXT:
        raise StoreRefused(
            f"the master key {key_file} is not the one that sealed {database}: restore the key file that belongs to it"
        )
    return vault


def _read_key(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise StoreRefused(f"the master key {path} can't be read: {error.strerror}") from error
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise StoreRefused(f"the master key {path} is not a regular file")
        if status.st_mode & 0o077:
            raise StoreRefused(f"the master key {path} may be read by others: chmod 600 {path}")
        key = file.read(KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        raise StoreRefused(f"the master key {path} does not hold {KEY_BYTES} bytes")
    return key


def _make_key(path: Path) -> None:
    # Written under another name and linked, so that a crash leaves either no key or a whole one.
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(fd)
        os.link(unfinished, path)
    finally:
        unfinished.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
