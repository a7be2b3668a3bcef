"""What control would say of runtimes that take tokens: authorizers and key sets, as of the table in `jwt_cases`."""

from __future__ import annotations

import json
from typing import Any

import jwt_cases
from jwt_tokens import ISSUER

from freehold.auth import jwt_keys
from freehold.auth.jwt_claims import Authorizer
from freehold.auth.public_keys import generation_of
from freehold.control import authorizers
from freehold.control.protocol import KeySet
from freehold.control.reach import PUBLIC_INTERNET

DISCOVERY_URL = f"{ISSUER}/.well-known/openid-configuration"


def authorizer(name: str, *, account: str, runtime_id: str, **more: Any) -> Authorizer:
    """One of `jwt_cases.AUTHORIZERS`, as control reads it."""
    said = {"discoveryUrl": DISCOVERY_URL, **jwt_cases.AUTHORIZERS[name], **more}
    configuration = {authorizers.MEMBER: {"customJWTAuthorizer": said}}
    found = authorizers.authorizer_of(configuration, PUBLIC_INTERNET, account=account, runtime_id=runtime_id)
    assert found is not None
    return found


def key_set(document: Any = jwt_cases.KEY_SET, issuer: str = ISSUER, **more: Any) -> KeySet:
    """As control would hand it out, given what the issuer publishes."""
    keys, _ = jwt_keys.read_key_set(json.dumps(document).encode())
    said: dict[str, Any] = {
        "name": authorizers.KeySource(DISCOVERY_URL).name,
        "issuer": issuer,
        "generation": generation_of(issuer, keys),
        "keys": list(keys),
        "usable_for_s": 7200.0,
        "refresh_in_s": 300.0,
        "renewal_in_s": 0.0,
    }
    return KeySet(**(said | more))
