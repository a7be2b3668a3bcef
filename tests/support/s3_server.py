"""A real S3 server on loopback: SeaweedFS, which checks keys and keeps versions."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
from botocore.config import Config
from ports import lease

WEED = Path(sys.executable).with_name("weed")
REGION = "us-east-1"
READER = ("readerkey", "reader-secret")
"""May read the bucket `readable`, and nothing else."""
OWNER = ("ownerkey", "owner-secret")
START_LIMIT_S = 60.0
_GRPC_OFFSET = 10_000
_LAST_PORT = 22_700
"""So that those of gRPC are below the ones that the kernel takes for connections, too."""


class S3Server:
    """`with` starts and stops it. `url` is its endpoint."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="freehold-s3-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> S3Server:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._home)

    def client(self, key: tuple[str, str] = OWNER) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=key[0],
            aws_secret_access_key=key[1],
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=20),
        )

    def make_bucket(self, name: str) -> None:
        """An empty bucket that keeps versions."""
        client = self.client()
        client.create_bucket(Bucket=name)
        client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})

    # -- the process -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        config = self._home / "s3.json"
        config.write_text(
            json.dumps(
                {
                    "identities": [
                        _identity("owner", OWNER, ["Admin"]),
                        _identity("reader", READER, ["Read:readable"]),
                    ]
                }
            )
        )
        data = self._home / "data"
        data.mkdir()
        names = ("master", "volume", "filer", "s3", "admin")
        ports = {name: lease(last=_LAST_PORT, offsets=(0, _GRPC_OFFSET)) for name in names}
        options = [f"-{name}.port={port}" for name, port in ports.items()]
        options += [f"-{name}.port.grpc={port + _GRPC_OFFSET}" for name, port in ports.items()]
        off = ("webdav=false", "admin.ui=false", "s3.iam=false", "s3.port.iceberg=0", "s3.port.lance=0")
        self.url = f"http://127.0.0.1:{ports['s3']}"
        with (self._home / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    WEED,
                    *("mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={config}"),
                    f"-filer.localSocket={self._home}/filer.sock",
                    *options,
                    *(f"-{one}" for one in off),
                ],
                cwd=self._home,
                env={"PATH": os.environ["PATH"], "HOME": str(self._home)},
                stdout=log,
                stderr=log,
            )
        self._wait()

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_LIMIT_S
        client = self.client()
        while True:
            with contextlib.suppress(botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
                self.make_bucket("ready")
                client.put_object(Bucket="ready", Key="ready", Body=b"x")
                return
            said = (self._home / "log").read_text(errors="replace")[-3000:]
            assert self._process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.1)


def _identity(name: str, key: tuple[str, str], actions: list[str]) -> dict[str, Any]:
    return {"name": name, "credentials": [{"accessKey": key[0], "secretKey": key[1]}], "actions": actions}
