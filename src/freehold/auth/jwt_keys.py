"""An issuer's public keys: which of what it publishes can be used, which key a token is checked with, and the check.

For: control, which reads key sets (`read_key_set`), and gateway workers, which check signatures (`Keys`, `Signers`).
Pure. Not for fetching. Invariant: only a public key that its issuer publishes for signatures, and that is strong
enough, verifies anything, with an algorithm for keys of its kind: no shared secret, no key that comes with the token.

Sources: RFC 7515, 7517, 7518, 8037, 9864. The arithmetic is joserfc's.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, cast

import msgspec
from cryptography.exceptions import InvalidSignature
from joserfc import errors as jose
from joserfc import jwk, jws

from freehold.auth import jwt_form
from freehold.auth.jwt_refusals import TokenRefused, TokenUnreadable, UnknownKey
from freehold.auth.public_keys import PublicKey

_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_BY_CURVE: Final = {
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA", "Ed25519"),
}
_MEMBERS: Final = {"RSA": ("n", "e"), "EC": ("x", "y"), "OKP": ("x",)}
ALGORITHMS: Final = frozenset((*_RSA, *(name for names in _BY_CURVE.values() for name in names)))
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192
"""A check's cost grows with the square."""
MAX_EXPONENT_BITS: Final = 32
MAX_KEYS: Final = 64
"""Of one set. Beyond it the set is refused."""
MAX_KID_LENGTH: Final = 256
MAX_TRIES: Final = 8
"""Keys that may fit one token."""
MAX_REMEMBERED: Final = 32
MAX_REMEMBERED_BYTES: Final = 512
"""Of headers that are remembered with a set."""


class UnusableKeySet(Exception):
    """What was published is no key set that anything can be checked with. The message is for the log."""


# -- reading what is published ------------------------------------------------------------------------------------


def read_key_set(document: bytes) -> tuple[tuple[PublicKey, ...], list[str]]:
    """The usable keys of a JWK Set, in an order that does not depend on the document's, and why others are not.

    Raises UnusableKeySet.
    """
    try:
        found: Any = jwt_form.parse_json(document)
    except ValueError:
        raise UnusableKeySet("it is not JSON") from None
    published: Any = found.get("keys") if isinstance(found, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if not isinstance(published, list):
        raise UnusableKeySet("it has no list of keys")
    if len(published) > MAX_KEYS:  # pyright: ignore[reportUnknownArgumentType]
        raise UnusableKeySet(f"it has more than {MAX_KEYS} keys")
    keys: set[PublicKey] = set()
    unusable: list[str] = []
    for number, entry in enumerate(published):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        try:
            keys.add(_read_key(entry))
        except ValueError as reason:
            unusable.append(f"key {number}: {reason}")
    return tuple(sorted(keys, key=msgspec.json.encode)), unusable


def _read_key(entry: Any) -> PublicKey:
    """Raises ValueError, which says why the key can't be used."""
    if not isinstance(entry, dict):
        raise ValueError("not an object")
    said = cast(dict[str, Any], entry)
    kty, crv, kid = said.get("kty"), said.get("crv"), said.get("kid")
    if kid is not None and (not isinstance(kid, str) or len(kid) > MAX_KID_LENGTH):
        raise ValueError("its kid is no string, or too long")
    if said.get("use", "sig") != "sig":
        raise ValueError("not for signatures (use)")
    operations = said.get("key_ops")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        raise ValueError("not for checking signatures (key_ops)")
    fitting = _RSA if kty == "RSA" else _BY_CURVE.get((kty, crv)) if isinstance(crv, str) else None  # pyright: ignore[reportArgumentType]
    if not isinstance(kty, str) or fitting is None:
        raise ValueError("of a type or curve that is not supported")
    material = {name: said.get(name) for name in _MEMBERS[kty]}
    if not all(isinstance(value, str) for value in material.values()):
        raise ValueError("a part of it is missing")
    key = PublicKey(
        kty=kty,
        algorithms=_restricted(fitting, said.get("alg")),
        kid=kid,
        crv=None if kty == "RSA" else crv,
        **material,  # pyright: ignore[reportArgumentType]
    )
    if kty == "RSA":
        _check_rsa(key)
    _import(key)
    return key


def _restricted(fitting: tuple[str, ...], alg: Any) -> tuple[str, ...]:
    if alg is None:
        return fitting
    # One algorithm with two names (RFC 9864).
    named = fitting if alg in ("EdDSA", "Ed25519") else (alg,)
    allowed = tuple(name for name in fitting if name in named)
    if not allowed:
        raise ValueError("for another algorithm (alg)")
    return allowed


def _check_rsa(key: PublicKey) -> None:
    modulus, exponent = _number(key.n), _number(key.e)
    if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS:
        raise ValueError(f"its modulus has {modulus.bit_length()} bits")
    if exponent < 3 or exponent % 2 == 0 or exponent.bit_length() > MAX_EXPONENT_BITS:
        raise ValueError("its exponent is not sound")


def _number(text: str | None) -> int:
    assert text is not None
    data = text.encode("ascii", "replace")
    return int.from_bytes(base64.urlsafe_b64decode(data + b"=" * (-len(data) % 4)))


def _import(key: PublicKey) -> jwk.Key:
    document = {name: value for name in ("kty", "crv", "n", "e", "x", "y") if (value := getattr(key, name)) is not None}
    try:
        return jwk.import_key(document)
    except (jose.JoseError, ValueError, KeyError, TypeError):
        raise ValueError("it is no key") from None


# -- checking signatures ------------------------------------------------------------------------------------------


class Signers:
    """Those of an issuer's keys that may have signed a token with a certain header."""

    __slots__ = ("_algorithm", "_checks", "_is_named", "_kid")

    def __init__(self, algorithm: str, kid: str | None, fitting: Iterable[jwk.Key], *, is_named: bool) -> None:
        """Those that fit; `is_named` says whether any of the issuer's are named `kid`."""
        self._algorithm = algorithm
        self._kid = kid
        self._checks = [_check_with(key, algorithm) for key in fitting]
        self._is_named = is_named

    def check(self, message: bytes, encoded: bytes) -> None:
        """Raise TokenRefused unless one of them made the signature `encoded`; UnknownKey if one that is not known may
        have."""
        if self._checks:
            try:
                signature = jwt_form.decode(encoded, "signature")
            except TokenUnreadable:
                pass  # it is wrong
            else:
                for is_signed in self._checks:
                    if is_signed(message, signature):
                        return
        wanted = hashlib.sha256(repr((self._algorithm, self._kid)).encode()).digest()
        if self._kid is None:
            raise UnknownKey("no key made the signature", wanted=wanted)
        if not self._is_named:
            raise UnknownKey("kid names no key of the issuer", wanted=wanted)
        raise TokenRefused("signature is wrong" if self._checks else "the key that kid names is not for alg")


def _check_with(key: jwk.Key, algorithm: str) -> Callable[[bytes, bytes], bool]:
    """Whether `key`, which fits, made the signature of a message. joserfc does not read the token: that is done."""
    model: Any = jws.JWSRegistry.algorithms[algorithm]
    model.check_key(key)
    if not isinstance(key, jwk.RSAKey):
        return partial(model.verify, key=key)
    # As joserfc does it, with what it looks up and makes for each signature made once.
    verify, padding, digest = key.get_op_key("verify").verify, model.padding, model.hash_alg()

    def is_signed(message: bytes, signature: bytes) -> bool:
        try:
            verify(signature, message, padding, digest)
        except InvalidSignature:
            return False
        return True

    return is_signed


class Keys:
    """One generation of an issuer's keys, ready for use."""

    __slots__ = ("_by_kid", "_headers", "_keys", "generation", "issuer", "signers_by_header")

    def __init__(self, issuer: str, generation: str, keys: Iterable[PublicKey]) -> None:
        """Raises ValueError for a key that `read_key_set` would not have let through."""
        self.issuer = issuer
        self.generation = generation
        self._keys = [(key, _import(key)) for key in keys]
        self._by_kid: dict[str, list[tuple[PublicKey, jwk.Key]]] = {}
        for entry in self._keys:
            if entry[0].kid is not None:
                self._by_kid.setdefault(entry[0].kid, []).append(entry)
        self._headers: dict[bytes, Signers] = {}
        """By headers of good tokens, as sent: an issuer's are nearly all the same."""
        self.signers_by_header: Final = self._headers.get

    def signers(self, algorithm: str, kid: str | None) -> Signers:
        """Who may have signed a token whose header says this. Raises TokenRefused.

        A token that names a key is checked with keys of that name alone, whatever it names. One that names none is
        checked with every key that its algorithm fits. In either case there are at most MAX_TRIES, or it is refused.
        """
        named = self._keys if kid is None else self._by_kid.get(kid, [])
        fitting = [key for public, key in named if algorithm in public.algorithms]
        if len(fitting) > MAX_TRIES:
            raise TokenRefused("too many keys fit the token")
        return Signers(algorithm, kid, fitting, is_named=bool(named))

    def remember_header(self, header: bytes, signers: Signers) -> None:
        """A token with this header was signed by one of `signers`."""
        if len(header) <= MAX_REMEMBERED_BYTES:
            if len(self._headers) >= MAX_REMEMBERED:
                self._headers.clear()
            self._headers[header] = signers
