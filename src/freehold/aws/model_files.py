"""Finds and reads the service models that are installed with botocore, without importing botocore.

For: `aws.model`. Importing botocore takes a server longer than all else that it does with the models. Not for other
places where botocore would look, such as a user's `~/.aws/models`: a server is what its release says. Invariant: what
is read is what botocore's own loader reads of the installed files.
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import msgspec

SERVICE_MODEL: Final = "service-2"


class NoModel(Exception):
    """There is no model of the service."""


def read(service_name: str) -> dict[str, Any]:
    """The newest model of a service. Raises NoModel."""
    found = {path.parent.name: path for path in _data().glob(f"{service_name}/*/{SERVICE_MODEL}.json*")}
    if not found:
        raise NoModel(f"the installed botocore has no service {service_name}")
    path = found[max(found)]
    if path.with_name(f"{SERVICE_MODEL}.sdk-extras.json").exists():
        # To be merged in a way that only botocore knows.
        from botocore.loaders import create_loader

        return create_loader().load_service_model(service_name, SERVICE_MODEL)
    content = path.read_bytes()
    return msgspec.json.decode(gzip.decompress(content) if path.suffix == ".gz" else content, type=dict[str, Any])


def _data() -> Path:
    spec = find_spec("botocore")
    if spec is None or spec.origin is None:
        raise NoModel("botocore is not installed")
    return Path(spec.origin).parent / "data"
