"""Structured logs to stderr, one line an event, through one scrubber; `docs/logging.md` tells of the fields.

Our modules log with the standard library; structlog renders, so Kopf's, uvicorn's and urllib3's
lines look like ours. Invariants: the very last step before a line is written removes
secrets, tracebacks included; no line shows a local variable; with ``json`` each line is one JSON object,
also where something cannot be formatted.
"""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import MutableMapping
from typing import Any, Final, TextIO, cast

import structlog

from bubu_operator.errors import OptionsError
from bubu_operator.kube.scrub import Redactor

__all__ = ["FORMATS", "LEVELS", "QUIET", "setup_logging"]

logger = logging.getLogger(__name__)

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


class _Handler(logging.StreamHandler[TextIO]):
    """Says of a record that cannot be formatted which one it is, in a line like any other."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the parent's name
        error = sys.exc_info()[1]
        # A stream that is closed takes no second line either.
        if isinstance(error, OSError) or record.name == __name__:
            return
        logger.error(
            "a log line could not be written: %s",
            type(error).__name__,
            extra={"of": record.name, "where": f"{record.pathname}:{record.lineno}"},
        )


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
    is_json = log_format.lower() == "json"
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _plain_kopf,
        _plain_uvicorn,
        # Where the renderer for people looks for it: then it begins the line.
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time" if is_json else "timestamp"),
    ]
    final: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if is_json:
        final += [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            _finite,
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
        ]
    else:
        final.append(
            structlog.dev.ConsoleRenderer(
                colors=out.isatty(),
                # The usual one shows local variables where rich is installed: settings, keys, anything.
                exception_formatter=structlog.dev.plain_traceback,
            )
        )
    formatter = _ScrubbingFormatter(foreign_pre_chain=shared, processors=final)
    formatter.redactor = redactor
    handler = _Handler(out)
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


def _plain_kopf(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Have Kopf's lines name their object; all of its settings, which it adds to each, say nothing."""
    if not str(event.get("logger", "")).startswith("kopf"):
        return event
    for noise in ("settings", "k8s_skip"):
        event.pop(noise, None)
    about = event.pop("k8s_ref", None)
    if isinstance(about, dict):
        fields = cast("dict[str, Any]", about)
        where = "/".join(str(fields[part]) for part in ("namespace", "name") if fields.get(part))
        event["object"] = f"{fields.get('kind')} {where}"
    return event


def _plain_uvicorn(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Leave out the copy of uvicorn's message that has colours of a terminal in it."""
    event.pop("color_message", None)
    return event


def _finite(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Write numbers as text that JSON does not have: a reader would refuse the whole line."""
    for name, value in event.items():
        if isinstance(value, float) and not math.isfinite(value):
            event[name] = str(value)
    return event
