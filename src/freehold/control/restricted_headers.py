"""Request headers that a runtime may not ask to have forwarded: names of the service, as data.

Source: developer guide, runtime-header-allowlist (spec section 1.5). Invariant: everything here is lower case.
"""

from __future__ import annotations

from typing import Final

CUSTOM_PREFIX: Final = "x-amzn-bedrock-agentcore-runtime-custom-"
"""The one corner of AWS's namespace that is the customer's."""

PREFIXES: Final = ("x-amz-", "x-amzn-", "accept-", "if-", "access-control-", "sec-websocket-")

NAMES: Final = frozenset(
    {
        "proxy-authorization",
        "www-authenticate",
        "accept",
        "content-type",
        "content-length",
        "content-encoding",
        "content-language",
        "content-location",
        "content-range",
        "cache-control",
        "etag",
        "expires",
        "last-modified",
        "pragma",
        "vary",
        "connection",
        "keep-alive",
        "proxy-connection",
        "upgrade",
        "host",
        "user-agent",
        "referer",
        "from",
        "range",
        "transfer-encoding",
        "te",
        "trailer",
        "server",
        "date",
        "location",
        "retry-after",
        "set-cookie",
        "cookie",
        "content-security-policy",
        "content-security-policy-report-only",
        "strict-transport-security",
        "x-content-type-options",
        "x-frame-options",
        "x-xss-protection",
        "referrer-policy",
        "permissions-policy",
        "cross-origin-embedder-policy",
        "cross-origin-opener-policy",
        "cross-origin-resource-policy",
        "origin",
        "dpr",
        "width",
        "viewport-width",
        "downlink",
        "ect",
        "rtt",
        "save-data",
        "clear-site-data",
        "feature-policy",
        "expect-ct",
        "public-key-pins",
        "public-key-pins-report-only",
        "via",
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-real-ip",
        "x-requested-with",
        "x-csrf-token",
        "true-client-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-originating-ip",
        "x-source-ip",
        "x-original-url",
        "x-original-host",
        "x-rewrite-url",
        "cf-ray",
        "cf-connecting-ip",
        "x-cache",
        "x-served-by",
        "link",
    }
)


def is_restricted(name: str) -> bool:
    """Whether the header `name` (lower case) may not be in an allowlist."""
    if name.startswith(CUSTOM_PREFIX):
        return len(name) == len(CUSTOM_PREFIX)
    return name in NAMES or name.startswith(PREFIXES)
