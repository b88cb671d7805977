"""Where agents call: a TLS port of the leading controller, and the check of who is calling.

An agent's Job is announced by `Listener.expect` before it is made. A caller names its pass and shows
its pod's token; the API server reviews the token, and the announcer says whether the pod is one of
its Job's. Everything else is closed, counted and logged, the token never.

Invariants: callers who have not shown who they are find bounded places (see `Lobby`), each for
`HELLO_SECONDS` at most; of one pass one token is reviewed at a time; one agent for a pass; a pass that
nobody expects (any more) has none; a flood of callers is no flood of threads, requests or log lines.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

from bubu_operator.errors import KubeApiError
from bubu_operator.jobpass.channel import Channel
from bubu_operator.jobpass.frames import FrameError
from bubu_operator.jobpass.hello import (
    AUDIENCE,
    Deadline,
    Hello,
    first_frame,
    send_frame,
    shake_hands,
    welcome,
)
from bubu_operator.jobpass.lobby import Caller, Lobby
from bubu_operator.jobpass.pump import keep_alive
from bubu_operator.jobpass.tls import ServerIdentity
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import JsonObject, Resource, section
from bubu_operator.listening import open_listener

__all__ = ["HELLO_SECONDS", "Admission", "Expected", "Listener", "PodIdentity", "Review", "review_token"]

logger = logging.getLogger(__name__)

HELLO_SECONDS: Final = 10.0
BACKLOG: Final = 64
LOOK_SECONDS: Final = 0.5
LOG_SECONDS: Final = 10.0
"""Of each kind of refusal one line in so long; metrics count them all."""

TOKEN_REVIEWS: Final = Resource(
    "authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False
)

_ACCOUNT_PARTS: Final = 4
_UNEXPECTED: Final = ("Unexpected", "nobody expects an agent for this pass (any more)")


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """Whose token was shown, as the API server has it.

    Attributes:
        namespace: of the account and the pod.
        account: its name.
        pod: name of the pod that the token was made for.
        pod_uid: of that very pod.
    """

    namespace: str
    account: str
    pod: str
    pod_uid: str


Review: TypeAlias = Callable[[str], "PodIdentity | None"]
Admission: TypeAlias = Callable[[PodIdentity], bool]
"""Says whether a pod is one of the Job's; may raise `KubeApiError`."""


def review_token(client: KubeClient, token: str) -> PodIdentity | None:
    """Have a token reviewed by the API server; None for one that is not good for us.

    Raises:
        KubeApiError: it could not be reviewed.
    """
    review: JsonObject = {
        "apiVersion": TOKEN_REVIEWS.api_version,
        "kind": TOKEN_REVIEWS.kind,
        "spec": {"token": token, "audiences": [AUDIENCE]},
    }
    return read_review(section(client.create(TOKEN_REVIEWS, review), "status"))


def read_review(status: JsonObject) -> PodIdentity | None:
    """Return whose token it is; None unless it is a pod's, and for our audience."""
    if status.get("authenticated") is not True or AUDIENCE not in (status.get("audiences") or []):
        return None
    user = section(status, "user")
    parts = str(user.get("username")).split(":")
    if len(parts) != _ACCOUNT_PARTS or parts[:2] != ["system", "serviceaccount"]:
        return None
    extra = section(user, "extra")
    pod = _single(extra, "authentication.kubernetes.io/pod-name")
    uid = _single(extra, "authentication.kubernetes.io/pod-uid")
    return PodIdentity(parts[2], parts[3], pod, uid) if pod and uid else None


def _single(extra: Mapping[str, Any], name: str) -> str:
    values = extra.get(name)
    if not isinstance(values, list) or len(cast("list[Any]", values)) != 1:
        return ""
    (value,) = cast("list[Any]", values)
    return value if isinstance(value, str) else ""


class Expected:
    """An agent that is to call.

    Args:
        store: for messages.
        admit: says whether a pod is the one.
        on_arrival: called from another thread once it is there.
    """

    def __init__(self, store: str, admit: Admission, on_arrival: Callable[[], None]) -> None:
        self.store = store
        self.admit = admit
        self.on_arrival = on_arrival
        self.channel: Channel | None = None
        self.judging = threading.Lock()


class Listener:
    """Accepts agents; a `Service` of the controller.

    Args:
        address: host and port to listen on; port 0 picks a free one.
        identity: our key pair.
        review: see `review_token`.
        may_send: asked before each piece that is sent to an agent.
        count: told what became of each caller.
    """

    def __init__(
        self,
        address: tuple[str, int],
        identity: ServerIdentity,
        *,
        review: Review,
        may_send: Callable[[], bool],
        count: Callable[[str], None],
        hello_seconds: float = HELLO_SECONDS,
    ) -> None:
        self._identity = identity
        self._review = review
        self._may_send = may_send
        self._count = count
        self._hello_seconds = hello_seconds
        self._lock = threading.Lock()
        self._expected: dict[str, Expected] = {}
        self._lobby = Lobby()
        self._logged: dict[str, float] = {}
        self._stop = threading.Event()
        self._socket = open_listener(*address, backlog=BACKLOG)
        self._socket.setblocking(False)
        self._thread = threading.Thread(target=self._accept, name="agents", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._socket.getsockname()[1])

    @property
    def pin(self) -> str:
        """What agents know this process by."""
        return self._identity.pin

    @property
    def callers(self) -> int:
        """How many there are who have not shown who they are."""
        return len(self._lobby)

    # -- announcing ----------------------------------------------------------------------

    def expect(self, pass_id: str, expected: Expected) -> None:
        """Let the agent of a pass in from now on."""
        with self._lock:
            self._expected[pass_id] = expected

    def forget(self, pass_id: str) -> None:
        """Let nobody in for a pass any more, and end its channel."""
        with self._lock:
            expected = self._expected.pop(pass_id, None)
            channel = expected.channel if expected is not None else None
        if channel is not None:
            channel.close()

    # -- a service -----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()

    def stop(self) -> None:
        """Accept nobody any more; channels are left to who has them."""
        self._stop.set()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread that accepts."""
        if self._thread.ident is None:
            return True
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Stop, and end all channels."""
        self.stop()
        self.join(HELLO_SECONDS)
        self._socket.close()
        with self._lock:
            passes = list(self._expected)
        for pass_id in passes:
            self.forget(pass_id)

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while not self._stop.is_set():
            if not poll.poll(LOOK_SECONDS * 1000):
                continue
            try:
                connection, address = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue  # it has thought better of it
            except OSError as error:
                logger.warning("a caller of a job pass was not accepted: %s", error.strerror)
                self._stop.wait(LOOK_SECONDS)  # no descriptors, most often
                continue
            self._begin(connection, address)

    def _begin(self, connection: socket.socket, address: tuple[Any, ...]) -> None:
        """Hear a caller in a thread of its own."""
        caller = self._lobby.enter(str(address[0]), connection)
        if caller is None:
            connection.close()
            self._refuse(address, "TooMany", "too many callers at a time")
            return
        try:
            threading.Thread(
                target=self._receive, args=(caller, connection, address), name="agent-hello", daemon=True
            ).start()
        except RuntimeError:
            self._lobby.leave(caller)
            connection.close()
            self._refuse(address, "NoThread", "no thread can be started at present")

    def _receive(self, caller: Caller, connection: socket.socket, address: tuple[Any, ...]) -> None:
        try:
            with contextlib.ExitStack() as stack:
                stack.callback(connection.close)
                stack.callback(self._lobby.leave, caller)
                connection.setblocking(False)
                keep_alive(connection)
                secure = self._identity.context.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
                stack.callback(secure.close)
                caller.connection = secure
                # Before the connection is closed: its number may be another one's then.
                stack.callback(self._lobby.leave, caller)
                if self._greet(caller, secure, address):
                    stack.pop_all()
                    self._lobby.leave(caller)
        except TimeoutError:
            self._refuse(address, "TooSlow", "it said nothing in time")
        except FrameError as error:
            self._refuse(address, "NoHello", str(error))
        except (ssl.SSLError, OSError) as error:
            if caller.is_displaced:
                self._refuse(address, "Displaced", "others had to be heard, and it had not said who it is")
            else:
                self._refuse(address, "Broken", type(error).__name__)

    def _greet(self, caller: Caller, secure: ssl.SSLSocket, address: tuple[Any, ...]) -> bool:
        """Let one caller in, or not."""
        deadline = Deadline(self._hello_seconds)
        shake_hands(secure, deadline)
        hello = Hello.from_frame(first_frame(secure, deadline))
        with self._lock:
            expected = self._expected.get(hello.pass_id)
        if expected is None or expected.channel is not None:
            return self._turn_away(secure, address, *_UNEXPECTED, deadline)
        with deadline.holding(expected.judging):
            if not self._lobby.keep(caller):
                raise ConnectionAbortedError("displaced while it waited")
            if expected.channel is not None:
                return self._turn_away(secure, address, *_UNEXPECTED, deadline)
            result, problem = self._judge(hello, expected)
            if problem:
                return self._turn_away(secure, address, result, problem, deadline)
            send_frame(secure, welcome(), deadline)
            self._lobby.leave(caller)
            with self._lock:
                if self._expected.get(hello.pass_id) is not expected:
                    return False
                expected.channel = Channel(secure, expected.store, may_send=self._may_send)
        self._count("Admitted")
        expected.on_arrival()
        return True

    def _turn_away(
        self, secure: ssl.SSLSocket, address: tuple[Any, ...], result: str, problem: str, deadline: Deadline
    ) -> bool:
        self._refuse(address, result, problem)
        with contextlib.suppress(OSError):
            send_frame(secure, welcome(problem), deadline)
        return False

    def _judge(self, hello: Hello, expected: Expected) -> tuple[str, str]:
        try:
            pod = self._review(hello.token)
            if pod is None:
                return "Unauthenticated", "the API server does not know the token as a pod's for this purpose"
            if not expected.admit(pod):
                return "WrongPod", "the token is of a pod that this pass's Job did not make"
        except KubeApiError as error:
            logger.warning("the token of an agent cannot be reviewed: %s", error)
            return "NotReviewed", "the token cannot be reviewed at present"
        return "", ""

    def _refuse(self, address: tuple[Any, ...], result: str, why: str) -> None:
        self._count(result)
        now = time.monotonic()
        with self._lock:
            if now - self._logged.get(result, -LOG_SECONDS) < LOG_SECONDS:
                return
            self._logged[result] = now
        logger.info("a caller of a job pass was turned away: %s (%s)", why, address[0])
