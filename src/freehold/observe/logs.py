"""The server's own log: structured lines on stderr.

Not for: what agents print (`warden.output`). Invariant: configured once per process, before anything is logged;
its level alone may change later.
"""

from __future__ import annotations

import logging
import sys

import structlog

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


_threshold = logging.INFO


def set_level(level: str) -> None:
    """Log from `level` on, from now on."""
    global _threshold
    _threshold = _LEVELS[level]


def configure(*, process: str, level: str, json_lines: bool) -> None:
    """Log to stderr from `level` on, each line naming `process`."""
    renderer: structlog.typing.Processor
    if json_lines:
        renderer = structlog.processors.JSONRenderer()
        exceptions: structlog.typing.Processor = structlog.processors.ExceptionRenderer(
            structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        )
    else:
        # Plain: a richer traceback shows local variables, and with them secrets.
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        exceptions = _keep
    set_level(level)
    structlog.configure(
        processors=[
            _from_threshold,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            exceptions,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)


def _from_threshold(
    _logger: structlog.typing.WrappedLogger, name: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Not the wrapper's filter: loggers that are cached would keep the level they began with."""
    if structlog.processors.NAME_TO_LEVEL[name] < _threshold:
        raise structlog.DropEvent
    return event


def _keep(
    _logger: structlog.typing.WrappedLogger, _name: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """The console renderer writes tracebacks itself."""
    return event
