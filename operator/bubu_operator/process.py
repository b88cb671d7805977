"""What every process of ours does before anything else, so that it behaves in a container as anywhere.

Invariants: nothing here takes time or loads more than the standard library; what a role sets up later
(its own signal handlers, its logs) replaces what was set up here.
"""

from __future__ import annotations

import logging
import os
import pwd
import signal
import sys
import threading
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, Final

__all__ = ["FALLBACK_USER", "begin_process", "name_user"]

logger = logging.getLogger(__name__)

FALLBACK_USER: Final = "bubu"


def begin_process() -> None:
    """Take what a container lacks: the usual end on a signal, and a name for the user."""
    if os.getpid() == 1:
        _end_on_signals()
    name_user(os.environ)
    _log_uncaught()


def _end_on_signals() -> None:
    """The kernel keeps signals from the first process of a container unless it has a handler for them."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL or number == signal.SIGINT:
            signal.signal(number, lambda number, _frame: os._exit(128 + number))


def name_user(environment: MutableMapping[str, str]) -> None:
    """Give a uid without an entry in passwd a name: libraries ask for one, and fail without.

    `getpass.getuser` looks at these variables before it looks into passwd.
    """
    if any(environment.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        return
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        environment["USER"] = environment["LOGNAME"] = FALLBACK_USER


def _log_uncaught() -> None:
    """Log exceptions that nobody caught, of the process and of its threads, once logs are set up.

    Until then, and in commands that have no logs, they are printed as ever.
    """

    def is_logged(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None, where: str
    ) -> bool:
        if not logging.getLogger().handlers or not issubclass(kind, Exception):
            return False
        logger.critical("an exception that nobody caught, %s", where, exc_info=(kind, error, trace))
        return True

    def of_process(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not is_logged(kind, error, trace, "which ends the process"):
            sys.__excepthook__(kind, error, trace)

    def of_thread(args: threading.ExceptHookArgs) -> None:
        name = "?" if args.thread is None else args.thread.name
        error = args.exc_value or args.exc_type()
        if not is_logged(args.exc_type, error, args.exc_traceback, f"which ends the thread {name}"):
            threading.__excepthook__(args)

    def of_destructor(args: Any) -> None:
        error = args.exc_value or args.exc_type()
        if not is_logged(args.exc_type, error, args.exc_traceback, f"in {args.object!r}"):
            sys.__unraisablehook__(args)

    sys.excepthook = of_process
    threading.excepthook = of_thread
    sys.unraisablehook = of_destructor
