"""Certificates of private authorities: PEM objects in the buckets that code is read from.

For: certificateConfigurations of authorizers, when a configuration comes and each time keys are fetched. Not for using
them (`fetching`). Invariant: what `read` returns is certificates in PEM and nothing else.
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Final

from anyio import to_thread
from cryptography import x509

from freehold.artifacts.base import ArtifactRejected, S3Object
from freehold.artifacts.source import Source, uri
from freehold.control.fetching import FetchFailed
from freehold.domain.errors import FreeholdError

MAX_BYTES: Final = 64 * 1024


class Certificates:
    """Reads from `source`."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def load(self, bucket: str, key: str) -> str:
        """The PEM text of an object. Blocking. Raises ArtifactRejected, FreeholdError."""
        where = S3Object(bucket, key, max_bytes=MAX_BYTES)
        with tempfile.TemporaryDirectory(prefix="freehold-certificate-") as directory:
            copy = Path(directory) / "certificate.pem"
            self._source.fetch(where, copy, threading.Event())
            data = copy.read_bytes()
        try:
            x509.load_pem_x509_certificates(data)
            return data.decode("ascii")
        except ValueError:
            raise ArtifactRejected(f"{uri(where)} does not hold certificates in PEM.") from None

    async def read(self, bucket: str, key: str) -> str:
        """The same, outside of the event loop. Raises FetchFailed."""
        try:
            return await to_thread.run_sync(self.load, bucket, key)
        except ArtifactRejected as rejected:
            raise FetchFailed(str(rejected)) from None
        except FreeholdError as error:
            raise FetchFailed(error.message) from None
