"""Reads one S3 object: a program that `artifacts.s3` runs for each, so that it can be ended at any moment.

Run as `python -I -m freehold.artifacts.s3_driver REQUEST`, a JSON object. botocore finds endpoint, region and
credentials as it does for any program, in the environment that this one was given. Prints a report, a JSON object.
Ends when its standard input does, which is when whoever started it is gone. Invariant: what is written is one state
of the object, and never more than `max_bytes`.

Source: the S3 API reference, GetObject.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any, BinaryIO, Final

import botocore.exceptions as aws
import botocore.session
from botocore.config import Config

ABANDONED_STATUS: Final = 29
MAX_RESUMES: Final = 3
_CHUNK: Final = 1024 * 1024
_NO_CREDENTIALS: Final = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.TokenRetrievalError,
    aws.NoAuthTokenError,
    aws.SSOError,
)
_BAD_CONFIGURATION: Final = (
    aws.BotoCoreError,  # what is left of them: profiles, files, regions
    ValueError,  # an endpoint that is no URL
)


def main() -> None:
    """Do what the request says, and say how it went."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    request: dict[str, Any] = json.loads(sys.argv[1])
    try:
        report = _serve(request)
    except aws.ClientError as error:
        report = _told(error)
    except _NO_CREDENTIALS as error:
        report = {"failure": "no_credentials", "detail": str(error)}
    except aws.ParamValidationError as error:
        report = {"failure": "bad_name", "detail": str(error)}
    except (aws.ReadTimeoutError, aws.ConnectTimeoutError) as error:
        report = {"failure": "slow", "detail": str(error)}
    except aws.FlexibleChecksumError as error:
        report = {"failure": "damaged", "detail": str(error)}
    except (aws.ConnectionError, aws.HTTPClientError, aws.IncompleteReadError) as error:
        report = {"failure": "unreachable", "detail": str(error)}
    except RecursionError as error:
        # botocore's answer to a redirect that names no region is to ask again and again.
        report = {"failure": "answer", "code": "PermanentRedirect", "status": 301, "detail": str(error)}
    except _BAD_CONFIGURATION as error:
        report = {"failure": "bad_configuration", "detail": str(error)}
    except OSError as error:
        report = {"failure": "os_error", "errno": error.errno, "detail": str(error)}
    print(json.dumps(report), flush=True)  # noqa: T201 - its answer


def _serve(request: dict[str, Any]) -> dict[str, Any]:
    session = botocore.session.get_session()
    # To know of one service, it would look for the files of all of them: a third of what a client costs.
    session.get_component("data_loader").list_available_services = lambda type_name: ["s3"]  # pyright: ignore
    region = session.get_config_variable("region") or request["region"]
    client: Any = session.create_client(
        "s3",
        region_name=region,
        config=Config(
            connect_timeout=request["connect_timeout_s"],
            read_timeout=request["read_timeout_s"],
            retries={"total_max_attempts": 2, "mode": "standard"},
        ),
    )
    which = {"Bucket": request["bucket"], "Key": request["key"]}
    if request["version_id"] is not None:
        which["VersionId"] = request["version_id"]
    # Not HeadObject, whose refusals have no body that says why.
    answer = client.get_object(**which)
    size = answer["ContentLength"]
    if size > request["max_bytes"]:
        return {"failure": "too_large", "size": size}
    if request["copy"] is None:
        return {"size": size}
    fd = os.open(request["copy"], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as out:  # noqa: PTH123 - a descriptor, not a path
        return _download(client, which, answer, out)


def _download(client: Any, which: dict[str, str], answer: dict[str, Any], out: BinaryIO) -> dict[str, Any]:
    """Write the object that `answer` begins to bring. A download that breaks off is resumed where it stopped."""
    size, etag = answer["ContentLength"], answer["ETag"]
    written = 0
    for left in reversed(range(MAX_RESUMES + 1)):
        try:
            while data := answer["Body"].read(_CHUNK):
                written += len(data)
                if written > size:
                    return {"failure": "changed"}
                out.write(data)
        except (aws.IncompleteReadError, aws.ResponseStreamingError):
            if left == 0:
                raise
        if written == size:
            return {"size": size}
        # The rest must be of the same state of the object.
        answer = client.get_object(**which, IfMatch=etag, Range=f"bytes={written}-")
    return {"failure": "changed"}


def _told(error: aws.ClientError) -> dict[str, Any]:
    """What S3 answered, as a report."""
    said: Any = error.response.get("Error", {})
    code = str(said.get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return {
        "failure": "answer",
        "code": code,
        "status": status,
        "detail": str(said.get("Message", "")),
    }


def _end_with_input() -> None:
    # Not through sys.stdin, whose lock the interpreter wants when it ends.
    while os.read(0, 4096):
        pass
    os._exit(ABANDONED_STATUS)


if __name__ == "__main__":
    main()
