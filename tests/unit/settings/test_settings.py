from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from freehold import settings


def load(
    toml: str | None = None, flags: dict[str, Any] | None = None, tmp_path: Path | None = None, **environment: str
):
    file = None
    if toml is not None:
        assert tmp_path is not None
        file = tmp_path / "freehold.toml"
        file.write_text(toml)
    return settings.load(file=file, flags=flags, environment=environment)


def test_the_defaults_listen_on_loopback_port_2673_with_a_sandbox(tmp_path: Path):
    found = load(HOME=str(tmp_path))
    assert (found.server.host, found.server.port) == ("127.0.0.1", 2673)
    assert found.sandbox.mode == "auto"


def test_flags_win_over_the_environment_and_the_environment_over_the_file(tmp_path: Path):
    toml = '[server]\nport = 1000\nworkers = 4\n[log]\nlevel = "debug"\n'
    found = load(
        toml,
        {"server": {"port": 3000, "host": None}},
        tmp_path,
        FREEHOLD_SERVER__PORT="2000",
        FREEHOLD_SERVER__WORKERS="2",
    )
    assert (found.server.port, found.server.workers, found.log.level) == (3000, 2, "debug")
    assert found.server.host == "127.0.0.1", "a flag that was not given says nothing"


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"FREEHOLD_SERVER__PROT": "1"}, "server.prot: there is no such setting"),
        ({"FREEHOLD_NOTHING": "1"}, "nothing: there is no such setting"),
        ({"FREEHOLD_SERVER__PORT": "many"}, "server.port"),
        ({"FREEHOLD_SERVER__PORT": "70000"}, "server.port"),
        ({"FREEHOLD_SERVER": "1"}, "server"),
        ({"FREEHOLD_AWS__REGION": "moon"}, "aws.region"),
        ({"FREEHOLD_AWS__ACCOUNT_ID": "1"}, "aws.account_id"),
        ({"FREEHOLD_SANDBOX__MODE": "none"}, "sandbox.mode"),
        ({"FREEHOLD_SERVER__PUBLIC_URL": "https://a.example/path"}, "server.public_url"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(environment: dict[str, str], named: str):
    with pytest.raises(settings.SettingsError, match=named.replace(".", r"\.")):
        load(**environment)


def test_what_the_build_was_told_is_no_setting():
    assert load(FREEHOLD_COMPILE="always") == load()


def test_an_unknown_key_in_the_file_is_refused(tmp_path: Path):
    with pytest.raises(settings.SettingsError, match="servers: there is no such setting"):
        load("[servers]\nport = 1\n", tmp_path=tmp_path)


@pytest.mark.parametrize("toml", ["= 1", "\x00", "[server"])
def test_a_file_that_is_no_toml_is_refused_by_its_name(toml: str, tmp_path: Path):
    with pytest.raises(settings.SettingsError, match=r"freehold\.toml"):
        load(toml, tmp_path=tmp_path)


def test_a_named_file_that_is_missing_is_refused(tmp_path: Path):
    with pytest.raises(settings.SettingsError, match=r"gone\.toml"):
        settings.load(file=tmp_path / "gone.toml", environment={})


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.com"])
def test_a_public_address_needs_a_declared_tls_terminator(host: str):
    with pytest.raises(settings.SettingsError, match="behind_tls"):
        load(FREEHOLD_SERVER__HOST=host)
    assert load(FREEHOLD_SERVER__HOST=host, FREEHOLD_SERVER__BEHIND_TLS="true").server.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_nothing(host: str):
    assert load(FREEHOLD_SERVER__HOST=host).server.host == host


def test_there_is_no_mode_that_takes_any_credentials():
    for name in ("FREEHOLD_AUTH__MODE", "FREEHOLD_SERVER__ANY_CREDENTIALS", "FREEHOLD_SERVER__AUTH"):
        with pytest.raises(settings.SettingsError, match="there is no such setting"):
            load(**{name: "any"})


def test_trusted_proxies_are_networks():
    found = load(FREEHOLD_SERVER__TRUSTED_PROXIES="10.0.0.0/8, ::1").server.trusted_proxies
    assert found == ("10.0.0.0/8", "::1")
    for wrong in ("proxy.example.com", "10.0.0.1/8"):
        with pytest.raises(settings.SettingsError, match=f"{wrong}' is no network"):
            load(FREEHOLD_SERVER__TRUSTED_PROXIES=wrong)


def test_process_mode_is_never_reachable_from_outside():
    with pytest.raises(settings.SettingsError, match="isolates nothing"):
        load(FREEHOLD_SERVER__HOST="0.0.0.0", FREEHOLD_SERVER__BEHIND_TLS="1", FREEHOLD_SANDBOX__MODE="process")


def test_buckets_and_interpreters_are_read_from_file_and_environment(tmp_path: Path):
    found = load(
        '[artifacts]\ns3_buckets = ["code-*"]\ninterpreters = { PYTHON_3_12 = "/opt/p/bin/python" }\n',
        None,
        tmp_path,
        FREEHOLD_ARTIFACTS__INTERPRETERS__NODE_22="/opt/n/bin/node",
    )
    assert found.artifacts.s3_buckets == ("code-*",)
    assert found.artifacts.interpreters == {"PYTHON_3_12": "/opt/p/bin/python", "NODE_22": "/opt/n/bin/node"}
    assert load(FREEHOLD_ARTIFACTS__S3_BUCKETS="one, two-?").artifacts.s3_buckets == ("one", "two-?")


def test_no_bucket_of_s3_may_be_read_by_default():
    assert load().artifacts.s3_buckets == ()


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"FREEHOLD_ARTIFACTS__S3_BUCKETS": "s3://code"}, "artifacts.s3_buckets"),
        ({"FREEHOLD_ARTIFACTS__INTERPRETERS__PYTHON_2_7": "/usr/bin/python"}, "PYTHON_2_7 is not a managed runtime"),
        ({"FREEHOLD_ARTIFACTS__INTERPRETERS__NODE_22": "node"}, "'node' is not an absolute path"),
        ({"FREEHOLD_ARTIFACTS__MAX_CACHE_MIB": "0"}, "artifacts.max_cache_mib"),
        ({"FREEHOLD_ARTIFACTS__LOCAL_VERSIONS": "0"}, "artifacts.local_versions"),
    ],
)
def test_a_wrong_setting_for_artifacts_is_refused_by_name(environment: dict[str, str], named: str):
    with pytest.raises(settings.SettingsError, match=named.replace(".", r"\.")):
        load(**environment)
