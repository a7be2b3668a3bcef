"""Where each of the server's processes begins: `python -m freehold.process` with `child.Arguments`.

Not for what it does (`compose`). Invariant: nothing large is imported before `startup.import_lightly` has been called.
"""

from __future__ import annotations

import sys

from freehold import startup


def main() -> int:
    startup.import_lightly()
    from freehold import compose

    return compose.main()


if __name__ == "__main__":
    sys.exit(main())
