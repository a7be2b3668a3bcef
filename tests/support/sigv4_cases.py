"""Attacks on SigV4 and requests that differ little from them and are right, as data (`signed_requests.Case`)."""

from __future__ import annotations

from typing import Any, Final

from signed_requests import (
    BODY,
    HOST,
    KEY,
    OTHER_KEY,
    PAST,
    PATH,
    RUNTIME_ID,
    TEMPORARY,
    Case,
    sha256,
)

from freehold.auth.keys import AccessKey

WRONG: Final = "InvalidSignatureException"
INCOMPLETE: Final = "IncompleteSignatureException"
UNKNOWN: Final = "UnrecognizedClientException"
MISSING: Final = "MissingAuthenticationTokenException"
OTHER_METHOD: Final = "AccessDeniedException"
EXPIRED: Final = "ExpiredTokenException"
INVALID: Final = "ValidationException"

SESSION: Final = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
WITH_SESSION: Final[dict[str, Any]] = {"headers": {SESSION: "s" * 40}}
WITH_CUSTOM: Final[dict[str, Any]] = {"headers": {"X-Amz-Custom": "one two", "X-Custom": "three"}}
CLAIMED: Final[dict[str, Any]] = {"claimed": True}
QUERY: Final[dict[str, Any]] = {"form": "query", "expires_s": 300}
OTHER_RUNTIME: Final = PATH.replace(RUNTIME_ID, "agent-9876543210")


def _stranger(**of: str) -> AccessKey:
    return AccessKey(**{"access_key_id": KEY.access_key_id, "account": KEY.account, "secret": KEY.secret, **of})


def _scope(part: str, instead: str) -> tuple[tuple[Any, ...], ...]:
    return (("sub", "authorization", f"/{part}", f"/{instead}"),)


def _key_id(access_key_id: str) -> dict[str, Any]:
    return {"key": _stranger(access_key_id=access_key_id)}


ATTACKS: Final = (
    # -- moved elsewhere
    Case("a path of another runtime", {}, (("path", OTHER_RUNTIME),), WRONG),
    Case("a path of another operation", {}, (("path_sub", "/invocations", "/stopruntimesession"),), WRONG),
    Case("a path that is decoded", {}, (("path_sub", "%3A", ":"),), WRONG),
    Case("a path whose escapes are in lower case", {}, (("path_sub", "%3A", "%3a"),), WRONG),
    Case("a path that is encoded twice", {}, (("path_sub", "%3A", "%253A"),), WRONG),
    Case("a path with a slash more", {}, (("path", PATH + "/"),), WRONG),
    Case("a path in other letters", {}, (("path", PATH.replace(RUNTIME_ID, RUNTIME_ID.upper())),), WRONG),
    Case("a query with another value", {}, (("query_sub", "DEFAULT", "other"),), WRONG),
    Case("a query with a parameter more", {}, (("query_add", "accountId=111122223333"),), WRONG),
    Case("a query with an empty parameter more", {}, (("query", "qualifier=DEFAULT&"),), WRONG),
    Case("a query without its parameter", {}, (("query", ""),), WRONG),
    Case("a query whose parameter is there again", {}, (("query_again", "qualifier"),), WRONG),
    Case("a query whose value is escaped", {}, (("query_sub", "DEFAULT", "%44EFAULT"),), WRONG),
    Case("a query that was signed unsorted", {"form": "unsorted", "query": "qualifier=DEFAULT&a=1"}, (), WRONG),
    Case(
        "a query that says one thing twice, in the other order",
        {"query": "qualifier=other&qualifier=DEFAULT"},
        (("query_reversed",),),
        INVALID,
        400,
    ),
    Case("a method other than the signed one", {"method": "PUT"}, (("method", "POST"),), WRONG),
    Case("another host", {}, (("set", "Host", "elsewhere.example.com"),), WRONG),
    Case("a host with a port", {}, (("set", "Host", HOST + ":443"),), WRONG),
    Case("a host in other letters", {}, (("set", "Host", HOST.upper()),), WRONG),
    Case("two different hosts", {}, (("add", "Host", "elsewhere.example.com"),), INVALID, 400),
    Case("no host", {}, (("drop", "Host"),), INVALID, 400),
    # -- another body
    Case("another body", {}, (("body", BODY.replace(b"hello", b"HELLO")),), WRONG),
    Case("a body that is cut off", {}, (("body", BODY[:-1]),), WRONG),
    Case("a body that goes on", {}, (("body", BODY + b" "),), WRONG),
    Case("a body where none was signed", {"body": b""}, (("body", b"{}"),), WRONG),
    Case("no body where one was signed", {}, (("body", b""),), WRONG),
    Case("another body in chunks", {}, (("body", b"{}"), ("chunked",)), WRONG),
    Case("another body than the hash that was signed", CLAIMED, (("body", b"{}"),), WRONG),
    Case(
        "a hash that was changed with the body",
        CLAIMED,
        (
            ("body", b"{}"),
            ("set", "x-amz-content-sha256", sha256(b"{}")),
        ),
        WRONG,
    ),
    Case("a true signature beside another hash", {"form": "of the body", "claimed": sha256(b"{}")}, (), WRONG),
    Case("a hash that was not signed", {}, (("add", "x-amz-content-sha256", sha256(BODY)),), INCOMPLETE),
    Case("a hash twice", CLAIMED, (("again", "X-Amz-Content-SHA256"),), INCOMPLETE),
    Case("the hash of nothing for a body", {"claimed": sha256(b"")}, (), WRONG),
    Case("a hash in capital letters", {"claimed": sha256(BODY).upper()}, (), WRONG),
    Case("a payload declared as unsigned", {"claimed": "UNSIGNED-PAYLOAD"}, (), WRONG),
    Case("a payload signed in chunks", {"claimed": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"}, (), WRONG),
    Case("an unsigned payload with a trailer", {"claimed": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}, (), WRONG),
    # -- headers
    Case("another session in a signed header", WITH_SESSION, (("set", SESSION, "t" * 40),), WRONG),
    Case("a session beside the signed one", WITH_SESSION, (("add", SESSION, "t" * 40),), WRONG),
    Case("a signed header that is gone", WITH_SESSION, (("drop", SESSION),), WRONG),
    Case("a signed header under another name", WITH_CUSTOM, (("rename", "X-Custom", "X-Custom2"),), WRONG),
    Case(
        "two signed headers that changed places",
        {"headers": {"X-A": "1", "X-B": "2"}},
        (
            ("set", "X-A", "2"),
            ("set", "X-B", "1"),
        ),
        WRONG,
    ),
    Case("an x-amz- header that nobody signed", {}, (("add", "X-Amz-Target", "Other"),), INCOMPLETE),
    Case("an x-amz- header that was signed, again", WITH_CUSTOM, (("again", "X-Amz-Custom"),), WRONG),
    Case("a date twice", {}, (("again", "X-Amz-Date"),), INCOMPLETE),
    Case("two dates", {}, (("add", "x-amz-date", "20200101T000000Z"),), INCOMPLETE),
    Case("an authorization twice", {}, (("again", "Authorization"),), INCOMPLETE),
    Case("two authorizations", {}, (("add", "authorization", "Bearer abc"),), INCOMPLETE),
    Case("a host that is not signed", {}, (("sub", "authorization", "=host;", "="),), INCOMPLETE),
    Case(
        "signed headers in another order",
        WITH_CUSTOM,
        (("sub", "authorization", "host;x-amz-custom", "x-amz-custom;host"),),
        INCOMPLETE,
    ),
    Case("signed headers in capital letters", {}, (("sub", "authorization", "=host;", "=Host;"),), INCOMPLETE),
    Case("a signed header named twice", {}, (("sub", "authorization", "=host;", "=host;host;"),), INCOMPLETE),
    Case("a signed header that is not sent", {}, (("sub", "authorization", "=host;", "=host;te;"),), WRONG),
    Case(
        "no signed header",
        {},
        (("sub", "authorization", "SignedHeaders=host;x-amz-date", "SignedHeaders="),),
        INCOMPLETE,
    ),
    # -- the Authorization header
    Case("no authorization", {}, (("drop", "Authorization"),), MISSING),
    Case("an empty authorization", {}, (("set", "Authorization", ""),), MISSING),
    Case("a bearer token", {}, (("set", "Authorization", "Bearer eyJhbGciOiJub25lIn0.e30."),), OTHER_METHOD),
    Case("a name and password", {}, (("set", "Authorization", "Basic QUxBRERJTjpPUEVO"),), INCOMPLETE),
    Case("a signature of version 2", {}, (("set", "Authorization", f"AWS {KEY.access_key_id}:c2ln"),), INCOMPLETE),
    Case("another hash", {}, (("sub", "authorization", "SHA256", "SHA1"),), INCOMPLETE),
    Case("an asymmetric algorithm", {}, (("sub", "authorization", "AWS4-HMAC", "AWS4-ECDSA-P256"),), INCOMPLETE),
    Case("an algorithm in lower case", {}, (("sub", "authorization", "AWS4-HMAC", "aws4-hmac"),), INCOMPLETE),
    Case("no credential", {}, (("sub", "authorization", "Credential=", "Nothing="),), INCOMPLETE),
    Case("no signature", {}, (("sub", "authorization", ", Signature=", ", Nothing="),), INCOMPLETE),
    Case(
        "a parameter that has no equal sign",
        {},
        (("sub", "authorization", "Credential=", "x, Credential="),),
        INCOMPLETE,
    ),
    Case("two signatures", {}, (("sub", "authorization", "Signature=", "Signature=0, Signature="),), INCOMPLETE),
    Case(
        "an empty signature",
        {},
        (
            (
                "set",
                "Authorization",
                (
                    f"AWS4-HMAC-SHA256 Credential={KEY.access_key_id}/20261123/eu-central-1/bedrock-agentcore/"
                    "aws4_request, SignedHeaders=host;x-amz-date, Signature="
                ),
            ),
        ),
        INCOMPLETE,
    ),
    Case("a signature of noughts", {}, (("signature", "noughts"),), WRONG),
    Case("a signature in capital letters", {}, (("signature", "upper"),), WRONG),
    Case("a signature that is cut off", {}, (("signature", "cut"),), WRONG),
    Case("a signature with more behind it", {}, (("signature", "longer"),), WRONG),
    Case("a signature that is no number", {}, (("signature", "words"),), WRONG),
    Case("a credential of four parts", {}, _scope("bedrock-agentcore/", ""), INCOMPLETE),
    Case("a credential of six parts", {}, _scope("bedrock-agentcore/", "bedrock-agentcore/x/"), INCOMPLETE),
    Case("a credential that ends otherwise", {}, _scope("aws4_request", "aws5_request"), INCOMPLETE),
    # -- scope
    Case("a signature for another region", {"region": "us-east-1"}, (), WRONG),
    Case("a region that was changed", {}, _scope("eu-central-1", "us-east-1"), WRONG),
    Case("a signature for another service", {"service": "bedrock"}, (), WRONG),
    Case("a signature for the control plane's host name", {"service": "bedrock-agentcore-control"}, (), WRONG),
    Case("a service in capital letters", {"service": "Bedrock-AgentCore"}, (), WRONG),
    Case(
        "a scope of another day",
        {},
        (("sub", "authorization", f"{KEY.access_key_id}/2", f"{KEY.access_key_id}/1"),),
        WRONG,
    ),
    # -- keys
    Case("an unknown key", _key_id("AKIAFHZZZZZZZZZZZZZZ"), (), UNKNOWN),
    Case("another account's key with this one's secret", _key_id(OTHER_KEY.access_key_id), (), WRONG),
    Case("a wrong secret", {"key": _stranger(secret="x" * 40)}, (), WRONG),
    Case("a secret with more behind it", {"key": _stranger(secret=KEY.secret + "s")}, (), WRONG),
    Case("a key's name in lower case", _key_id(KEY.access_key_id.lower()), (), UNKNOWN),
    Case("a key's name with a wildcard", _key_id("AKIAFH%"), (), UNKNOWN),
    Case("a key's name without end", _key_id("A" * 129), (), UNKNOWN),
    Case("another account's key", {"key": OTHER_KEY}, (), "ResourceNotFoundException", 404),
    Case("a long-lived key with a token", {"key": _stranger(session_token="token")}, (), UNKNOWN),
    Case("a long-lived key with a token that is not signed", {}, (("add", "X-Amz-Security-Token", "a"),), INCOMPLETE),
    Case(
        "a temporary key without its token",
        {"key": _stranger(access_key_id=TEMPORARY.access_key_id, secret=TEMPORARY.secret)},
        (),
        UNKNOWN,
    ),
    Case(
        "a temporary key with another token",
        {"key": _stranger(access_key_id=TEMPORARY.access_key_id, secret=TEMPORARY.secret, session_token="other")},
        (),
        UNKNOWN,
    ),
    Case(
        "a temporary key whose token was changed",
        {"key": TEMPORARY},
        (("set", "X-Amz-Security-Token", "token/of+some=Length"),),
        UNKNOWN,
    ),
    Case("a temporary key with its token twice", {"key": TEMPORARY}, (("again", "X-Amz-Security-Token"),), INCOMPLETE),
    Case("a temporary key past its time", {"key": PAST}, (), EXPIRED),
    # -- time
    Case("a signature of five minutes and two seconds ago", {"after_s": -302}, (), WRONG),
    Case("a signature of five minutes and ten seconds hence", {"after_s": 310}, (), WRONG),
    Case("a signature of yesterday", {"after_s": -86400}, (), WRONG),
    Case("a date that was moved by a second", {}, (("date_moved", -1),), WRONG),
    Case("an old signature with a new date", {"after_s": -600}, (("date_moved", 600),), WRONG),
    Case("no date", {}, (("drop", "X-Amz-Date"),), INCOMPLETE),
    Case("an empty date", {}, (("set", "X-Amz-Date", ""),), INCOMPLETE),
    Case("a date in extended form", {}, (("set", "X-Amz-Date", "2026-11-23T12:00:00Z"),), INCOMPLETE),
    Case("a date that there is not", {}, (("set", "X-Amz-Date", "20261323T120000Z"),), INCOMPLETE),
    Case("a date in other digits", {}, (("set", "X-Amz-Date", "2026112\xb2T120000Z"),), INCOMPLETE),
    Case("an old date beside a new one", {"after_s": -400}, (("add", "Date", "Mon, 23 Nov 2099 12:00:00 GMT"),), WRONG),
    # -- the query form
    *(
        Case(f"a presigned request without {name}", QUERY, (("query_drop", name),), INCOMPLETE)
        for name in (
            "X-Amz-Algorithm",
            "X-Amz-Credential",
            "X-Amz-Date",
            "X-Amz-Expires",
            "X-Amz-SignedHeaders",
            "X-Amz-Signature",
        )
    ),
    *(
        Case(f"a presigned request with {name} twice", QUERY, (("query_again", name),), INCOMPLETE)
        for name in ("X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-Signature")
    ),
    Case("a presigned request past its time", {**QUERY, "expires_s": 60, "after_s": -62}, (), WRONG),
    Case("a presigned request of the future", {**QUERY, "after_s": 310}, (), WRONG),
    Case(
        "a presigned request that lasts longer",
        {**QUERY, "after_s": -400},
        (("query_sub", "X-Amz-Expires=300", "X-Amz-Expires=900"),),
        WRONG,
    ),
    Case("a presigned request for more than a week", {**QUERY, "expires_s": 604_801}, (), INCOMPLETE),
    Case("a presigned request for no time", {**QUERY, "expires_s": 0}, (), INCOMPLETE),
    Case("a presigned request for less than no time", {**QUERY, "expires_s": -1}, (), INCOMPLETE),
    Case(
        "a presigned request for 1e3 seconds",
        QUERY,
        (("query_sub", "X-Amz-Expires=300", "X-Amz-Expires=1e3"),),
        INCOMPLETE,
    ),
    Case("a presigned path of another runtime", QUERY, (("path", OTHER_RUNTIME),), WRONG),
    Case("a presigned query with another value", QUERY, (("query_sub", "DEFAULT", "other"),), WRONG),
    Case("a presigned query with a parameter more", QUERY, (("query_add", f"{SESSION}={'s' * 40}"),), WRONG),
    Case("a presigned query whose signature is noughts", QUERY, (("signature", "noughts"),), WRONG),
    Case("a presigned query whose signature is in capital letters", QUERY, (("signature", "upper"),), WRONG),
    Case("a presigned request of another method", {**QUERY, "method": "GET"}, (("method", "POST"),), WRONG),
    Case("a presigned request with another body", QUERY, (("body", b"{}"),), WRONG),
    Case("a presigned request with a body where none was signed", {**QUERY, "body": b""}, (("body", b"{}"),), WRONG),
    Case("a presigned request to another host", QUERY, (("set", "Host", "elsewhere.example.com"),), WRONG),
    Case("a presigned request for another region", {**QUERY, "region": "us-east-1"}, (), WRONG),
    Case("a presigned request for another service", {**QUERY, "service": "execute-api"}, (), WRONG),
    Case("a presigned request by another algorithm", QUERY, (("query_sub", "HMAC-SHA256", "HMAC-SHA1"),), INCOMPLETE),
    Case(
        "a presigned request with a signature in its headers too",
        QUERY,
        (
            (
                "add",
                "Authorization",
                "AWS4-HMAC-SHA256 Credential=a/b/c/d/aws4_request, SignedHeaders=host, Signature=0",
            ),
        ),
        INCOMPLETE,
    ),
    Case("a presigned request with a bearer token", QUERY, (("add", "Authorization", "Bearer abc"),), OTHER_METHOD),
    Case(
        "a presigned request with a date in its headers too",
        QUERY,
        (("add", "X-Amz-Date", "20261123T120000Z"),),
        INCOMPLETE,
    ),
    Case("a signed request with a signature in its query too", {}, (("query_add", "X-Amz-Signature=00"),), INCOMPLETE),
    Case("a signed request with a token in its query", {"query": "X-Amz-Security-Token=abc"}, (), INCOMPLETE),
    Case(
        "a presigned request with an x-amz- header that nobody signed",
        QUERY,
        (("add", "X-Amz-Target", "Other"),),
        INCOMPLETE,
    ),
    Case(
        "a presigned request without a header that was signed",
        {**QUERY, "headers": {"X-Custom": "a"}},
        (("drop", "X-Custom"),),
        WRONG,
    ),
    Case(
        "a presigned request whose names are in lower case",
        QUERY,
        (("query_sub", "X-Amz-Signature", "x-amz-signature"),),
        INCOMPLETE,
    ),
    Case(
        "a presigned request whose names are escaped",
        QUERY,
        (("query_sub", "X-Amz-Signature", "X-Amz%2DSignature"),),
        INCOMPLETE,
    ),
    Case(
        "a presigned request with a broken escape",
        QUERY,
        (("query_sub", "X-Amz-Credential=", "X-Amz-Credential=%zz"),),
        INCOMPLETE,
    ),
    Case("a presigned request whose scope lost a part", QUERY, (("query_sub", "%2Faws4_request", ""),), INCOMPLETE),
    Case(
        "a presigned request of a long-lived key with a token",
        QUERY,
        (("query_add", "X-Amz-Security-Token=abc"),),
        UNKNOWN,
    ),
    Case(
        "a presigned request of a temporary key without its token",
        {**QUERY, "key": TEMPORARY},
        (("query_drop", "X-Amz-Security-Token"),),
        UNKNOWN,
    ),
    Case("a presigned request of a temporary key past its time", {**QUERY, "key": PAST}, (), EXPIRED),
    Case("a presigned request of an unknown key", {**QUERY, **_key_id("AKIAFHZZZZZZZZZZZZZZ")}, (), UNKNOWN),
)

LONG_QUERY: Final = "&".join(f"k{number}={'v' * 20}" for number in range(100))

NEAR_MISSES: Final = (
    # -- time
    Case("a signature of nearly five minutes ago", {"after_s": -290}),
    Case("a signature of nearly five minutes hence", {"after_s": 290}),
    Case("an HTTP date instead of Amazon's", {"headers": {"Date": "set by the signer"}}),
    # -- headers
    Case("a header that nobody signed", {}, (("add", "User-Agent", "x"),)),
    Case("a header of a proxy", {}, (("add", "X-Forwarded-For", "::1"),)),
    Case("an x-amzn- header that nobody signed", {}, (("add", "X-Amzn-Trace-Id", "Root=1-2-3"),)),
    Case("a session that nobody signed", {}, (("add", SESSION, "s" * 40),)),
    Case("a signed session", WITH_SESSION),
    Case("headers in another order", WITH_CUSTOM, (("reversed",),)),
    Case("names of headers in capital letters", WITH_CUSTOM, (("upper",),)),
    Case("the same host twice", {}, (("again", "Host"),)),
    Case("a signed x-amz- header", {"headers": {"X-Amz-Custom": "a"}}),
    Case(
        "a signed header in two lines",
        {"headers": {"X-Custom": "a,b"}},
        (
            ("set", "X-Custom", "a"),
            ("add", "X-Custom", "b"),
        ),
    ),
    Case("more white space than was signed", {"headers": {"X-Custom": "a b"}}, (("set", "X-Custom", " a   b "),)),
    Case("a tab where a space was signed", {"headers": {"X-Custom": "a b"}}, (("set", "X-Custom", "a\tb"),)),
    Case("white space that was signed", {"headers": {"X-Custom": "  a   b  "}}),
    Case("a signed value with a colon", {"headers": {"X-Custom": "a: b"}}),
    Case("a signed value with quotes", {"headers": {"X-Custom": '"a   b"'}}),
    Case("an empty value that was signed", {"headers": {"X-Custom": ""}}),
    Case("a signed value beyond ASCII", {"headers": {"X-Custom": "gr\xfc\xdfe"}}),
    Case("a signed type", {"headers": {"Content-Type": "application/json", "Accept": "text/event-stream"}}),
    Case("a hundred signed headers", {"headers": {f"X-H{number}": str(number) for number in range(100)}}),
    Case("another expectation", {}, (("add", "Expect", "100-continue"),)),
    # -- the Authorization header
    Case(
        "no spaces between parameters",
        {},
        (("sub", "authorization", ", S", ",S"), ("sub", "authorization", ", S", ",S")),
    ),
    Case("more spaces between parameters", {}, (("sub", "authorization", ", Signature", ",   Signature"),)),
    Case("parameters in another order", {}, (("parameters_reversed",),)),
    Case("a parameter that nobody knows", {}, (("sub", "authorization", "Credential=", "X=1, Credential="),)),
    # -- path and query
    Case("no query", {"query": ""}),
    Case("a path with a slash at its end", {"path": PATH + "/"}),
    Case("a query in another order", {"query": "qualifier=DEFAULT&a=1&b=2"}, (("query_reversed",),)),
    Case("a parameter that nobody knows in the query", {"query": "a=b"}),
    Case("a parameter without a value", {"query": "qualifier=DEFAULT&empty=&plain"}),
    Case("a query with escapes", {"query": "qualifier=%44EFAULT&x=%2Fa%3A%20b"}),
    Case("a query with escapes in lower case", {"query": "x=%2fa"}),
    Case("a query that is less encoded than it was signed", {"form": "book", "query": "x=a:b/c&qualifier=DEFAULT"}),
    Case("a plus sign in a query", {"query": "x=a+b"}),
    Case("an equal sign in a value", {"query": "x=a=b"}),
    Case("names of which one begins like another", {"query": "a-b=1&a=2&A=3&ab=4"}),
    Case("a query of a hundred parameters", {"query": LONG_QUERY}),
    Case("a runtime by its id", {"path": f"/runtimes/{RUNTIME_ID}/invocations", "query": "accountId=111122223333"}),
    Case("an escape of a letter in the path", {"path": PATH.replace("%2Fagent", "%2F%61gent")}),
    # -- bodies
    Case("no body", {"body": b""}),
    Case("a body beyond ASCII", {"body": bytes(range(256))}),
    Case("a body of a megabyte", {"body": b"x" * 1_000_000}),
    Case("a body in chunks", {}, (("chunked",),)),
    Case("a hash that was signed", CLAIMED),
    Case("a hash that was signed, of a body in chunks", CLAIMED, (("chunked",),)),
    Case("a hash that was signed, of no body", {"claimed": True, "body": b""}),
    # -- keys
    Case("a temporary key", {"key": TEMPORARY}),
    Case("a temporary key in a presigned request", {**QUERY, "key": TEMPORARY}),
    Case(
        "a temporary key whose token was added to a presigned request",
        {**QUERY, "form": "token outside", "key": TEMPORARY},
    ),
    # -- the query form
    Case("a presigned request", QUERY),
    Case("a presigned request of no body", {**QUERY, "body": b""}),
    Case("a presigned request of nearly its time ago", {**QUERY, "expires_s": 600, "after_s": -590}),
    Case("a presigned request for a week", {**QUERY, "expires_s": 604_800}),
    Case("a presigned request for some seconds", {**QUERY, "expires_s": 60}),
    Case("a presigned request of nearly five minutes hence", {**QUERY, "after_s": 290}),
    Case("a presigned query in another order", QUERY, (("query_reversed",),)),
    Case("a presigned session", {**QUERY, "query": f"{SESSION}={'s' * 40}&qualifier=DEFAULT"}),
    Case("a presigned request with a header that nobody signed", QUERY, (("add", "User-Agent", "x"),)),
    Case("a presigned request with signed headers", {**QUERY, "headers": {"X-Custom": "a", "X-Amz-Custom": "b"}}),
    Case("a presigned request with the same host twice", QUERY, (("again", "Host"),)),
    Case(
        "a presigned request with a name that only begins like Amazon's",
        {**QUERY, "query": "X-Amzn-Custom=a&x-amz-expires=1"},
    ),
    Case("a presigned request with a parameter without a value", {**QUERY, "query": "empty=&qualifier=DEFAULT"}),
)
