"""Directory trees that hold a customer's files: sealed, measured, made durable, removed.

Not for what is in them. Invariant: no link is followed, whatever the tree holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from pathlib import Path
from typing import Final

SEALED_DIRECTORY: Final = 0o555
SEALED_FILE: Final = 0o444
SEALED_EXECUTABLE: Final = 0o555
_BLOCK_BYTES: Final = 512
"""The unit of st_blocks, whatever the file system's own is: inode(7)."""


def seal(root: Path) -> None:
    """Make `root` and all below it readable by everyone and writable by nobody."""
    for directory, _, _ in os.walk(root, topdown=False):
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    executable = entry.stat(follow_symlinks=False).st_mode & 0o111
                    Path(entry.path).chmod(SEALED_EXECUTABLE if executable else SEALED_FILE)
        Path(directory).chmod(SEALED_DIRECTORY)


def remove(path: Path) -> None:
    """Remove a file or a tree, sealed or not. It may have gone already."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for directory, subdirectories, _ in os.walk(path):
        # Without this an ordinary user can't remove what lies in a sealed directory.
        Path(directory).chmod(0o700)
        for name in subdirectories:
            below = Path(directory, name)
            if not below.is_symlink():
                below.chmod(0o700)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def disk_bytes(root: Path) -> int:
    """What a tree takes on its disk. Nothing of it may go meanwhile."""
    total = os.lstat(root).st_blocks
    for directory, subdirectories, files in os.walk(root):
        total += sum(os.lstat(f"{directory}/{name}").st_blocks for name in (*subdirectories, *files))
    return total * _BLOCK_BYTES


def sync_file_system(path: Path) -> None:
    """Make everything on the file system of `path` durable: one call for a tree of many files."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
