"""An issuer of tokens for tests, and of what attackers make of them: of `cryptography` alone, without our own code."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ISSUER = "https://issuer.example/realms/one"
NOW = 1_795_000_000.0
CURVES: dict[str, tuple[Any, str, str, int]] = {
    "es256": (ec.SECP256R1(), "P-256", "ES256", 32),
    "es384": (ec.SECP384R1(), "P-384", "ES384", 48),
    "es512": (ec.SECP521R1(), "P-521", "ES512", 66),
    "es256k": (ec.SECP256K1(), "secp256k1", "ES256K", 32),
}
HASHES: dict[str, Any] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def part(value: Any) -> str:
    """A JSON value as a part of a token; text is taken as it is."""
    return b64((value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "surrogatepass"))


@functools.cache
def private_key(name: str) -> Any:
    """The test issuer's key of that name: `rsa`, `rsa-2`, `rsa-1024`, `es256`, `ed25519`, ... The same in one run."""
    kind = name.split("/")[0]
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, 1024 if kind == "rsa-1024" else 2048)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "ed448":
        return ed448.Ed448PrivateKey.generate()
    return ec.generate_private_key(CURVES[kind][0])


def public_jwk(name: str, **members: Any) -> dict[str, Any]:
    """The published form of a key, with the name as its kid. Members that are None are left out."""
    key, kind = private_key(name), name.split("/")[0]
    found: dict[str, Any] = {"kid": name, "use": "sig"}
    if kind.startswith("rsa"):
        numbers = key.public_key().public_numbers()
        n = numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8)
        found |= {"kty": "RSA", "n": b64(n), "e": "AQAB"}
    elif kind.startswith("ed"):
        raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        found |= {"kty": "OKP", "crv": kind.capitalize(), "x": b64(raw)}
    else:
        numbers, (_, crv, _, size) = key.public_key().public_numbers(), CURVES[kind]
        found |= {"kty": "EC", "crv": crv, "x": b64(numbers.x.to_bytes(size)), "y": b64(numbers.y.to_bytes(size))}
    return {member: value for member, value in (found | members).items() if value is not None}


def pem(name: str) -> bytes:
    return (
        private_key(name)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def signature(algorithm: str, key: Any, message: bytes) -> bytes:
    """As `algorithm` would have it, with `key`, which may be a secret (bytes) or of a kind that does not fit."""
    digest = HASHES.get(algorithm[2:5], hashes.SHA256())
    if isinstance(key, bytes):
        return hmac.digest(key, message, getattr(hashlib, f"sha{algorithm[2:]}"))
    if isinstance(key, rsa.RSAPrivateKey):
        if algorithm.startswith("PS"):
            pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
            return key.sign(message, pss, digest)
        return key.sign(message, padding.PKCS1v15(), digest)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(key.sign(message, ec.ECDSA(digest)))
        size = (key.key_size + 7) // 8
        return r.to_bytes(size) + s.to_bytes(size)
    return key.sign(message)


def token(header: Any, claims: Any, signer: str | bytes, algorithm: str | None = None) -> str:
    """A token of any header and claims, even of none that are right."""
    message = f"{part(header)}.{part(claims)}"
    key = signer if isinstance(signer, bytes) else private_key(signer)
    alg = algorithm or header.get("alg", "RS256")
    return f"{message}.{b64(signature(alg, key, message.encode()))}"


def merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """`base` with the members of `more`; None takes one away."""
    return {name: value for name, value in (base | more).items() if value is not None}
