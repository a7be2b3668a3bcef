"""Artifacts in S3: a real S3 server that checks keys and keeps versions, and a wire that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from artifact_parts import interpreters, opened_cache, preparer_of, zipped
from botocore.exceptions import ClientError
from s3_server import OWNER, READER, REGION, S3Server

from freehold.artifacts import s3 as s3_module
from freehold.artifacts import s3_driver
from freehold.artifacts.base import ArtifactRejected, CodeArtifact, S3Object
from freehold.artifacts.s3 import S3
from freehold.artifacts.source import Stopped
from freehold.domain.errors import Unavailable

pytestmark = pytest.mark.slow

THIS = f"PYTHON_3_{sys.version_info.minor}"
AGENT = zipped({"main.py": b"print(1)"})
OTHER = zipped({"main.py": b"print(2)"})
LARGE = os.urandom(3 * 1024 * 1024)


@pytest.fixture(scope="module")
def weed() -> Iterator[S3Server]:
    with S3Server() as server:
        for bucket in ("readable", "private"):
            server.make_bucket(bucket)
        server.client().put_object(Bucket="private", Key="agent.zip", Body=AGENT)
        yield server


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The server's environment: the reader's key and nothing else, whatever this machine has."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    use_key(monkeypatch, READER)


def use_key(monkeypatch: pytest.MonkeyPatch, key: tuple[str, str]) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key[1])


@pytest.fixture
def s3(weed: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", weed.url)
    return S3(["readable", "private", "missing-*"], region=REGION)


def put(weed: S3Server, key: str, data: bytes = AGENT) -> str:
    """The version id."""
    return weed.client().put_object(Bucket="readable", Key=key, Body=data)["VersionId"]


def fetched(s3: S3, source: S3Object, copy: Path) -> bytes:
    s3.fetch(source, copy, threading.Event())
    return copy.read_bytes()


def refusals(s3: S3, source: S3Object, copy: Path, kind: type[Exception] = ArtifactRejected) -> str:
    """What both check and fetch say, which is the same."""
    said: set[str] = set()
    for ask in (lambda: s3.check(source), lambda: s3.fetch(source, copy, threading.Event())):
        with pytest.raises(kind) as caught:
            ask()
        said.add(str(caught.value))
    assert not copy.exists()
    (one,) = said
    return one


# -- what is there -------------------------------------------------------------------------------------------------


def test_an_object_becomes_a_private_copy(weed: S3Server, s3: S3, tmp_path: Path) -> None:
    put(weed, "dir/grün und+blau.zip", LARGE)
    source = S3Object("readable", "dir/grün und+blau.zip")
    s3.check(source)
    assert fetched(s3, source, tmp_path / "copy") == LARGE
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600


def test_a_version_is_the_bytes_it_was(weed: S3Server, s3: S3, tmp_path: Path) -> None:
    first = put(weed, "versions.zip", AGENT)
    second = put(weed, "versions.zip", OTHER)
    weed.client().delete_object(Bucket="readable", Key="versions.zip")
    assert fetched(s3, S3Object("readable", "versions.zip", first), tmp_path / "1") == AGENT
    assert fetched(s3, S3Object("readable", "versions.zip", second), tmp_path / "2") == OTHER
    assert "does not exist in S3" in refusals(s3, S3Object("readable", "versions.zip"), tmp_path / "3")


def test_a_shared_configuration_file_is_as_good_as_the_environment(
    weed: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(weed, "profile.zip")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    config = tmp_path / "config"
    config.write_text(
        f"[profile agents]\naws_access_key_id={READER[0]}\naws_secret_access_key={READER[1]}\nregion=eu-west-1\n"
        f"services=here\n[services here]\ns3 =\n  endpoint_url={weed.url}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "agents")
    assert fetched(S3(["readable"], region=REGION), S3Object("readable", "profile.zip"), tmp_path / "copy") == AGENT


def test_an_agent_is_prepared_from_s3_and_a_local_bucket_hides_one_in_s3(
    weed: S3Server, s3: S3, tmp_path: Path
) -> None:
    put(weed, "agent.zip")
    buckets = tmp_path / "buckets"
    buckets.mkdir()
    preparer = preparer_of(buckets, opened_cache(tmp_path / "artifacts"), interpreters(), s3)
    wanted = CodeArtifact(S3Object("readable", "agent.zip"), THIS, ("main.py",))
    assert preparer.look(wanted) is None
    assert asyncio.run(preparer.prepare(wanted)).digest == hashlib.sha256(AGENT).hexdigest()
    (buckets / "readable").mkdir()
    with pytest.raises(ArtifactRejected, match="does not exist in this server's buckets"):
        asyncio.run(preparer.prepare(wanted))
    (buckets / "readable" / "agent.zip").write_bytes(OTHER)
    assert asyncio.run(preparer.prepare(wanted)).digest == hashlib.sha256(OTHER).hexdigest()


# -- what is not, or may not be read -------------------------------------------------------------------------------


def test_a_bucket_that_no_setting_lists_is_not_even_asked_for(s3: S3, tmp_path: Path) -> None:
    for name in ("others", "readable2", "missing"):
        said = refusals(s3, S3Object(name, "agent.zip"), tmp_path / "copy")
        assert said == (
            f"s3://{name}/agent.zip may not be read: the bucket is neither one of this server's own nor listed in its "
            "setting artifacts.s3_buckets."
        )


@pytest.mark.parametrize(
    ("bucket", "key", "version_id", "said"),
    [
        ("readable", "nothing.zip", None, "s3://readable/nothing.zip does not exist in S3."),
        ("readable", "there.zip", "0" * 32, f"s3://readable/there.zip has no version {'0' * 32} in S3."),
        ("readable", "there.zip", "nonsense", "s3://readable/there.zip has no version nonsense in S3."),
        ("private", "agent.zip", None, "s3://private/agent.zip can't be read: access denied. "),
        ("readable", "x" * 2000, None, "can't be read: S3 answered KeyTooLong"),
    ],
)
def test_what_can_not_be_read_is_told(
    weed: S3Server, s3: S3, tmp_path: Path, bucket: str, key: str, version_id: str | None, said: str
) -> None:
    put(weed, "there.zip")
    found = refusals(s3, S3Object(bucket, key, version_id), tmp_path / "copy")
    assert said in found or (len(key) > 1024 and "s3://" in found)


def test_a_bucket_that_does_not_exist_is_told(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_key(monkeypatch, OWNER)
    said = refusals(s3, S3Object("missing-bucket", "agent.zip"), tmp_path / "copy")
    assert said == "s3://missing-bucket/agent.zip does not exist in S3: there is no such bucket."


@pytest.mark.parametrize(
    ("key", "code"),
    [(("nobody", "secret"), "InvalidAccessKeyId"), ((READER[0], "wrong"), "SignatureDoesNotMatch")],
)
def test_a_key_that_s3_refuses_is_told_without_the_key(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: tuple[str, str], code: str
) -> None:
    use_key(monkeypatch, key)
    said = refusals(s3, S3Object("readable", "there.zip"), tmp_path / "copy")
    assert said == f"s3://readable/there.zip can't be read: S3 refuses the server's credentials ({code})."


def test_missing_credentials_are_told(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert "the server has no AWS credentials" in refusals(s3, S3Object("readable", "there.zip"), tmp_path / "copy")


@pytest.mark.parametrize(("name", "value"), [("AWS_PROFILE", "nowhere"), ("AWS_ENDPOINT_URL_S3", "no url")])
def test_a_configuration_that_can_not_be_used_is_told(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    said = refusals(s3, S3Object("readable", "there.zip"), tmp_path / "copy")
    assert "the server's AWS configuration can't be used" in said


def test_an_object_that_is_too_large_is_refused_before_it_is_fetched(weed: S3Server, s3: S3, tmp_path: Path) -> None:
    put(weed, "large.zip", LARGE)
    said = refusals(s3, S3Object("readable", "large.zip", max_bytes=len(LARGE) - 1), tmp_path / "copy")
    assert said == f"s3://readable/large.zip has {len(LARGE)} bytes; the maximum is {len(LARGE) - 1}."


# -- a wire that misbehaves ----------------------------------------------------------------------------------------

Handler = Callable[[socket.socket, int], None]


@contextlib.contextmanager
def listening(handle: Handler) -> Generator[str]:
    """A server that hands each connection and its number to `handle`; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads: list[threading.Thread] = []

        def one(connection: socket.socket, number: int) -> None:
            with connection, contextlib.suppress(OSError):
                handle(connection, number)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threads.append(threading.Thread(target=one, args=(connection, len(threads))))
                    threads[-1].start()

        accepting = threading.Thread(target=serve)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join(10)
            for thread in threads:
                thread.join(10)
                assert not thread.is_alive()


def head_of(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            raise ConnectionError
        data += more
    return data


def relay(connection: socket.socket, request: bytes, weed: S3Server, *, at_most: int | None = None) -> None:
    """Pass one request on and its answer back, or only the beginning of that; then both connections end."""
    host, _, port = weed.url.removeprefix("http://").partition(":")
    request = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    with socket.create_connection((host, int(port))) as upstream:
        upstream.sendall(request)
        sent = 0
        while (data := upstream.recv(65536)) and (at_most is None or sent < at_most):
            data = data if at_most is None else data[: at_most - sent]
            connection.sendall(data)
            sent += len(data)


def through(url: str, monkeypatch: pytest.MonkeyPatch, **timeouts: float) -> S3:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
    return S3(["readable"], region=REGION, **timeouts)


def test_a_download_that_breaks_off_is_resumed(weed: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(weed, "broken.zip", LARGE)
    ranges: list[bool] = []

    def handle(connection: socket.socket, number: int) -> None:
        request = head_of(connection)
        ranges.append(b"\r\nRange: bytes=" in request and b"\r\nIf-Match: " in request)
        relay(connection, request, weed, at_most=1_500_000 if number == 0 else None)

    with listening(handle) as url:
        s3 = through(url, monkeypatch)
        assert fetched(s3, S3Object("readable", "broken.zip"), tmp_path / "copy") == LARGE
    assert ranges == [False, True]


def test_an_object_that_changes_while_it_is_read_is_refused_and_never_mixed(
    weed: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(weed, "changing.zip", LARGE)

    def handle(connection: socket.socket, number: int) -> None:
        request = head_of(connection)
        if number == 1:
            put(weed, "changing.zip", LARGE[::-1])
        relay(connection, request, weed, at_most=1_500_000 if number == 0 else None)

    with listening(handle) as url, pytest.raises(ArtifactRejected) as caught:
        through(url, monkeypatch).fetch(S3Object("readable", "changing.zip"), tmp_path / "copy", threading.Event())
    assert "s3://readable/changing.zip was changed while it was being read" in str(caught.value)


def test_a_version_can_not_change_while_it_is_read(
    weed: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version_id = put(weed, "kept.zip", LARGE)

    def handle(connection: socket.socket, number: int) -> None:
        request = head_of(connection)
        if number == 1:
            put(weed, "kept.zip", b"new")
        relay(connection, request, weed, at_most=1_500_000 if number == 0 else None)

    with listening(handle) as url:
        found = fetched(through(url, monkeypatch), S3Object("readable", "kept.zip", version_id), tmp_path / "copy")
    assert found == LARGE


def test_a_download_that_always_breaks_off_is_given_up(
    weed: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(weed, "hopeless.zip", LARGE)
    with (
        listening(lambda connection, _: relay(connection, head_of(connection), weed, at_most=100_000)) as url,
        pytest.raises(Unavailable, match="can't be reached, or broke off"),
    ):
        through(url, monkeypatch).fetch(S3Object("readable", "hopeless.zip"), tmp_path / "copy", threading.Event())


def test_an_s3_that_can_not_be_reached_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    s3 = through(f"http://127.0.0.1:{port}", monkeypatch)
    said = refusals(s3, S3Object("readable", "agent.zip"), tmp_path / "copy", Unavailable)
    assert said == "s3://readable/agent.zip could not be read: S3 can't be reached, or broke off."


def test_an_s3_that_does_not_answer_is_told_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(connection: socket.socket, _: int) -> None:
        head_of(connection)
        connection.recv(1)

    with listening(handle) as url:
        s3 = through(url, monkeypatch, read_timeout_s=0.2)
        said = refusals(s3, S3Object("readable", "agent.zip"), tmp_path / "copy", Unavailable)
    assert said == "s3://readable/agent.zip could not be read: S3 did not answer in time."


def drip(connection: socket.socket, _: int) -> None:
    """An answer whose end never comes, though no byte is late."""
    head_of(connection)
    connection.sendall(b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 1000000\r\n\r\n')
    connection.settimeout(0.02)
    while True:
        connection.sendall(b"x")
        with contextlib.suppress(TimeoutError):
            if not connection.recv(1):
                return


def test_bytes_that_only_trickle_are_given_up_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(drip) as url:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="could not be read within 1 s"):
            through(url, monkeypatch, fetch_timeout_s=1).fetch(
                S3Object("readable", "agent.zip"), tmp_path / "copy", threading.Event()
            )
        assert time.monotonic() - began < 10


def test_a_fetch_that_nobody_wants_any_more_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()

    def handle(connection: socket.socket, number: int) -> None:
        stop.set()
        drip(connection, number)

    with listening(handle) as url, pytest.raises(Stopped):
        through(url, monkeypatch).fetch(S3Object("readable", "agent.zip"), tmp_path / "copy", stop)


def test_only_so_many_are_asked_at_once_and_the_others_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "MAX_PROCESSES", 1)
    stop, reached = threading.Event(), threading.Event()

    def handle(connection: socket.socket, number: int) -> None:
        reached.set()
        drip(connection, number)

    def first() -> None:
        with contextlib.suppress(Stopped):
            s3.fetch(S3Object("readable", "agent.zip"), tmp_path / "copy", stop)

    with listening(handle) as url:
        s3 = through(url, monkeypatch, check_timeout_s=0.2)
        thread = threading.Thread(target=first)
        thread.start()
        try:
            assert reached.wait(20)
            with pytest.raises(Unavailable, match="too many objects"):
                s3.check(S3Object("readable", "agent.zip"))
        finally:
            stop.set()
            thread.join(20)


def test_a_reader_of_s3_ends_when_whoever_started_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(drip) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        request = {"bucket": "readable", "key": "agent.zip", "version_id": None, "copy": "/dev/null", "region": REGION}
        request |= {"max_bytes": 10**9, "connect_timeout_s": 5, "read_timeout_s": 5}
        driver = subprocess.Popen(
            [sys.executable, "-I", "-m", "freehold.artifacts.s3_driver", json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with driver:
            try:
                assert driver.stdin is not None
                driver.stdin.close()
                assert driver.wait(20) == s3_driver.ABANDONED_STATUS
            finally:
                driver.kill()


def test_an_internal_error_of_s3_is_no_fault_of_the_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(connection: socket.socket, _: int) -> None:
        head_of(connection)
        body = b"<Error><Code>InternalError</Code></Error>"
        connection.sendall(b"HTTP/1.1 500 X\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with listening(handle) as url:
        s3 = through(url, monkeypatch)
        said = refusals(s3, S3Object("readable", "agent.zip"), tmp_path / "copy", Unavailable)
    assert said == "s3://readable/agent.zip could not be read: S3 answered InternalError."


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (301, "PermanentRedirect", "is in another region"),
        (403, "InvalidObjectState", "is archived"),
        (403, "RequestTimeTooSkewed", "refuses the server's credentials"),
        (418, "Teapot\x1b", "S3 answered"),
    ],
)
def test_other_answers_of_s3_have_a_reason_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: str, said: str
) -> None:
    def handle(connection: socket.socket, _: int) -> None:
        is_head = head_of(connection).startswith(b"HEAD ")
        body = b"" if is_head else f"<Error><Code>{code}</Code></Error>".encode()
        region = b"x-amz-bucket-region: eu-west-1\r\n" if is_head else b""
        head = b"HTTP/1.1 %d X\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n" % (status, region, len(body))
        connection.sendall(head + body)

    with listening(handle) as url:
        found = refusals(through(url, monkeypatch), S3Object("readable", "agent.zip"), tmp_path / "copy")
    assert said in found
    assert found.isprintable()


def test_the_oracle_denies_what_it_should(weed: S3Server) -> None:
    client: Any = weed.client(READER)
    with pytest.raises(ClientError, match="AccessDenied"):
        client.get_object(Bucket="private", Key="agent.zip")
