"""The /etc that every agent sees: a few files of ours and copies of what libraries look for.

Made anew at every start of the server. Invariant: nothing of the host's users, names, addresses or keys is in it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from freehold.backends.sandbox.bubblewrap import AGENT_ID, HOME

_OURS = {
    "passwd": f"agent:x:{AGENT_ID}:{AGENT_ID}:agent:{HOME}:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "group": f"agent:x:{AGENT_ID}:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost agent\n::1 localhost\n",
    "hostname": "agent\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    # Nothing outside can be reached: an answer at once is better than a wait for none.
    "resolv.conf": "options timeout:1 attempts:1\n",
}
_FILES = ("ld.so.cache", "localtime", "timezone", "services", "protocols", "mime.types", "os-release")
_TREES = ("alternatives", "ssl", "pki/ca-trust/extracted", "pki/tls/certs", "ca-certificates/extracted")
"""Program alternatives, and the public certificate stores of the distributions."""


def build(directory: Path, host: Path = Path("/etc")) -> None:
    """Make `directory` from nothing, readable by everybody."""
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    for name, text in _OURS.items():
        (directory / name).write_text(text)
    for name in _FILES:
        if (host / name).is_file():
            shutil.copyfile(host / name, directory / name)
    for name in _TREES:
        if (host / name).is_dir():
            shutil.copytree(host / name, directory / name, symlinks=True, ignore=_private, copy_function=_copy)
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)


def _private(directory: str, names: list[str]) -> set[str]:
    """Keys, and whatever not everybody may read."""
    hidden = {"private"} & set(names)
    for name in names:
        path = Path(directory, name)
        if not path.is_symlink() and not path.stat().st_mode & 0o004:
            hidden.add(name)
    return hidden


def _copy(source: str, target: str) -> None:
    shutil.copyfile(source, target, follow_symlinks=False)
