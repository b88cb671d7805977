"""``bubu-operator retention-agent``: serves one store to one controller, for one pass, and decides nothing.

The store is opened from the pod's environment with the library, exactly as the team's own pods open
it, under the same refusals as in a probe. The agent calls the controller, which it knows by the
fingerprint in its arguments, and shows its pod's token; then it answers requests within its rights
until the channel ends.

Invariants: nothing is sent before the fingerprint was compared; the node's own identity counts for
nothing; it ends with the channel, at once and with whatever is under way, when nothing is asked for
too long, and at its deadline; the result is written whatever happens, and nothing secret is in it,
nor on stderr; no traceback. A request to the store is tried once and ends within `CONNECT_SECONDS` and
`REQUEST_SECONDS`, so that whoever asked knows how long it can be under way.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.jobpass.executor import Executor
from bubu_operator.jobpass.frames import FrameError
from bubu_operator.jobpass.hello import Deadline, Hello, first_frame, send_frame, shake_hands
from bubu_operator.jobpass.pump import Pump, always, keep_alive
from bubu_operator.jobpass.rights import Rights
from bubu_operator.jobpass.serving import ServingEnd, serve
from bubu_operator.jobpass.tls import WrongPinError, check_pin, client_context, parse_pin
from bubu_operator.jobpass.wire import field_of
from bubu_operator.kube.scrub import Redactor
from bubu_operator.probe.pod import guarded, shut_out_node, store_of_pod, tell
from bubu_operator.probe.result import ProbeResult
from bubu_operator.probe.run import result_of_error
from bubu_storage.backend.factory import open_backend
from bubu_storage.backend.types import ObjectBackend
from bubu_storage.errors import InvalidKeyError, StorageError
from bubu_storage.settings import FileSettings, S3Settings

__all__ = ["AgentOptions", "parse_controller", "run_agent"]

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2

DIAL_SECONDS: Final = 10.0
DIAL_AGAIN_SECONDS: Final = 2.0
DIAL_TRIES: Final = 5
"""A controller that is busy, or a network that is still being made for a new pod."""

CONNECT_SECONDS: Final = 5.0
REQUEST_SECONDS: Final = 25.0
MAX_TOKEN_BYTES: Final = 12 << 10


class _CallError(Exception):
    """The controller was reached, and the beginning failed; the store has no part in it."""


class _RefusedError(Exception):
    """The controller does not want this agent; another try would not help."""


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """Options of ``bubu-operator retention-agent``.

    Attributes:
        controller: ``https://HOST:PORT`` to call.
        pin: fingerprint of the controller's certificate.
        pass_id: of the pass that this Job was made for.
        scopes: what may be listed and deleted in.
        token_file: this pod's token for the controller.
        result: file that the result is written to; a kubelet reads it as the termination message.
        deadline_seconds: for everything.
        idle_seconds: without a request.
        require_identity: an anonymous request is no answer; say that the account has no identity.
        allow_loopback_endpoints: see the controller's option of that name.
    """

    controller: str
    pin: str
    pass_id: str
    scopes: tuple[str, ...]
    token_file: Path
    result: Path
    deadline_seconds: float = 3600.0
    idle_seconds: float = 300.0
    require_identity: bool = False
    allow_loopback_endpoints: bool = False


def parse_controller(address: str) -> tuple[str, int]:
    """Return host and port of an address.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(address)
    if parts.scheme != "https" or not parts.hostname or parts.port is None or parts.path not in {"", "/"}:
        raise ValueError(f"the controller's address is https://HOST:PORT, not {address[:80]!r}")
    return parts.hostname, parts.port


def run_agent(options: AgentOptions) -> int:
    """Serve, write the result, and end the process: 0 ended by the controller, 1 failed; 2 is returned."""
    redactor = shut_out_node()
    over = threading.Timer(options.deadline_seconds, _deadline, (options, redactor))
    over.daemon = True
    over.start()
    try:
        rights = Rights.of_scopes(options.scopes)
        parse_controller(options.controller)
        parse_pin(options.pin)
    except (InvalidKeyError, ValueError) as error:
        return _end(options, redactor, ProbeResult(reason=Reason.STORE_ERROR, message=str(error)), EXIT_USAGE)
    result = _serve(options, rights, redactor)
    over.cancel()
    code = _end(
        options, redactor, result, EXIT_OK if result.reason is Reason.PROBE_SUCCEEDED else EXIT_FAILED
    )
    # A deletion that is under way must not outlive the channel: the next pass relies on that.
    sys.stderr.flush()
    os._exit(code)


def _serve(options: AgentOptions, rights: Rights, redactor: Redactor) -> ProbeResult:
    is_file = False
    try:
        settings = store_of_pod(require_identity=options.require_identity)
        if isinstance(settings, ProbeResult):
            return settings
        is_file = isinstance(settings, FileSettings)
        if isinstance(settings, S3Settings):
            settings = guarded(
                settings,
                connect_seconds=CONNECT_SECONDS,
                request_seconds=min(REQUEST_SECONDS, settings.timeout_seconds),
                allow_loopback=options.allow_loopback_endpoints,
            )
        # Not closed: it ends with the process, and closing would wait for what is under way.
        backend = open_backend(settings)
        # Asked once before anybody is called: what does not work is told here, with its reason.
        backend.server_time()
        end = _converse(options, backend, rights, redactor)
    except _RefusedError as error:
        return _failed(f"the controller turned this agent away: {error}")
    except WrongPinError as error:
        return _failed(str(error))
    except _CallError as error:
        return _failed(f"the controller at {options.controller} does not speak as agreed: {error}")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the result
        return result_of_error(error, is_file=is_file and isinstance(error, StorageError))
    if end is ServingEnd.CLOSED:
        return ProbeResult(reason=Reason.PROBE_SUCCEEDED)
    if end is ServingEnd.IDLE:
        return _failed(f"nothing was asked for {options.idle_seconds:g} s")
    return _failed("the channel to the controller broke")


def _converse(
    options: AgentOptions, backend: ObjectBackend, rights: Rights, redactor: Redactor
) -> ServingEnd:
    """Call the controller and serve it."""
    secure = _dial(
        parse_controller(options.controller),
        lambda connection, deadline: _greet(options, redactor, connection, deadline),
    )
    ours, theirs = socket.socketpair()
    pump = Pump(secure, theirs, may_send=always, name="controller-pump")
    pump.start()
    try:
        return serve(ours, Executor(backend, rights, redactor), idle_seconds=options.idle_seconds)
    finally:
        ours.close()
        pump.close()


def _dial(address: tuple[str, int], greet: Callable[[ssl.SSLSocket, Deadline], None]) -> ssl.SSLSocket:
    """Return a connection that the controller has agreed to; tries a few times to reach it."""
    for tries_left in reversed(range(DIAL_TRIES)):
        deadline = Deadline(DIAL_SECONDS)
        try:
            connection = socket.create_connection(address, timeout=DIAL_SECONDS)
        except OSError as error:
            if tries_left:
                time.sleep(DIAL_AGAIN_SECONDS)
                continue
            host, port = address
            raise _RefusedError(
                f"it cannot be reached at {host}:{port} ({error.strerror or type(error).__name__}); do "
                "network policies let pods of this namespace call it?"
            ) from error
        keep_alive(connection)
        secure = client_context().wrap_socket(connection, do_handshake_on_connect=False)
        secure.setblocking(False)
        try:
            greet(secure, deadline)
        except (OSError, FrameError) as error:
            secure.close()
            if tries_left and isinstance(error, OSError):
                time.sleep(DIAL_AGAIN_SECONDS)  # it may have had no place
                continue
            raise _CallError(str(error) or type(error).__name__) from error
        except BaseException:
            secure.close()
            raise
        return secure
    raise AssertionError("the last try returns or raises")


def _greet(options: AgentOptions, redactor: Redactor, secure: ssl.SSLSocket, deadline: Deadline) -> None:
    shake_hands(secure, deadline)
    check_pin(secure, options.pin)
    with options.token_file.open("rb") as file:
        token = file.read(MAX_TOKEN_BYTES).decode("ascii", errors="replace").strip()
    redactor.add([token])
    send_frame(secure, Hello(options.pass_id, token).to_frame(), deadline)
    answer = first_frame(secure, deadline)
    problem = field_of(answer.header, "problem", str, "")
    if problem:
        raise _RefusedError(problem)


def _failed(message: str) -> ProbeResult:
    return ProbeResult(reason=Reason.STORE_ERROR, message=message)


def _end(options: AgentOptions, redactor: Redactor, result: ProbeResult, code: int) -> int:
    return code if tell(result, options.result, redactor) else EXIT_FAILED


def _deadline(options: AgentOptions, redactor: Redactor) -> NoReturn:
    message = f"the agent had {options.deadline_seconds:g} s for everything"
    os._exit(_end(options, redactor, ProbeResult(reason=Reason.TIMEOUT, message=message), EXIT_FAILED))
