"""Every error that the operator raises on purpose: one tree, one place.

Messages name the thing, the cause and the way out, and never hold a credential.
Errors of the store are those of `bubu_storage.errors`; they are not repeated here.

::

    OperatorError
    ├── OptionsError            (also ValueError)       a command-line option or variable is wrong
    ├── EndpointRefusedError    (also ValueError)       a tenant's endpoint leads where it must not
    ├── KubeConfigError         (also ValueError)       no way to an API server is configured
    └── KubeApiError                                    the API server said no, or nothing
        ├── KubeUnauthorizedError  (also PermissionError)  401
        ├── KubeForbiddenError     (also PermissionError)  403
        ├── KubeNotFoundError      (also LookupError)      404
        ├── KubeConflictError                              409: changed meanwhile, or exists already
        ├── KubeGoneError                                  410: a resourceVersion or token is too old
        ├── KubeInvalidError       (also ValueError)       400, 415, 422: the object or patch is refused
        ├── KubeThrottledError                             429; see retry_after_seconds
        ├── LeadershipLostError                            not sent: another controller may lead by now
        └── KubeUnreachableError   (also ConnectionError)  no connection, broken off, 5xx
            └── KubeTimeoutError   (also TimeoutError)
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "EndpointRefusedError",
    "KubeApiError",
    "KubeConfigError",
    "KubeConflictError",
    "KubeForbiddenError",
    "KubeGoneError",
    "KubeInvalidError",
    "KubeNotFoundError",
    "KubeThrottledError",
    "KubeTimeoutError",
    "KubeUnauthorizedError",
    "KubeUnreachableError",
    "LeadershipLostError",
    "OperatorError",
    "OptionsError",
    "kube_error",
]


class OperatorError(Exception):
    """Root of the tree.

    Attributes:
        message: the text without any prefix.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class OptionsError(OperatorError, ValueError):
    """An option of a command is missing or wrong; nothing was started."""


class EndpointRefusedError(OperatorError, ValueError):
    """A store's endpoint leads to an address that the controller must not call."""


class KubeConfigError(OperatorError, ValueError):
    """There is neither a usable kubeconfig nor a service account's mount."""


class KubeApiError(OperatorError):
    """The API server refused a request or could not be asked.

    Attributes:
        status: HTTP status code, 0 where there was no answer.
        reason: the API's own word (``AlreadyExists``), "" where it gave none.
        word: what metrics call errors of this kind.
    """

    word: ClassVar[str] = "other"

    def __init__(self, message: str, *, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class KubeUnauthorizedError(KubeApiError, PermissionError):
    """The API server does not know who is asking."""

    word = "unauthorized"


class KubeForbiddenError(KubeApiError, PermissionError):
    """RBAC or an admission plugin does not allow it."""

    word = "forbidden"


class KubeNotFoundError(KubeApiError, LookupError):
    """There is no such object, or no such kind."""

    word = "not_found"


class KubeConflictError(KubeApiError):
    """The object changed since it was read, or one of that name exists."""

    word = "conflict"


class KubeGoneError(KubeApiError):
    """A resourceVersion or continue token is older than the server remembers."""

    word = "gone"


class KubeInvalidError(KubeApiError, ValueError):
    """The server refuses what was sent: not valid, or not applicable."""

    word = "invalid"


class KubeThrottledError(KubeApiError):
    """The server asks for fewer requests.

    Attributes:
        retry_after_seconds: what it asked for, or None.
    """

    word = "throttled"

    def __init__(
        self,
        message: str,
        *,
        status: int = 429,
        reason: str = "",
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, status=status, reason=reason)
        self.retry_after_seconds = retry_after_seconds


class LeadershipLostError(KubeApiError):
    """Nothing was sent: this process may not act, since another one may lead by now."""


class KubeUnreachableError(KubeApiError, ConnectionError):
    """No connection, a broken one, or a server error."""

    word = "unreachable"


class KubeTimeoutError(KubeUnreachableError, TimeoutError):
    """No answer in time."""

    word = "timeout"


_BY_STATUS: dict[int, type[KubeApiError]] = {
    400: KubeInvalidError,
    401: KubeUnauthorizedError,
    403: KubeForbiddenError,
    404: KubeNotFoundError,
    409: KubeConflictError,
    410: KubeGoneError,
    415: KubeInvalidError,
    422: KubeInvalidError,
    429: KubeThrottledError,
    504: KubeTimeoutError,
}


def kube_error(
    message: str, *, status: int, reason: str = "", retry_after_seconds: float | None = None
) -> KubeApiError:
    """Make the error that fits an HTTP status code; unknown 5xx are `KubeUnreachableError`."""
    # Expired continue tokens and watches arrive with 410; some servers send the reason only.
    if reason == "Expired":
        return KubeGoneError(message, status=status, reason=reason)
    cls = _BY_STATUS.get(status)
    if cls is KubeThrottledError:
        return KubeThrottledError(
            message, status=status, reason=reason, retry_after_seconds=retry_after_seconds
        )
    if cls is None:
        cls = KubeUnreachableError if status >= 500 or status == 0 else KubeApiError  # noqa: PLR2004 - HTTP's own border
    return cls(message, status=status, reason=reason)
