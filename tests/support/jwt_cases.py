"""Attacks on JWT runtimes, and their near misses that are good: one table, for the pure check and for the wire.

A case is a request: a token of the issuer's with a difference, and how it is sent. `status` is the right answer.
Runtimes differ in their authorizers (AUTHORIZERS); all of them trust one issuer, whose published keys are KEY_SET.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jwt_tokens
from jwt_tokens import ISSUER, NOW, b64, merged, part, pem, public_jwk

MISSING = "Missing Authentication Token"
UNREADABLE = "OAuth authorization failed: Failed to parse token"
NOT_GOOD = "Authentication error - Invalid credentials"
OTHER_METHOD = "Authorization method mismatch."


def rule(name: str, kind: str, operator: str, value: str | list[str]) -> dict[str, Any]:
    member = "matchValueString" if isinstance(value, str) else "matchValueStringList"
    return {
        "inboundTokenClaimName": name,
        "inboundTokenClaimValueType": kind,
        "authorizingClaimMatchValue": {"claimMatchValue": {member: value}, "claimMatchOperator": operator},
    }


AUTHORIZERS: dict[str, dict[str, Any]] = {
    "clients": {"allowedClients": ["web-app", "worker"]},
    "audience": {"allowedAudience": ["https://api.example", "agents"]},
    "scopes": {"allowedScopes": ["agents/invoke", "agents:read"]},
    "equals": {"customClaims": [rule("department", "STRING", "EQUALS", "research")]},
    "contains": {"customClaims": [rule("cognito:groups", "STRING_ARRAY", "CONTAINS", "agents")]},
    "any": {"customClaims": [rule("roles", "STRING_ARRAY", "CONTAINS_ANY", ["admin", "operator"])]},
    "all": {
        "allowedAudience": ["agents"],
        "allowedClients": ["web-app"],
        "allowedScopes": ["agents/invoke"],
        "customClaims": [
            rule("department", "STRING", "EQUALS", "research"),
            rule("roles", "STRING_ARRAY", "CONTAINS_ANY", ["admin", "operator"]),
        ],
    },
}
"""customJWTAuthorizer without discoveryUrl."""

GOOD: dict[str, dict[str, Any]] = {
    "clients": {"client_id": "web-app"},
    "audience": {"aud": "agents"},
    "scopes": {"scope": "openid agents/invoke"},
    "equals": {"department": "research"},
    "contains": {"cognito:groups": ["people", "agents"]},
    "any": {"roles": ["operator"]},
    "all": {
        "aud": ["other", "agents"],
        "client_id": "web-app",
        "scope": "agents/invoke",
        "department": "research",
        "roles": ["admin"],
    },
}
"""Claims that meet each of them."""

KEY_SET: dict[str, Any] = {
    "keys": [
        public_jwk("rsa"),
        public_jwk("rsa-2", alg="RS256"),
        public_jwk("rsa-3", alg="PS256"),
        public_jwk("rsa-ops", use=None, key_ops=["verify"]),
        public_jwk("rsa-enc", use="enc"),
        public_jwk("rsa-wrap", use=None, key_ops=["wrapKey", "encrypt"]),
        public_jwk("rsa-1024"),
        public_jwk("es256"),
        public_jwk("es384"),
        public_jwk("es512"),
        public_jwk("ed25519"),
        public_jwk("es256k"),
        public_jwk("ed448"),
        public_jwk("es256/no-kid", kid=None),
        {"kty": "oct", "kid": "shared", "k": b64(b"a shared secret of thirty-two byte"), "alg": "HS256"},
        public_jwk("rsa/exponent-1", e="AQ"),
        {"kty": "EC", "crv": "P-256", "kid": "off-curve", "x": b64(b"\x01" * 32), "y": b64(b"\x02" * 32)},
        {"kty": "RSA", "kid": "torn", "n": "!!!", "e": "AQAB"},
        {"kid": "empty"},
        "no key at all",
    ]
}
"""What the issuer publishes: as untidy as in the field."""


@dataclass(frozen=True)
class Case:
    """`claims` and `header` are merged into good ones. `alter` makes of the token what is sent, `send` the headers."""

    name: str
    status: int = 200
    runtime: str = "clients"
    claims: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    signer: str | bytes = "rsa"
    algorithm: str | None = None
    raw_claims: str | None = None
    raw_header: str | None = None
    alter: Callable[[str], str] | None = None
    send: Callable[[str], list[tuple[str, str]]] | None = None
    query: str = ""
    says: str | None = None

    def token(self) -> str:
        header = self.raw_header or merged({"alg": "RS256", "kid": "rsa", "typ": "JWT"}, self.header)
        base = {"iss": ISSUER, "sub": "user-1", "iat": NOW - 5, "exp": NOW + 3600, **GOOD[self.runtime]}
        claims = self.raw_claims or merged(base, self.claims)
        made = jwt_tokens.token(header, claims, self.signer, self.algorithm or self.header.get("alg", "RS256"))
        return made if self.alter is None else self.alter(made)

    def headers(self) -> list[tuple[str, str]]:
        if self.send is not None:
            return self.send(self.token())
        return [("Authorization", f"Bearer {self.token()}")]


# -- what attackers do to tokens -----------------------------------------------------------------------------------


def parts_of(token: str) -> list[str]:
    return token.split(".")


def with_part(number: int, change: Callable[[str], str]) -> Callable[[str], str]:
    def alter(token: str) -> str:
        parts = parts_of(token)
        parts[number] = change(parts[number])
        return ".".join(parts)

    return alter


def flipped(number: int, at: int) -> Callable[[str], str]:
    """One bit of one decoded part."""

    def change(text: str) -> str:
        data = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        data[at] ^= 1
        return b64(bytes(data))

    return with_part(number, change)


def claim_set(**claims: Any) -> Callable[[str], str]:
    """Claims changed after signing."""

    def change(text: str) -> str:
        found = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return part(found | claims)

    return with_part(1, change)


def header_set(**header: Any) -> Callable[[str], str]:
    def change(text: str) -> str:
        found = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return part(merged(found, header))

    return with_part(0, change)


def loose_end(text: str) -> str:
    """The same bytes, another last character: bits that decoders ignore are set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert len(text) % 4 in (2, 3), "every bit of it counts"
    return text[:-1] + alphabet[alphabet.index(text[-1]) + 1]


def padded(text: str) -> str:
    return text + "=" * (-len(text) % 4 or 4)


def der_signature(token: str) -> str:
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    parts = parts_of(token)
    raw = base64.urlsafe_b64decode(parts[2] + "==")
    half = len(raw) // 2
    der = encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))
    return ".".join([*parts[:2], b64(der)])


def bearer(*values: str) -> Callable[[str], list[tuple[str, str]]]:
    """Authorization headers; {} is the token."""
    return lambda token: [("Authorization", value.replace("{}", token)) for value in values]


def none_token(alg: str, *, signed: bool = False) -> Callable[[str], str]:
    def alter(token: str) -> str:
        _, claims, signature = parts_of(token)
        return f"{part({'alg': alg, 'kid': 'rsa'})}.{claims}.{signature if signed else ''}"

    return alter


def json_form(token: str) -> str:
    header, claims, signature = parts_of(token)
    return b64(json.dumps({"protected": header, "payload": claims, "signature": signature}).encode())


def embedded(signer: str) -> dict[str, Any]:
    return {"jwk": public_jwk(signer), "kid": signer}


SECRET = b"a shared secret of thirty-two byte"

ALGORITHM_ATTACKS = [
    Case("alg none without a signature", 401, alter=none_token("none")),
    Case("alg none with the signature kept", 401, alter=none_token("none", signed=True), says=NOT_GOOD),
    Case("alg None in another case", 401, alter=none_token("None", signed=True)),
    Case("alg NONE in another case", 401, alter=none_token("NONE", signed=True)),
    Case("alg nOnE and an empty signature", 401, alter=none_token("nOnE")),
    Case("alg of spaces", 401, alter=none_token(" ", signed=True)),
    Case("no alg", 401, header={"alg": None}, algorithm="RS256"),
    Case("alg is null", 401, raw_header='{"alg": null, "kid": "rsa"}', algorithm="RS256"),
    Case("alg is a list", 401, header={"alg": ["RS256"]}, algorithm="RS256"),
    Case("alg is a number", 401, header={"alg": 256}, algorithm="RS256"),
    Case("HS256 with the public key as its secret", 401, header={"alg": "HS256"}, signer=pem("rsa")),
    Case("HS256 with the public key without its last line end", 401, header={"alg": "HS256"}, signer=pem("rsa")[:-1]),
    Case("HS384 with the public key as its secret", 401, header={"alg": "HS384"}, signer=pem("rsa")),
    Case("HS512 with the public key as its secret", 401, header={"alg": "HS512"}, signer=pem("rsa")),
    Case(
        "HS256 with the key's modulus as its secret",
        401,
        header={"alg": "HS256"},
        signer=public_jwk("rsa")["n"].encode(),
    ),
    Case("HS256 with an empty secret", 401, header={"alg": "HS256"}, signer=b""),
    Case("HS256 with a secret that the issuer publishes", 401, header={"alg": "HS256", "kid": "shared"}, signer=SECRET),
    Case("rs256 in small letters", 401, header={"alg": "rs256"}, algorithm="RS256"),
    Case("RS1, with SHA-1", 401, header={"alg": "RS1"}, algorithm="RS256"),
    Case("ES256K, of a curve that is not for this", 401, header={"alg": "ES256K", "kid": "es256k"}, signer="es256k"),
    Case("ES256 that is of secp256k1", 401, header={"alg": "ES256", "kid": "es256k"}, signer="es256k"),
    Case("EdDSA with Ed448", 401, header={"alg": "EdDSA", "kid": "ed448"}, signer="ed448"),
    Case("Ed448 by its own name", 401, header={"alg": "Ed448", "kid": "ed448"}, signer="ed448"),
    Case("PS256 said of an RS256 signature", 401, header={"alg": "PS256"}, algorithm="RS256"),
    Case("RS256 said of a PS256 signature", 401, header={"alg": "RS256"}, algorithm="PS256"),
    Case("RS256 said of an RS512 signature", 401, header={"alg": "RS256"}, algorithm="RS512"),
    Case("ES256 said with an RSA key's name", 401, header={"alg": "ES256"}, signer="es256"),
    Case("RS256 said with an EC key's name", 401, header={"kid": "es256"}),
    Case("ES384 said with a P-256 key's name", 401, header={"alg": "ES384", "kid": "es256"}, signer="es256"),
    Case("RS384 with a key for RS256 alone", 401, header={"alg": "RS384", "kid": "rsa-2"}, signer="rsa-2"),
    Case("RS256 with a key for PS256 alone", 401, header={"kid": "rsa-3"}, signer="rsa-3"),
]

KEY_ATTACKS = [
    Case("a stranger's key", 401, signer="rsa/stranger"),
    Case("a stranger's key and its name", 401, header={"kid": "rsa/stranger"}, signer="rsa/stranger"),
    Case("a key of the issuer under another one's name", 401, signer="rsa-2"),
    Case("a kid in another case", 401, header={"kid": "RSA"}),
    Case("a kid with a space behind it", 401, header={"kid": "rsa "}),
    Case("an empty kid", 401, header={"kid": ""}),
    Case("a kid that is a path", 401, header={"kid": "../../../../dev/null"}, signer="rsa/stranger"),
    Case("a kid that is SQL", 401, header={"kid": "' UNION SELECT 'secret' -- "}, signer="rsa/stranger"),
    Case("a kid that is a URL", 401, header={"kid": "https://evil.example/key"}, signer="rsa/stranger"),
    Case("a kid that is a list", 401, header={"kid": ["rsa"]}),
    Case("a kid that is a number", 401, header={"kid": 0}),
    Case("a kid that is null", 401, raw_header='{"alg": "RS256", "kid": null}', algorithm="RS256"),
    Case("a kid of NUL", 401, header={"kid": "rsa\0"}),
    Case("no kid, a stranger's key", 401, header={"kid": None}, signer="rsa/stranger"),
    Case("a key that is too weak", 401, header={"kid": "rsa-1024"}, signer="rsa-1024"),
    Case("a key for encryption", 401, header={"kid": "rsa-enc"}, signer="rsa-enc"),
    Case("a key whose operations are others", 401, header={"kid": "rsa-wrap"}, signer="rsa-wrap"),
    Case("a key with the exponent 1", 401, header={"kid": "rsa/exponent-1"}, signer="rsa/exponent-1"),
    Case("a key that is on no curve", 401, header={"alg": "ES256", "kid": "off-curve"}, signer="es256"),
    Case("a key in the token (jwk)", 401, header=embedded("rsa/stranger"), signer="rsa/stranger"),
    Case(
        "a key in the token, under a name of the issuer's",
        401,
        header={"jwk": public_jwk("rsa/stranger", kid="rsa")},
        signer="rsa/stranger",
    ),
    Case(
        "a key in the token and no name",
        401,
        header={"jwk": public_jwk("rsa/stranger"), "kid": None},
        signer="rsa/stranger",
    ),
    Case("an address of keys (jku)", 401, header={"jku": "https://evil.example/jwks"}, signer="rsa/stranger"),
    Case("an address of a certificate (x5u)", 401, header={"x5u": "https://evil.example/c"}, signer="rsa/stranger"),
    Case("a certificate in the token (x5c)", 401, header={"x5c": [b64(b"certificate")]}, signer="rsa/stranger"),
    Case("a thumbprint in the place of a name", 401, header={"kid": None, "x5t": "abc"}, signer="rsa/stranger"),
]

FORM_ATTACKS = [
    Case("a bit of the signature flipped at its beginning", 401, alter=flipped(2, 0)),
    Case("a bit of the signature flipped at its end", 401, alter=flipped(2, -1)),
    Case("the signature's last character, where it does not count", 401, alter=with_part(2, loose_end)),
    Case("the signature with padding", 401, alter=with_part(2, padded)),
    Case("the claims with padding", 403, alter=with_part(1, padded)),
    Case("a signature cut short", 401, alter=with_part(2, lambda text: text[:-4])),
    Case("half of a signature", 401, alter=with_part(2, lambda text: text[: len(text) // 8 * 4])),
    Case("no signature", 401, alter=with_part(2, lambda _: "")),
    Case("a signature of zeros", 401, alter=with_part(2, lambda _: b64(bytes(256)))),
    Case(
        "an ES256 signature of zeros",
        401,
        header={"alg": "ES256", "kid": "es256"},
        signer="es256",
        alter=with_part(2, lambda _: b64(bytes(64))),
    ),
    Case(
        "an ES256 signature in DER", 401, header={"alg": "ES256", "kid": "es256"}, signer="es256", alter=der_signature
    ),
    Case(
        "another's signature",
        401,
        alter=lambda token: ".".join([*parts_of(token)[:2], parts_of(Case("x", claims={"sub": "other"}).token())[2]]),
    ),
    Case("a claim changed after signing", 401, alter=claim_set(sub="admin")),
    Case("exp moved after signing", 401, claims={"exp": NOW - 60}, alter=claim_set(exp=NOW + 3600)),
    Case("a header added after signing", 401, alter=header_set(x="y")),
    Case("kid moved after signing", 401, alter=header_set(kid="rsa-2")),
    Case("claims with characters of the other alphabet", 403, alter=with_part(1, lambda text: "+/" + text[2:])),
    Case("a token cut in its claims", 403, alter=lambda token: token[:120]),
    Case("a token without its last part", 403, alter=lambda token: token.rpartition(".")[0]),
    Case("a token of two dots alone", 403, alter=lambda _: ".."),
    Case("a token of four parts", 403, alter=lambda token: token + ".e30"),
    Case("an encrypted token's five parts", 403, alter=lambda token: token + ".e30.e30"),
    Case("a token of no parts", 403, alter=lambda _: "0123456789abcdef"),
    Case("a signed token in JSON form", 403, alter=json_form),
    Case("a token with a space inside", 403, alter=lambda token: token[:40] + " " + token[40:]),
    Case("a signature with characters of the other alphabet", 401, alter=with_part(2, lambda text: "+/" + text[2:])),
    Case("claims that are no JSON", 403, raw_claims="{not json"),
    Case("claims that are a list", 403, raw_claims='["a"]'),
    Case("claims that are a string", 403, raw_claims='"https://issuer.example"'),
    Case("claims in UTF-16", 403, alter=with_part(1, lambda _: b64('{"sub": "x"}'.encode("utf-16")))),
    Case(
        "claims with a member twice",
        403,
        raw_claims=json.dumps({"iss": ISSUER, "exp": NOW + 60})[:-1]
        + ', "client_id": "other", "client_id": "web-app"}',
    ),
    Case(
        "a header with a member twice",
        403,
        raw_header='{"alg": "none", "kid": "rsa", "alg": "RS256"}',
        algorithm="RS256",
    ),
    Case("a header that is no JSON", 403, raw_header="{", algorithm="RS256"),
    Case("a header that is a list", 403, raw_header='["RS256"]', algorithm="RS256"),
    Case("claims nested a thousand times", 403, raw_claims="[" * 4000),
    Case("a number that never ends", 403, raw_claims='{"exp": ' + "9" * 5000 + "}"),
    Case("a token of 16 KiB", 403, claims={"filler": "x" * 16_384}),
    Case("a header of 5 KiB", 403, header={"filler": "x" * 5000}),
    Case("an unknown critical extension", 401, header={"crit": ["urn:example"], "urn:example": True}),
    Case("crit that names b64, and b64 false", 401, header={"crit": ["b64"], "b64": False}),
    Case("an empty crit", 401, header={"crit": []}),
    Case("crit that is null", 401, raw_header='{"alg": "RS256", "kid": "rsa", "crit": null}', algorithm="RS256"),
    Case("a proof of possession in the place of a token", 401, header={"typ": "dpop+jwt"}),
    Case("a logout token", 401, header={"typ": "logout+jwt"}),
    Case("a security event", 401, header={"typ": "application/secevent+JWT"}),
]

TIME_ATTACKS = [
    Case("expired a minute ago", 401, claims={"exp": NOW - 60}, says=NOT_GOOD),
    Case("expired a second beyond the skew", 401, claims={"exp": NOW - 11}),
    Case("expired years ago", 401, claims={"exp": 0}),
    Case("expired before 1970", 401, claims={"exp": -1}),
    Case("no exp", 401, claims={"exp": None}),
    Case("exp is null", 401, raw_claims=json.dumps({"iss": ISSUER, "exp": None, "client_id": "web-app"})),
    Case("exp is a string", 401, claims={"exp": str(NOW + 3600)}),
    Case("exp is true", 401, claims={"exp": True}),
    Case("exp is a list", 401, claims={"exp": [NOW + 3600]}),
    Case(
        "exp is infinite", 401, raw_claims=json.dumps({"iss": ISSUER, "client_id": "web-app"})[:-1] + ', "exp": 1e999}'
    ),
    Case(
        "exp is Infinity",
        403,
        raw_claims=json.dumps({"iss": ISSUER, "client_id": "web-app"})[:-1] + ', "exp": Infinity}',
    ),
    Case("exp is NaN", 403, raw_claims=json.dumps({"iss": ISSUER, "client_id": "web-app"})[:-1] + ', "exp": NaN}'),
    Case(
        "exp beyond all numbers",
        401,
        raw_claims=json.dumps({"iss": ISSUER, "client_id": "web-app"})[:-1] + ', "exp": 1' + "0" * 400 + "}",
    ),
    Case("not valid for an hour", 401, claims={"nbf": NOW + 3600}),
    Case("not valid for a second beyond the skew", 401, claims={"nbf": NOW + 11}),
    Case("nbf is a string", 401, claims={"nbf": "0"}),
    Case("issued in an hour", 401, claims={"iat": NOW + 3600}),
    Case("iat is a string", 401, claims={"iat": "yesterday"}),
]

ISSUER_ATTACKS = [
    Case("the issuer with a slash behind it", 401, claims={"iss": ISSUER + "/"}),
    Case("the issuer in another case", 401, claims={"iss": ISSUER.upper()}),
    Case("the issuer over http", 401, claims={"iss": ISSUER.replace("https", "http")}),
    Case("the issuer with a port", 401, claims={"iss": ISSUER.replace(".example", ".example:443")}),
    Case("the issuer with something behind it", 401, claims={"iss": ISSUER + ".evil.example"}),
    Case("the issuer's beginning", 401, claims={"iss": ISSUER[:-1]}),
    Case("another realm of the issuer", 401, claims={"iss": ISSUER.replace("one", "two")}),
    Case("the issuer's path percent-encoded", 401, claims={"iss": ISSUER.replace("one", "%6fne")}),
    Case("a list with the issuer", 401, claims={"iss": [ISSUER]}),
    Case("no issuer", 401, claims={"iss": None}),
    Case("an empty issuer", 401, claims={"iss": ""}),
    Case("the issuer with a space", 401, claims={"iss": ISSUER + " "}),
    Case("sub is a number", 401, claims={"sub": 17}),
    Case("sub is a list", 401, claims={"sub": ["user-1"]}),
]

CLIENT_SAYS = "Claim 'client_id' value mismatch with configuration."
AUD_SAYS = "Claim 'aud' value mismatch with configuration."
SCOPE_SAYS = "Claim 'scope' value mismatch with configuration."

RULE_ATTACKS = [
    Case("another client", 401, claims={"client_id": "other"}, says=CLIENT_SAYS),
    Case("no client", 401, claims={"client_id": None}, says=CLIENT_SAYS),
    Case("the client as azp", 401, claims={"client_id": None, "azp": "web-app"}, says=CLIENT_SAYS),
    Case("the client as cid", 401, claims={"client_id": None, "cid": "web-app"}, says=CLIENT_SAYS),
    Case("the client as appid", 401, claims={"client_id": None, "appid": "web-app"}, says=CLIENT_SAYS),
    Case("the client as audience", 401, claims={"client_id": None, "aud": "web-app"}, says=CLIENT_SAYS),
    Case("the client in another case", 401, claims={"client_id": "Web-App"}, says=CLIENT_SAYS),
    Case("the client's beginning", 401, claims={"client_id": "web"}, says=CLIENT_SAYS),
    Case("a list of clients", 401, claims={"client_id": ["web-app"]}, says=CLIENT_SAYS),
    Case("the client with a space", 401, claims={"client_id": "web-app "}, says=CLIENT_SAYS),
    Case("another audience", 401, "audience", claims={"aud": "other"}, says=AUD_SAYS),
    Case("a list of other audiences", 401, "audience", claims={"aud": ["other", "agent"]}, says=AUD_SAYS),
    Case("an empty list of audiences", 401, "audience", claims={"aud": []}, says=AUD_SAYS),
    Case("no audience", 401, "audience", claims={"aud": None}, says=AUD_SAYS),
    Case("the audience with a slash behind it", 401, "audience", claims={"aud": "https://api.example/"}, says=AUD_SAYS),
    Case("audiences in one string", 401, "audience", claims={"aud": "agents other"}, says=AUD_SAYS),
    Case("the audience as a member", 401, "audience", claims={"aud": {"agents": True}}, says=AUD_SAYS),
    Case("a list with what is no audience", 401, "audience", claims={"aud": ["agents", 1]}, says=AUD_SAYS),
    Case("another scope", 401, "scopes", claims={"scope": "openid profile"}, says=SCOPE_SAYS),
    Case("no scope", 401, "scopes", claims={"scope": None}, says=SCOPE_SAYS),
    Case("the scope's beginning", 401, "scopes", claims={"scope": "agents/"}, says=SCOPE_SAYS),
    Case("the scope in another case", 401, "scopes", claims={"scope": "Agents/Invoke"}, says=SCOPE_SAYS),
    Case("scopes with commas", 401, "scopes", claims={"scope": "openid,agents/invoke"}, says=SCOPE_SAYS),
    Case("scopes with a tab", 401, "scopes", claims={"scope": "openid\tagents/invoke"}, says=SCOPE_SAYS),
    Case("the scope as scopes", 401, "scopes", claims={"scope": None, "scopes": ["agents/invoke"]}, says=SCOPE_SAYS),
    Case("a list of scp with what is no scope", 401, "scopes", claims={"scope": None, "scp": ["agents/invoke", 1]}),
    Case("another department", 401, "equals", claims={"department": "sales"}, says="Authorization denied"),
    Case("no department", 401, "equals", claims={"department": None}, says="Authorization denied"),
    Case("a list of the department", 401, "equals", claims={"department": ["research"]}),
    Case("the department in another case", 401, "equals", claims={"department": "Research"}),
    Case("more than the department", 401, "equals", claims={"department": "research-and-development"}),
    Case("other groups", 401, "contains", claims={"cognito:groups": ["people"]}, says="Authorization denied"),
    Case("a group with it in its name", 401, "contains", claims={"cognito:groups": ["agents-readers"]}),
    Case("a string in the place of the groups", 401, "contains", claims={"cognito:groups": "agents"}),
    Case("no groups", 401, "contains", claims={"cognito:groups": []}),
    Case("other roles", 401, "any", claims={"roles": ["reader"]}, says="Authorization denied"),
    Case("roles that are a string", 401, "any", claims={"roles": "admin"}),
    Case("roles with what is none", 401, "any", claims={"roles": ["admin", {}]}),
    Case("all but the audience", 401, "all", claims={"aud": "other"}, says=AUD_SAYS),
    Case("all but the client", 401, "all", claims={"client_id": "worker"}, says=CLIENT_SAYS),
    Case("all but the scope", 401, "all", claims={"scope": "agents:read"}, says=SCOPE_SAYS),
    Case("all but one of the claims", 401, "all", claims={"roles": []}, says="Authorization denied"),
    Case("all but two", 401, "all", claims={"aud": None, "client_id": None}, says=f"{AUD_SAYS} {CLIENT_SAYS}"),
    Case("a token for the runtime beside it", 401, "audience", claims={"aud": None, **GOOD["clients"]}),
    Case("a token for the runtime with scopes", 401, claims={"client_id": None, **GOOD["scopes"]}),
]

SENDING_ATTACKS = [
    Case("no Authorization", 401, send=lambda _: [], says=MISSING),
    Case("an empty Authorization", 401, send=bearer(""), says=MISSING),
    Case("Bearer and nothing else", 403, send=bearer("Bearer"), says=UNREADABLE),
    Case("the token twice", 403, send=bearer("Bearer {}", "Bearer {}"), says=UNREADABLE),
    Case("a good token behind a bad one", 403, send=bearer("Bearer x.y.z", "Bearer {}"), says=UNREADABLE),
    Case("a good token before a bad one", 403, send=bearer("Bearer {}", "Bearer x.y.z"), says=UNREADABLE),
    Case("a good token and a password", 403, send=bearer("Bearer {}", "Basic dXNlcjpwYXNz")),
    Case("two tokens in one header", 403, send=bearer("Bearer {}, Bearer {}"), says=UNREADABLE),
    Case("a comma behind the token", 403, send=bearer("Bearer {},"), says=UNREADABLE),
    Case("a token in quotes", 403, send=bearer('Bearer "{}"'), says=UNREADABLE),
    Case("a token without a scheme", 403, send=bearer("{}"), says=OTHER_METHOD),
    Case("another scheme", 403, send=bearer("Token {}"), says=OTHER_METHOD),
    Case("a password", 403, send=bearer("Basic dXNlcjpwYXNz"), says=OTHER_METHOD),
    Case("DPoP", 403, send=bearer("DPoP {}"), says=OTHER_METHOD),
    Case(
        "a signature of SigV4",
        403,
        send=bearer(
            "AWS4-HMAC-SHA256 Credential=AKIAFHAAAAAAAAAAAAAA/20261123/eu-central-1/bedrock-agentcore/aws4_request, "
            "SignedHeaders=host;x-amz-date, Signature=" + "0" * 64
        ),
        says=OTHER_METHOD,
    ),
    Case("a signature in the query", 403, query="X-Amz-Signature=" + "0" * 64, send=lambda _: [], says=OTHER_METHOD),
    Case("a token and a signature in the query", 403, query="X-Amz-Algorithm=AWS4-HMAC-SHA256", says=OTHER_METHOD),
    Case("a token in another header", 401, send=lambda token: [("X-Authorization", f"Bearer {token}")], says=MISSING),
    Case("a token for a proxy", 401, send=lambda token: [("Proxy-Authorization", f"Bearer {token}")], says=MISSING),
    Case("a token in a cookie", 401, send=lambda token: [("Cookie", f"access_token={token}")], says=MISSING),
    Case("a token in a forwarded header", 401, send=lambda token: [("X-Forwarded-Authorization", f"Bearer {token}")]),
    Case("a token with underscores in the header's name", 401, send=lambda token: [("Auth_orization", token)]),
    Case("a token with a space behind the header's name", 400, send=lambda t: [("Authorization ", f"Bearer {t}")]),
    Case(
        "an Authorization folded onto a second line",
        400,
        send=lambda token: [("Authorization", f"Bearer\r\n {token}")],
    ),
    Case("a token of 12 KiB of dots", 403, alter=lambda _: "." * 12_000),
]

ATTACKS: list[Case] = [
    *ALGORITHM_ATTACKS,
    *KEY_ATTACKS,
    *FORM_ATTACKS,
    *TIME_ATTACKS,
    *ISSUER_ATTACKS,
    *RULE_ATTACKS,
    *SENDING_ATTACKS,
]

_EACH_ALGORITHM = [
    *(Case(f"{alg}", header={"alg": alg}) for alg in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
    *(
        Case(f"{name.upper()}", header={"alg": name.upper(), "kid": name}, signer=name)
        for name in ("es256", "es384", "es512")
    ),
    Case("EdDSA", header={"alg": "EdDSA", "kid": "ed25519"}, signer="ed25519"),
    Case("EdDSA by its new name", header={"alg": "Ed25519", "kid": "ed25519"}, signer="ed25519"),
]

NEAR_MISSES: list[Case] = [
    *_EACH_ALGORITHM,
    *(Case(f"the rule {name}", runtime=name) for name in AUTHORIZERS),
    Case("no typ", header={"typ": None}),
    Case("typ in small letters", header={"typ": "jwt"}),
    Case("an access token (RFC 9068)", header={"typ": "at+jwt"}),
    Case("an access token with its whole type", header={"typ": "application/at+jwt"}),
    Case("a typ of the issuer's own", header={"typ": "JOSE"}),
    Case("a header that means nothing here", header={"x-issuer-region": "eu", "cty": "json"}),
    Case("a jku that is not followed", header={"jku": "https://evil.example/jwks"}),
    Case("a jwk that is not used", header={"jwk": public_jwk("rsa/stranger")}),
    Case("a certificate that is not used", header={"x5t": "abc", "x5c": [b64(b"certificate")]}),
    Case("an RS256 key for RS256", header={"kid": "rsa-2"}, signer="rsa-2"),
    Case("a PS256 key for PS256", header={"alg": "PS256", "kid": "rsa-3"}, signer="rsa-3"),
    Case("a key with operations", header={"kid": "rsa-ops"}, signer="rsa-ops"),
    Case("no kid, the first key", header={"kid": None}),
    Case("no kid, a later key", header={"kid": None}, signer="rsa-2"),
    Case("no kid, an EC key", header={"alg": "ES256", "kid": None}, signer="es256"),
    Case("no kid in token and key set", header={"alg": "ES256", "kid": None}, signer="es256/no-kid"),
    Case("no kid, the only key of its kind", header={"alg": "EdDSA", "kid": None}, signer="ed25519"),
    Case("expires in a second", claims={"exp": NOW + 1}),
    Case("expired within the skew", claims={"exp": NOW - 9}),
    Case("exp with a fraction", claims={"exp": NOW + 0.5}),
    Case("exp in the year 9999", claims={"exp": 253_402_300_799}),
    Case("exp in milliseconds", claims={"exp": (NOW + 3600) * 1000}),
    Case("no iat", claims={"iat": None}),
    Case("iat of long ago", claims={"iat": 1}),
    Case("issued within the skew", claims={"iat": NOW + 9}),
    Case("valid from now", claims={"nbf": NOW}),
    Case("valid within the skew", claims={"nbf": NOW + 9}),
    Case("nbf with a fraction", claims={"nbf": NOW - 0.5}),
    Case("no sub", claims={"sub": None}),
    Case("an empty sub", claims={"sub": ""}),
    Case("neither sub nor client", runtime="audience", claims={"sub": None}),
    Case("a sub of other letters", claims={"sub": "ユーザー|🚀"}),
    Case("a sub with a lone surrogate", claims={"sub": "\ud800"}),
    Case("a long sub", claims={"sub": "x" * 4000}),
    Case("the second client", claims={"client_id": "worker"}),
    Case("a client that is an audience, too", claims={"aud": "anything"}),
    Case("the audience that is a URL", runtime="audience", claims={"aud": "https://api.example"}),
    Case("a list of one audience", runtime="audience", claims={"aud": ["agents"]}),
    Case("one of many audiences", runtime="audience", claims={"aud": ["a", "b", "agents", "c"]}),
    Case("the audience twice", runtime="audience", claims={"aud": ["agents", "agents"]}),
    Case("the scope alone", runtime="scopes", claims={"scope": "agents/invoke"}),
    Case("the second scope", runtime="scopes", claims={"scope": "agents:read"}),
    Case("the scope first of many", runtime="scopes", claims={"scope": "agents:read openid email"}),
    Case("two spaces between scopes", runtime="scopes", claims={"scope": "openid  agents:read"}),
    Case("a list of scp", runtime="scopes", claims={"scope": None, "scp": ["openid", "agents:read"]}),
    Case("scp in a string", runtime="scopes", claims={"scope": None, "scp": "openid agents:read"}),
    Case("scp where scope is of others", runtime="scopes", claims={"scope": "openid", "scp": ["agents:read"]}),
    Case("scope where scp is of others", runtime="scopes", claims={"scp": ["openid"]}),
    Case("groups of one", runtime="contains", claims={"cognito:groups": ["agents"]}),
    Case("the group last of many", runtime="contains", claims={"cognito:groups": ["a", "b", "agents"]}),
    Case("the first of the roles", runtime="any", claims={"roles": ["admin"]}),
    Case("both roles", runtime="any", claims={"roles": ["operator", "admin"]}),
    Case("roles among others", runtime="any", claims={"roles": ["reader", "admin"]}),
    Case("claims nobody asks for", claims={"nested": {"a": [1, {"b": None}]}, "big": 2**60, "ok": True}),
    Case(
        "claims in any order",
        raw_claims=json.dumps({"sub": "u", "client_id": "web-app", "exp": NOW + 60, "iss": ISSUER}, indent=2),
    ),
    Case("a claim with a nested member of the same name", claims={"a": {"x": 1}, "b": {"x": 2}}),
    Case(
        "escapes in the claims",
        raw_claims=json.dumps({"iss": ISSUER, "exp": NOW + 60})[:-1] + ', "client_id": "\\u0077eb-app"}',
    ),
    Case(
        "an issuer with escaped slashes",
        raw_claims='{"iss": "' + ISSUER.replace("/", "\\/") + f'", "exp": {NOW + 60}, "client_id": "web-app"' + "}",
    ),
    Case("a token of 12 KiB", claims={"groups": ["x" * 100] * 85}),
    Case("bearer in small letters", send=bearer("bearer {}")),
    Case("BEARER in capitals", send=bearer("BEARER {}")),
    Case("two spaces behind Bearer", send=bearer("Bearer  {}")),
    Case("spaces around the value", send=bearer("  Bearer {}  ")),
    Case("the header's name in capitals", send=lambda token: [("AUTHORIZATION", f"Bearer {token}")]),
    Case("the header's name in small letters", send=lambda token: [("authorization", f"Bearer {token}")]),
    Case("a cookie beside it", send=lambda t: [("Cookie", "a=b"), ("Authorization", f"Bearer {t}")]),
    Case(
        "a token for a proxy beside it",
        send=lambda t: [("Proxy-Authorization", "Basic x"), ("Authorization", f"Bearer {t}")],
    ),
    Case("an origin beside it", send=lambda t: [("Origin", "https://app.example"), ("Authorization", f"Bearer {t}")]),
    Case(
        "a date of AWS's beside it",
        send=lambda t: [("X-Amz-Date", "20260101T000000Z"), ("Authorization", f"Bearer {t}")],
    ),
    Case("a query that only looks signed", query="note=X-Amz-Signature"),
    Case("a qualifier", query="qualifier=DEFAULT"),
    Case("a kid that is a URL, and the issuer's", header={"kid": "rsa"}, claims={"jku": "https://evil.example"}),
]
