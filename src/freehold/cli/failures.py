"""Expected failures of commands, and where the others' are found: apart, because what raises them is slow to import.

Not for showing them (`cli.main`). Invariant: importing this module imports nothing but the standard library.
"""

from __future__ import annotations


class ClientError(Exception):
    """The server did not do what was asked. The message is what it said."""


class DeployError(Exception):
    """The folder can't be deployed. The message says why."""


def expected() -> tuple[type[Exception], ...]:
    """What ends a command with one line and status 1: what the user can do something about."""
    from freehold import processes, running, settings
    from freehold.datadir import backup, custody, restore
    from freehold.store.base import StoreRefused

    return (
        ClientError,
        DeployError,
        processes.CannotStart,
        running.NoServer,
        settings.SettingsError,
        backup.BackupFailed,
        restore.RestoreFailed,
        custody.DataDirRefused,
        StoreRefused,
    )
