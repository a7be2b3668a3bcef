"""Bearer tokens, judged by the pure check: the table of attacks and near misses, owners, keys, refusals' words."""

from __future__ import annotations

import json
from typing import Any

import jwt_cases
import jwt_tokens
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jwt_cases import ATTACKS, NEAR_MISSES, Case
from jwt_tokens import ISSUER, NOW, public_jwk

from freehold.auth import bearer, jwt, jwt_keys
from freehold.auth.jwt_claims import Authorizer, ClaimRule
from freehold.auth.jwt_keys import Keys
from freehold.auth.jwt_refusals import TokenRefused, TokenUnreadable, UnknownKey
from freehold.auth.public_keys import generation_of
from freehold.auth.sigv4 import SignatureRefused
from freehold.domain.errors import FreeholdError, Unauthenticated

BY_WIRE = ("a token with a space behind the header's name", "an Authorization folded onto a second line")
"""What only the gateway's reader of heads can refuse."""


def keys_of(document: Any, issuer: str = ISSUER) -> Keys:
    keys, _ = jwt_keys.read_key_set(json.dumps(document).encode())
    return Keys(issuer, generation_of(issuer, keys), keys)


KEYS = keys_of(jwt_cases.KEY_SET)


def authorizer(name: str) -> Authorizer:
    said = jwt_cases.AUTHORIZERS[name]
    rules: list[ClaimRule] = []
    for rule in said.get("customClaims", ()):
        (values,) = rule["authorizingClaimMatchValue"]["claimMatchValue"].values()
        is_list = rule["inboundTokenClaimValueType"] == "STRING_ARRAY"
        rules.append(
            ClaimRule(rule["inboundTokenClaimName"], is_list, tuple([values] if isinstance(values, str) else values))
        )
    return Authorizer(
        digest=name,
        key_set="keys",
        audiences=tuple(said.get("allowedAudience", ())),
        clients=tuple(said.get("allowedClients", ())),
        scopes=tuple(said.get("allowedScopes", ())),
        claims=tuple(rules),
    )


def judge(case: Case) -> jwt.Verified:
    authorizations = [value.strip().encode() for name, value in case.headers() if name.lower() == "authorization"]
    token = bearer.from_request(authorizations, case.query.encode())
    return jwt.verify(token, KEYS, authorizer(case.runtime), now=NOW)


def refusal(case: Case) -> FreeholdError:
    with pytest.raises((TokenRefused, TokenUnreadable, SignatureRefused)) as refused:
        judge(case)
    return refused.value


def test_the_table_is_of_one_name_a_case_and_as_many_good_requests_as_were_promised():
    names = [case.name for case in (*ATTACKS, *NEAR_MISSES)]
    assert len(names) == len(set(names))
    assert len(ATTACKS) >= 120
    assert len(NEAR_MISSES) >= 80


@pytest.mark.parametrize("case", [c for c in ATTACKS if c.name not in BY_WIRE], ids=lambda case: case.name)
def test_an_attack_is_refused(case: Case):
    error = refusal(case)
    assert isinstance(error, Unauthenticated) == (case.status == 401), error
    if case.says is not None:
        assert case.says in error.message
    told = error.message + " ".join(getattr(error, "checks", ()))
    sent = case.headers()[0][1] if case.headers() else "-"
    assert not any(word in told for word in sent.split(".") if len(word) > 20), "a part of the token is told"


@pytest.mark.parametrize("case", NEAR_MISSES, ids=lambda case: case.name)
def test_what_is_good_is_taken(case: Case):
    assert judge(case).owner.startswith("jwt:")


def checks(case: Case) -> tuple[str, ...]:
    error = refusal(case)
    assert isinstance(error, TokenRefused | TokenUnreadable)
    return error.checks


def test_a_refusal_names_every_rule_that_was_not_met():
    assert checks(Case("", runtime="all", claims={"aud": "x", "scope": "x", "roles": []})) == (
        "aud",
        "scope",
        "custom claim roles",
    )


def test_a_refusal_names_the_check_and_nothing_of_the_token():
    assert checks(Case("", claims={"exp": NOW - 60})) == ("exp is in the past",)
    assert checks(Case("", claims={"iss": "https://evil.example"})) == (
        "iss is not the issuer of the discovery document",
    )
    assert checks(Case("", signer="rsa/stranger")) == ("signature is wrong",)
    assert checks(Case("", header={"kid": "unheard-of"})) == ("kid names no key of the issuer",)
    assert checks(Case("", alter=lambda token: token[:-400])) != ()


def test_only_a_key_that_is_not_there_is_worth_asking_for_newer_ones():
    assert isinstance(refusal(Case("", header={"kid": "unheard-of"})), UnknownKey)
    assert isinstance(refusal(Case("", header={"kid": None}, signer="rsa/stranger")), UnknownKey)
    assert not isinstance(refusal(Case("", signer="rsa/stranger")), UnknownKey)
    assert not isinstance(refusal(Case("", header={"alg": "HS256", "kid": "unheard-of"}, signer=b"x")), UnknownKey)


# -- owners -------------------------------------------------------------------------------------------------------


def owner(issuer: str = ISSUER, **claims: Any) -> str:
    case = Case("", runtime="audience", claims={"iss": issuer, **claims})
    return jwt.verify(case.token().encode(), keys_of(jwt_cases.KEY_SET, issuer), authorizer("audience"), now=NOW).owner


def test_a_subject_has_the_same_owner_whatever_else_its_token_says():
    assert owner(sub="a") == owner(sub="a", exp=NOW + 60, client_id="c") == owner(sub="a", scope="other")


def test_other_subjects_and_other_issuers_are_other_owners():
    assert len({owner(sub="a"), owner(sub="b"), owner("https://other.example", sub="a"), owner(sub="A")}) == 4


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("https://i.example", "ab"), ("https://i.examplea", "b")),
        (("https://i.example", "/a"), ("https://i.example/", "a")),
        (("https://i.example|a", "b"), ("https://i.example", "a|b")),
        (("https://i.example\0a", "b"), ("https://i.example", "a\0b")),
        (("https://i.example:3:sub", "x"), ("https://i.example", "3:sub:x")),
    ],
)
def test_owners_do_not_collide_by_what_is_written_in_the_claims(one: tuple[str, str], other: tuple[str, str]):
    assert owner(one[0], sub=one[1]) != owner(other[0], sub=other[1])


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_an_owner_is_one_issuer_and_one_subject(one: tuple[str, str], other: tuple[str, str]):
    from freehold.domain.principals import token_owner

    same = token_owner(one[0], "sub", one[1]) == token_owner(other[0], "sub", other[1])
    assert same == (one == other)


def test_a_token_without_a_subject_is_its_clients_and_never_a_subjects():
    of_client = owner(sub=None, client_id="worker")
    assert of_client == owner(sub="", client_id="worker", exp=NOW + 60)
    assert len({of_client, owner(sub="worker"), owner(sub=None, client_id="other")}) == 3


def test_a_token_of_neither_subject_nor_client_is_its_bearers_alone():
    assert owner(sub=None, exp=NOW + 60) != owner(sub=None, exp=NOW + 61)
    same = Case("", runtime="audience", claims={"sub": None}).token().encode()
    assert jwt.verify(same, KEYS, authorizer("audience"), now=NOW) == jwt.verify(
        same, KEYS, authorizer("audience"), now=NOW
    )


# -- key sets -----------------------------------------------------------------------------------------------------


def test_of_an_untidy_key_set_the_usable_keys_are_kept_and_the_others_are_told_of():
    keys, unusable = jwt_keys.read_key_set(json.dumps(jwt_cases.KEY_SET).encode())
    assert {key.kid for key in keys} == {
        *("rsa", "rsa-2", "rsa-3", "rsa-ops", "es256", "es384", "es512", "ed25519"),
        None,
    }
    assert len(unusable) == len(jwt_cases.KEY_SET["keys"]) - len(keys)
    assert "key 6: its modulus has 1024 bits" in unusable


def test_a_generation_is_of_issuer_and_keys_and_not_of_their_order():
    one, _ = jwt_keys.read_key_set(json.dumps(jwt_cases.KEY_SET).encode())
    turned, _ = jwt_keys.read_key_set(json.dumps({"keys": jwt_cases.KEY_SET["keys"][::-1]}).encode())
    fewer, _ = jwt_keys.read_key_set(json.dumps({"keys": jwt_cases.KEY_SET["keys"][1:]}).encode())
    assert generation_of(ISSUER, one) == generation_of(ISSUER, turned)
    assert generation_of(ISSUER, one) != generation_of(ISSUER, fewer)
    assert generation_of(ISSUER, one) != generation_of(ISSUER + "/", one)


def test_private_parts_that_an_issuer_publishes_by_mistake_go_no_further():
    document = {"keys": [{**public_jwk("rsa"), "d": "c2VjcmV0", "p": "c2VjcmV0", "q": "c2VjcmV0"}]}
    (key,), _ = jwt_keys.read_key_set(json.dumps(document).encode())
    assert "c2VjcmV0" not in repr(key)


@pytest.mark.parametrize(
    "document",
    [b"", b"{", b"[]", b'{"keys": {}}', b'{"keys": null}', b"\xff", json.dumps({"keys": [{}] * 65}).encode()],
)
def test_what_is_no_key_set_is_refused(document: bytes):
    with pytest.raises(jwt_keys.UnusableKeySet):
        jwt_keys.read_key_set(document)


def test_of_keys_that_share_a_name_the_one_that_signed_is_found_among_a_few():
    shared = [public_jwk(f"rsa/{number}", kid="shared") for number in range(3)]
    case = Case("", header={"kid": "shared"}, signer="rsa/2")
    assert jwt.verify(case.token().encode(), keys_of({"keys": shared}), authorizer("clients"), now=NOW)
    many = [public_jwk(f"es256/{number}", kid="shared") for number in range(9)]
    with pytest.raises(TokenRefused, match="Invalid credentials") as refused:
        case = Case("", header={"alg": "ES256", "kid": "shared"}, signer="es256/8")
        jwt.verify(case.token().encode(), keys_of({"keys": many}), authorizer("clients"), now=NOW)
    assert refused.value.checks == ("too many keys fit the token",)


def test_an_authorizer_without_a_rule_lets_nobody_in():
    with pytest.raises(TokenRefused):
        jwt.verify(Case("").token().encode(), KEYS, Authorizer("d", "k"), now=NOW)


def test_the_skew_is_as_it_is_set():
    token = Case("", claims={"exp": NOW - 9}).token().encode()
    with pytest.raises(TokenRefused):
        jwt.verify(token, KEYS, authorizer("clients"), now=NOW, skew_s=5)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes):
    with pytest.raises((TokenRefused, TokenUnreadable)):
        jwt.verify(data, KEYS, authorizer("clients"), now=NOW)


def test_every_flipped_bit_of_a_token_is_refused():
    token = Case("", header={"alg": "ES256", "kid": "es256", "typ": None}, signer="es256").token().encode()
    assert jwt.verify(token, KEYS, authorizer("clients"), now=NOW)
    for at in range(len(token)):
        for bit in range(8):
            flipped = bytearray(token)
            flipped[at] ^= 1 << bit
            with pytest.raises((TokenRefused, TokenUnreadable)):
                jwt.verify(bytes(flipped), KEYS, authorizer("clients"), now=NOW)


# -- headers that were seen before --------------------------------------------------------------------------------


def seen_by(*cases: Case) -> Keys:
    """Keys that have found the tokens of these to be good."""
    keys = keys_of(jwt_cases.KEY_SET)
    for case in cases:
        jwt.verify(case.token().encode(), keys, authorizer(case.runtime), now=NOW)
    return keys


GOOD_HEADERS: tuple[dict[str, Any], ...] = (
    {},
    {"typ": None},
    {"typ": "at+jwt"},
    {"kid": None},
    *({"alg": name} for name in ("RS384", "RS512", "PS256", "PS384", "PS512")),
)


def told_of(token: bytes, case: Case, keys: Keys) -> object:
    try:
        return jwt.verify(token, keys, authorizer(case.runtime), now=NOW)
    except FreeholdError as error:
        return type(error), error.message, getattr(error, "checks", ()), getattr(error, "wanted", None)


def test_a_header_of_a_good_token_changes_nothing_for_another_token():
    seen = seen_by(*(Case("", header=header) for header in GOOD_HEADERS))
    for case in (*ATTACKS, *NEAR_MISSES):
        for name, value in case.headers():
            if name.lower() == "authorization" and value.lower().startswith("bearer "):
                token = value.split()[-1].encode()
                assert told_of(token, case, seen) == told_of(token, case, keys_of(jwt_cases.KEY_SET)), case.name


def test_a_signature_is_checked_though_its_header_was_seen():
    keys = seen_by(Case(""))
    good = Case("", claims={"sub": "user-2"})
    assert told_of(good.token().encode(), good, keys) == jwt.verify(
        good.token().encode(), keys_of(jwt_cases.KEY_SET), authorizer("clients"), now=NOW
    )
    for forged in (
        Case("", signer="rsa/stranger"),
        Case("", claims={"sub": "admin"}, signer="rsa-2"),
        Case("", alter=lambda token: token.rpartition(".")[0] + "."),
        Case("", alter=jwt_cases.flipped(2, 0)),
        Case("", alter=jwt_cases.flipped(1, 9)),
    ):
        with pytest.raises((TokenRefused, TokenUnreadable)):
            jwt.verify(forged.token().encode(), keys, authorizer("clients"), now=NOW)


def test_only_headers_of_tokens_that_a_key_of_the_set_signed_are_remembered():
    keys = seen_by()
    for case in (Case("", signer="rsa/stranger"), Case("", header={"alg": "none"}), Case("", header={"crit": ["x"]})):
        with pytest.raises(TokenRefused):
            jwt.verify(case.token().encode(), keys, authorizer("clients"), now=NOW)
    assert not keys._headers


def test_few_headers_are_remembered_and_no_long_ones():
    many = [Case("", header={"kid": None, "alg": "ES256", "n": n}, signer="es256") for n in range(100)]
    keys = seen_by(*many, Case("", header={"x": "x" * jwt_keys.MAX_REMEMBERED_BYTES}))
    assert 0 < len(keys._headers) <= jwt_keys.MAX_REMEMBERED
    assert all(len(header) <= jwt_keys.MAX_REMEMBERED_BYTES for header in keys._headers)


# -- WebSockets ---------------------------------------------------------------------------------------------------


def offered(*values: str, **more: str) -> list[tuple[bytes, bytes]]:
    found = [(b"sec-websocket-protocol", value.encode()) for value in values]
    return found + [(name.encode(), value.encode()) for name, value in more.items()]


def from_web_socket(headers: list[tuple[bytes, bytes]], query: bytes = b"") -> bytes:
    authorizations = [value for name, value in headers if name == b"authorization"]
    return bearer.from_web_socket(authorizations, headers, query)


NAME = bearer.SUBPROTOCOL.decode()
ENCODED = jwt_tokens.b64(b"a.b.c")


@pytest.mark.parametrize(
    "headers",
    [
        offered(f"{NAME}.{ENCODED}, {NAME}"),
        offered(f"{NAME}, {NAME}.{ENCODED}"),
        offered(f"{NAME}.{ENCODED}", NAME),
        offered(f"chat, {NAME}.{ENCODED} ,{NAME}"),
    ],
)
def test_a_browser_brings_its_token_as_a_subprotocol(headers: list[tuple[bytes, bytes]]):
    assert from_web_socket(headers) == b"a.b.c"


def test_a_web_socket_may_bring_its_token_as_any_request_does():
    headers = offered("chat", authorization="Bearer a.b.c")
    assert from_web_socket(headers, b"qualifier=DEFAULT") == b"a.b.c"


@pytest.mark.parametrize(
    "headers",
    [
        offered(f"{NAME}.{ENCODED}"),
        offered(f"{NAME}.{ENCODED}, {NAME}.{ENCODED}, {NAME}"),
        offered(f"{NAME}.{ENCODED}, {NAME}", authorization="Bearer a.b.c"),
        offered(f"{NAME}.{ENCODED}=, {NAME}"),
        offered(f"{NAME}., {NAME}"),
        offered(f"{NAME}.{jwt_tokens.b64(b'a b')}, {NAME}"),
        offered(f"{NAME}.{ENCODED}+, {NAME}"),
    ],
)
def test_a_subprotocol_that_is_not_one_token_is_refused(headers: list[tuple[bytes, bytes]]):
    with pytest.raises(TokenUnreadable):
        from_web_socket(headers)


def test_without_any_token_a_web_socket_is_refused():
    with pytest.raises(TokenRefused, match="Missing Authentication Token"):
        from_web_socket(offered("chat"))
    with pytest.raises(SignatureRefused):
        from_web_socket(offered(f"{NAME}.{ENCODED}, {NAME}"), b"a=b&X-Amz-Signature=c")
