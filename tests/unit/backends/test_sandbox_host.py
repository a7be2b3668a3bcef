"""What a host has and lacks: cgroups, bubblewrap's arguments, reasons to refuse."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from freehold.backends.sandbox import bubblewrap, cgroups, etc, refusal
from freehold.backends.sandbox.uids import NoUidLeft, Uids, reserved_ranges

NOTHING_WRONG = refusal.Host(None, None, "1000", False)


@pytest.mark.parametrize(
    ("host", "complaint", "remedy"),
    [
        (refusal.Host("1", None, "1000", False), "setting up uid map", "apparmor_restrict_unprivileged_userns=0"),
        (refusal.Host(None, "0", "1000", False), "No permissions to create", "kernel.unprivileged_userns_clone=1"),
        (refusal.Host(None, "1", "0", False), "No space left", "user.max_user_namespaces="),
        (refusal.Host(None, None, "1000", True), "Operation not permitted", "seccomp=unconfined"),
        (refusal.Host(None, None, "1000", True), "Can't mount proc on /newroot/proc", "systempaths=unconfined"),
        (NOTHING_WRONG, "bwrap: it is what it is", "it is what it is"),
        (NOTHING_WRONG, "", "no reason was given"),
    ],
)
def test_a_refusal_names_the_command_that_enables_the_sandbox(host: refusal.Host, complaint: str, remedy: str):
    assert remedy in refusal.explain(complaint, host)


HYBRID = """\
30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
31 30 0:27 / {root}/memory rw,relatime - cgroup cgroup rw,memory
32 30 0:28 / {root}/pids rw,relatime shared:5 - cgroup cgroup rw,pids
33 30 0:29 / {root}/cpu rw,relatime - cgroup cgroup rw,cpu
34 30 0:30 / {root}/unified rw,relatime - cgroup2 cgroup2 rw
"""


def test_version_1_hierarchies_are_found_with_our_place_in_them(tmp_path: Path):
    for name in ("memory/service/x", "pids", "unified"):
        (tmp_path / name).mkdir(parents=True)
    mounts = cgroups.mounted(HYBRID.format(root=tmp_path), "4:memory:/service/x\n8:pids:/\n0::/\n")
    assert [(mount.own, set(mount.controllers)) for mount in mounts] == [
        (tmp_path / "memory/service/x", {"memory"}),
        (tmp_path / "pids", {"pids"}),
        (tmp_path / "unified", set()),
    ]
    made = cgroups.discover("abc", mounts)
    assert made.missing == ()
    for directory, file in (("memory/service/x", "memory.limit_in_bytes"), ("pids", "pids.max")):
        (tmp_path / directory / "freehold-abc" / "7").mkdir()
        (tmp_path / directory / "freehold-abc" / "7" / file).touch()
    joins = made.make(7, cgroups.Limits(1024, 16))
    assert joins == [
        str(tmp_path / "memory/service/x/freehold-abc/7/tasks"),
        str(tmp_path / "pids/freehold-abc/7/tasks"),
    ]
    assert (tmp_path / "memory/service/x/freehold-abc/7/memory.limit_in_bytes").read_text() == "1024"
    assert (tmp_path / "pids/freehold-abc/7/pids.max").read_text() == "16"
    assert made.leftover().keys() == {7}


def version_2(place: Path, controllers: str, passed: str) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / "cgroup.controllers").write_text(controllers)
    (place / "cgroup.subtree_control").write_text(passed)
    (place / "cgroup.procs").write_text("")


def test_version_2_uses_the_nearest_cgroup_that_passes_controllers_on(tmp_path: Path):
    version_2(tmp_path, "cpu memory pids", "memory pids")
    version_2(tmp_path / "app", "memory pids", "memory pids")
    version_2(tmp_path / "app" / "server", "memory pids", "")
    # Like the kernel of a cgroup with processes: it does not pass anything on.
    (tmp_path / "app" / "server" / "cgroup.subtree_control").unlink()
    version_2(tmp_path / "app" / "freehold-abc", "memory pids", "")
    made = cgroups.discover("abc", [cgroups.Mount(tmp_path, tmp_path / "app" / "server", frozenset())])
    assert (tmp_path / "app/freehold-abc/cgroup.subtree_control").read_text() == "+memory +pids"
    assert made.missing == ()
    session = tmp_path / "app" / "freehold-abc" / "7"
    session.mkdir()
    for name in ("memory.max", "memory.oom.group", "pids.max"):
        (session / name).touch()
    assert made.make(7, cgroups.Limits(1024, 16)) == [str(session / "cgroup.procs")]
    assert [(session / name).read_text() for name in ("memory.max", "memory.oom.group", "pids.max")] == [
        "1024",
        "1",
        "16",
    ]


def test_what_can_not_be_written_is_named(tmp_path: Path):
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "freehold-abc").write_text("a file where the cgroup should be")
    made = cgroups.discover("abc", [cgroups.Mount(tmp_path / "memory", tmp_path / "memory", frozenset({"memory"}))])
    assert made.missing == ("memory", "pids")
    assert made.make(7, cgroups.Limits(1024, 16)) == []


def view(**other: object) -> bubblewrap.View:
    usual = {"etc": "/d/etc", "home": "/d/home", "tmp": "/d/tmp", "code": "/d/code", "prefixes": {}, "masked": []}
    return bubblewrap.View(**(usual | {"environment": {}} | other))  # type: ignore[arg-type]


@pytest.mark.parametrize("where", [{"environment": {"A": "b\0--bind\0/\0/host"}}, {"code": "/d/c\0x"}])
def test_a_nul_never_becomes_another_argument(where: dict[str, object]):
    with pytest.raises(ValueError, match="NUL"):
        bubblewrap.arguments(view(**where))


def test_the_way_to_an_interpreter_can_be_passed_but_not_read():
    args = bubblewrap.arguments(view(prefixes={"/opt/a/b": "/s/0", "/opt/a/b/c/d": "/s/1", "/usr/local/x/y": "/s/2"}))
    closed = [args[index + 2] for index, word in enumerate(args) if word == "--chmod"]
    assert closed == ["/opt", "/opt/a"]


def test_an_agents_own_environment_stands_over_what_the_sandbox_says():
    found = bubblewrap.environment({"LANG": "de_DE", "PYTHONPATH": "/var/task/lib", "PATH": "/x"}, "/opt/py/bin/python")
    assert (found["LANG"], found["PATH"], found["HOME"]) == ("de_DE", "/x", "/home/agent")
    assert found["PYTHONPATH"] == "/var/task:/var/task/lib"


def test_etc_holds_public_certificates_and_no_secrets(tmp_path: Path):
    host = tmp_path / "host"
    (host / "ssl" / "private").mkdir(parents=True)
    (host / "ssl" / "private" / "host.key").write_text("secret")
    (host / "ssl" / "certs").mkdir()
    (host / "ssl" / "certs" / "ca.pem").write_text("public")
    (host / "ssl" / "certs" / "ca.pem").chmod(0o644)
    (host / "ssl" / "certs" / "link.pem").symlink_to("ca.pem")
    (host / "ssl" / "closed.key").write_text("secret")
    (host / "ssl" / "closed.key").chmod(0o600)
    (host / "ssl").chmod(0o755)
    (host / "ssl" / "certs").chmod(0o755)
    (host / "passwd").write_text("root:x:0:0:the operator:/root:/bin/sh")
    os.umask(0o077)
    try:
        for _ in range(2):
            etc.build(tmp_path / "etc", host)
    finally:
        os.umask(0o022)
    names = {str(path.relative_to(tmp_path / "etc")) for path in (tmp_path / "etc").rglob("*")}
    assert {"ssl/certs/ca.pem", "ssl/certs/link.pem", "passwd", "group", "hosts"} <= names
    assert not {name for name in names if "private" in name or "closed" in name}
    assert "operator" not in (tmp_path / "etc" / "passwd").read_text()
    assert (tmp_path / "etc" / "ssl").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "etc" / "passwd").stat().st_mode & 0o777 == 0o644


def test_a_uid_is_leased_once_on_a_host():
    first, second = Uids(3_900_000_000), Uids(3_900_000_000)
    one, two, three = first.lease(), second.lease(), first.lease()
    assert len({one, two, three}) == 3
    assert not second.take(one)
    first.release(one)
    assert second.lease() == one
    for uids in (first, second):
        for uid in list(uids.range)[:4]:
            if uid in uids:
                uids.release(uid)
    passed = Uids(3_900_000_000, reserved_ranges("a:3899999999:10\nb:3900000009:1\n# c:1:x\n"))
    assert passed.lease() == 3_900_000_010
    passed.release(3_900_000_010)
    first.range = range(0)
    with pytest.raises(NoUidLeft):
        first.lease()
