"""Structured logs to stderr, one line an event, through one scrubber.

Our modules log with the standard library; structlog renders, so Kopf's and urllib3's
lines look like ours. Invariant: the very last step before a line is written removes
secrets, tracebacks included.
"""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any, Final, TextIO, cast

import structlog

from bubu_operator.errors import OptionsError
from bubu_operator.kube.scrub import Redactor

__all__ = ["setup_logging"]

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
FORMATS: Final = ("json", "console")
QUIET: Final = {
    "urllib3": logging.ERROR,
    "botocore": logging.WARNING,
    "boto3": logging.WARNING,
    "asyncio": logging.WARNING,
    "kopf": logging.WARNING,
    "kopf._core.reactor.running": logging.ERROR,
}
"""Libraries whose debug lines may carry request headers, or whose other lines are noise.

Kopf warns at every start that it does not handle signals: we do.
"""


class _ScrubbingFormatter(structlog.stdlib.ProcessorFormatter):
    """Removes secrets from the finished line."""

    redactor: Redactor

    def format(self, record: logging.LogRecord) -> str:
        return self.redactor.scrub(super().format(record))


def setup_logging(
    level: str, log_format: str, redactor: Redactor, *, stream: TextIO | None = None
) -> logging.Handler:
    """Send all logs of the process to ``stream`` (stderr) as JSON lines or for a terminal.

    Returns:
        The handler, so that tests can take it off again.

    Raises:
        OptionsError: an unknown level or format.
    """
    if level.lower() not in LEVELS:
        raise OptionsError(f"unknown log level {level!r}: use one of {', '.join(LEVELS)}")
    if log_format.lower() not in FORMATS:
        raise OptionsError(f"unknown log format {log_format!r}: use one of {', '.join(FORMATS)}")
    out = stream or sys.stderr
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    final: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if log_format.lower() == "json":
        final += [structlog.processors.format_exc_info, structlog.processors.EventRenamer("message")]
        final.append(structlog.processors.JSONRenderer(ensure_ascii=False, default=str))
    else:
        final.append(structlog.dev.ConsoleRenderer(colors=out.isatty()))
    formatter = _ScrubbingFormatter(foreign_pre_chain=shared, processors=final)
    formatter.redactor = redactor
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(LEVELS[level.lower()])
    for name, least in QUIET.items():
        logging.getLogger(name).setLevel(max(least, LEVELS[level.lower()]))
    logging.captureWarnings(capture=True)
    cast("Any", warnings).simplefilter("default")
    return handler
