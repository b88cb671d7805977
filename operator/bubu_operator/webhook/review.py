"""AdmissionReview v1 on the wire: reading a request, writing an answer.

A body that holds no usable request id cannot be answered with a review; it gets an HTTP
error whose text says what is wrong (the API server shows it to people, and applies the
entry's failurePolicy). Everything that has an id gets a review.

Of duplicate keys the last one counts, as it does for the API server. NaN and infinities
are no JSON and refused.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final, Never, cast

from bubu_operator.injection.patch import text_json
from bubu_operator.injection.podspec import child
from bubu_storage.apply_env import Json

__all__ = [
    "Denial",
    "RejectReason",
    "ReviewRejectedError",
    "ReviewRequest",
    "dry_run_review",
    "parse_review",
    "render_answer",
]

API_VERSION: Final = "admission.k8s.io/v1"
KIND: Final = "AdmissionReview"
WARNING_PREFIX: Final = "bubu-storage: "
MAX_WARNINGS: Final = 16
MAX_WARNING_CHARACTERS: Final = 1024
MAX_UID_CHARACTERS: Final = 256

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_HEAD: Final = f'{{"apiVersion":"{API_VERSION}","kind":"{KIND}","response":'


class RejectReason(StrEnum):
    """Why a body could not be answered with a review."""

    WRONG_CONTENT_TYPE = "WrongContentType"
    TOO_LARGE = "TooLarge"
    TOO_SLOW = "TooSlow"
    BROKEN_OFF = "BrokenOff"
    OVERLOADED = "Overloaded"
    NOT_JSON = "NotJson"
    NOT_A_REVIEW = "NotAReview"
    WRONG_VERSION = "WrongVersion"
    NO_REQUEST = "NoRequest"
    NO_UID = "NoUid"
    INTERNAL_ERROR = "InternalError"


class ReviewRejectedError(Exception):
    """There is no request that could be answered.

    Attributes:
        status: HTTP status code.
        reason: one word, for metrics.
        message: text of the response.
    """

    def __init__(self, status: HTTPStatus, reason: RejectReason, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Denial:
    """How a refusal is told to the creator of a pod.

    Attributes:
        status: HTTP status that the API server gives to its caller.
        reason: Kubernetes' word for that status.
        message: why, and the way out.
        retry_after_seconds: 0, or when a client may try again by itself.
    """

    status: HTTPStatus
    reason: str
    message: str
    retry_after_seconds: int = 0


@dataclass(frozen=True, slots=True)
class ReviewRequest:
    """One admission request.

    Attributes:
        uid: echoed in the answer.
        namespace: of the object; what its own metadata says does not count.
        name: for logs; a pod with generateName has no name yet, its prefix stands here.
        operation: ``CREATE`` …
        resource: ``pods`` for pods of the core group, else ``group/resource``.
        subresource: "" for the object itself.
        dry_run: nothing may be written anywhere because of this request.
        pod: the object, unchecked.
        size_bytes: of the whole review; little more than the object itself.
    """

    uid: str
    namespace: str
    name: str
    operation: str
    resource: str
    subresource: str
    dry_run: bool
    pod: Any
    size_bytes: int


def parse_review(body: bytes) -> ReviewRequest:
    """Read the body of a request.

    Raises:
        ReviewRejectedError: it is no AdmissionReview v1 with a request and an id.
    """
    if not body:
        raise _bad(RejectReason.NOT_JSON, "the body is empty; an AdmissionReview is expected")
    try:
        decoded = _decoded(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _bad(RejectReason.NOT_JSON, f"the body is not JSON: {_why(error)}") from error
    if not isinstance(decoded, dict):
        raise _bad(
            RejectReason.NOT_A_REVIEW, "the body is JSON, but no object; an AdmissionReview is expected"
        )
    review = cast("Json", decoded)
    kind, version = review.get("kind"), review.get("apiVersion")
    if kind != KIND:
        raise _bad(RejectReason.NOT_A_REVIEW, f"kind is {_quoted(kind)}; only {KIND} is understood")
    if version != API_VERSION:
        raise _bad(
            RejectReason.WRONG_VERSION, f"apiVersion is {_quoted(version)}; only {API_VERSION} is understood"
        )
    if not isinstance(review.get("request"), dict):
        raise _bad(RejectReason.NO_REQUEST, "the review has no request")
    request = child(review, "request")
    uid = request.get("uid")
    if not isinstance(uid, str) or not uid:
        raise _bad(RejectReason.NO_UID, "request.uid is missing, so the review cannot be answered")
    if len(uid) > MAX_UID_CHARACTERS:
        raise _bad(RejectReason.NO_UID, f"request.uid is longer than {MAX_UID_CHARACTERS} characters")
    resource = child(request, "resource")
    group, plural = _text(resource, "group"), _text(resource, "resource")
    pod = request.get("object")
    metadata = child(cast("Json", pod), "metadata") if isinstance(pod, dict) else {}
    return ReviewRequest(
        uid=uid,
        namespace=_text(request, "namespace"),
        name=_text(request, "name") or _text(metadata, "name") or _text(metadata, "generateName"),
        operation=_text(request, "operation"),
        resource=f"{group}/{plural}" if group else plural,
        subresource=_text(request, "subResource"),
        dry_run=request.get("dryRun") is True,
        pod=pod,
        size_bytes=len(body),
    )


def dry_run_review(pod: Json, namespace: str, uid: str) -> Json:
    """Return the review that the API server would send for a dry run of this pod's creation."""
    request: Json = {
        "uid": uid,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "operation": "CREATE",
        "namespace": namespace,
        "object": pod,
        "dryRun": True,
    }
    return {"apiVersion": API_VERSION, "kind": KIND, "request": request}


def render_answer(
    uid: str,
    *,
    patch: str = "",
    warnings: Iterable[str] = (),
    audit: dict[str, str] | None = None,
    denial: Denial | None = None,
) -> bytes:
    """Write an answer that allows the request, or refuses it.

    Args:
        uid: of the request.
        patch: a JSON patch as text, ASCII; "" leaves the object alone.
        warnings: sentences for the person at kubectl; bounded in number and length.
        audit: notes for the API server's audit log.
        denial: why the request is refused; no patch then.
    """
    bounded = _bounded(list(warnings)) if warnings else []
    if denial is None and patch and not bounded:
        notes = ",".join([f"{text_json(name)}:{text_json(note)}" for name, note in (audit or {}).items()])
        notes = f',"auditAnnotations":{{{notes}}}' if notes else ""
        head = f'{_HEAD}{{"uid":{text_json(uid)},"allowed":true{notes}'
        return _with_patch(head.encode("ascii"), patch)
    response: Json = {"uid": uid, "allowed": denial is None}
    if denial is not None:
        status: Json = {
            "code": int(denial.status),
            "reason": denial.reason,
            "message": _warning(denial.message),
        }
        if denial.retry_after_seconds:
            # The API server makes a Retry-After header of it, which client-go obeys by itself.
            status["details"] = {"retryAfterSeconds": denial.retry_after_seconds}
        response["status"] = status
    if bounded:
        response["warnings"] = bounded
    if audit:
        response["auditAnnotations"] = audit
    review = f"{_HEAD}{_encode(response)}}}".encode("ascii")
    return review if denial is not None or not patch else _with_patch(review.removesuffix(b"}}"), patch)


def _with_patch(review: bytes, patch: str) -> bytes:
    """Finish a response that is still open. As bytes: it is the largest part, and needs no escapes."""
    coded = binascii.b2a_base64(patch.encode("ascii"), newline=False)
    return b"".join((review, b',"patchType":"JSONPatch","patch":"', coded, b'"}}'))


def _bounded(warnings: list[str]) -> list[str]:
    """At most `MAX_WARNINGS`; the last one then says how many more there were."""
    if len(warnings) > MAX_WARNINGS:
        shown = warnings[: MAX_WARNINGS - 1]
        warnings = [*shown, f"{len(warnings) - len(shown)} more warnings are not shown"]
    return [_warning(text) for text in warnings]


def _warning(text: str) -> str:
    line = WARNING_PREFIX + " ".join(text.split())
    return line if len(line) <= MAX_WARNING_CHARACTERS else line[: MAX_WARNING_CHARACTERS - 3] + "..."


def _bad(reason: RejectReason, message: str) -> ReviewRejectedError:
    return ReviewRejectedError(HTTPStatus.BAD_REQUEST, reason, message)


def _no_constant(word: str) -> Never:
    raise _ConstantError(f"{word} is no JSON number")


class _ConstantError(ValueError):
    """One of the words that Python's parser takes for a number, and JSON does not have."""


_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant)
_SPACE: Final = " \t\n\r"


def _decoded(text: str) -> Any:
    """As the decoder's own `decode`, in fewer steps for what begins at once, as every review does."""
    if not text.startswith("{"):
        return _DECODER.decode(text)
    decoded, end = _DECODER.raw_decode(text)
    rest = text[end:].lstrip(_SPACE)
    if rest:
        raise json.JSONDecodeError("Extra data", text, len(text) - len(rest))
    return decoded


def _why(error: Exception) -> str:
    """The parser's own words; none of them quotes the document."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    if isinstance(error, _ConstantError):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return "it is nested too deeply" if isinstance(error, RecursionError) else "a number is too long"


def _quoted(value: object) -> str:
    return json.dumps(value[:64]) if isinstance(value, str) else "missing" if value is None else "no text"


def _text(obj: Json, key: str) -> str:
    value = obj.get(key)
    return value if isinstance(value, str) else ""
