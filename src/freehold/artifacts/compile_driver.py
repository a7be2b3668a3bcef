"""Compiles a share of a bundle's Python files: a script that the bundle's own interpreter runs.

Run as `python -I -S compile_driver.py ROOT SHARE SHARES`, with nothing but the standard library of any supported
Python, so nothing of ours is imported. Prints how many files were compiled and how many could not be. Ends when its
standard input does, which is when whoever started it is gone. Invariant: source is parsed, never executed.
"""

import errno
import os
import py_compile
import resource
import sys
import threading

DISK_FULL_STATUS = 28
ABANDONED_STATUS = 29

CPU_LIMIT_S = 300
MEMORY_LIMIT_BYTES = 4 * 1024**3
"""Source can be made to take the compiler any time and memory."""


def main() -> None:
    root, share, shares = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with_input, daemon=True).start()
    compiled = failed = 0
    for number, path in enumerate(_sources(root)):
        if number % shares != share:
            continue
        try:
            # The bundle never changes, so its files need not be looked at again to know that the cache is theirs.
            py_compile.compile(
                path,
                dfile=os.path.relpath(path, root),
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                sys.exit(DISK_FULL_STATUS)
            failed += 1
        except Exception:
            # Source that can't be compiled (Python 2 in a test folder, a template) is the agent's business.
            failed += 1
        else:
            compiled += 1
    print(compiled, failed, flush=True)  # noqa: T201 - its answer


def _sources(root: str) -> list[str]:
    found: list[str] = []
    for directory, subdirectories, names in os.walk(root):
        subdirectories.sort()
        found += [f"{directory}/{name}" for name in sorted(names) if name.endswith(".py")]
    return found


def _end_with_input() -> None:
    # Not through sys.stdin, whose lock the interpreter wants when it ends.
    while os.read(0, 4096):
        pass
    os._exit(ABANDONED_STATUS)


if __name__ == "__main__":
    main()
