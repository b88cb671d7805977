"""Checked strings of the API: names, durations, prefixes, paths, URLs.

Each has one pattern or predicate that means the same in CEL and in Python, a length limit
(the API server bounds the cost of a CEL rule by it), and a message that says what to write.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Final, TypeAlias

from pydantic import AwareDatetime, PlainSerializer, StringConstraints

from bubu_operator.api.v1alpha1.base import Rule, cel_string
from bubu_storage.wire import RESERVED_PREFIX

__all__ = [
    "AbsolutePath",
    "BucketName",
    "ContainerName",
    "Duration",
    "Endpoint",
    "KmsKeyID",
    "LabelKey",
    "LabelValue",
    "NamespaceName",
    "ObjectName",
    "Quantity",
    "Region",
    "RulePrefix",
    "SecretKey",
    "StorePrefix",
    "Timestamp",
    "duration_at_least",
    "duration_seconds",
    "format_timestamp",
    "matches",
]

_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_MAX_DURATION_SECONDS: Final = 3650 * 86400
_RESERVED_SEGMENT: Final = RESERVED_PREFIX.rstrip("/")


def matches(pattern: str, message: str) -> Rule:
    """Return a rule that the whole string matches ``pattern`` (RE2 and Python syntax, no anchors)."""
    compiled = re.compile(pattern)
    return Rule(
        cel=f"self.matches({cel_string(f'^({pattern})$')})",
        message=message,
        holds=lambda text: compiled.fullmatch(text) is not None,
    )


def _lacks(pattern: str, message: str) -> Rule:
    compiled = re.compile(pattern)
    return Rule(
        cel=f"!self.matches({cel_string(pattern)})",
        message=message,
        holds=lambda text: compiled.search(text) is None,
    )


# --- durations ---------------------------------------------------------------------------------

_DURATION_PATTERN: Final = "[1-9][0-9]*(s|m|h|d|w)"
_CEL_UNIT_SECONDS: Final = "{" + ", ".join(f"'{unit}': {n}" for unit, n in _UNIT_SECONDS.items()) + "}"
_CEL_SECONDS: Final = (
    f"int(self.substring(0, self.size() - 1)) * {_CEL_UNIT_SECONDS}[self.substring(self.size() - 1)]"
)


def duration_seconds(text: str) -> int:
    """Return the seconds of a duration of this API, as ``90s`` or ``30d``.

    Raises:
        ValueError: when the text is none.
    """
    if re.fullmatch(_DURATION_PATTERN, text) is None:
        raise ValueError(f"{text!r} is no duration: a whole number above 0 and one of s, m, h, d, w")
    return int(text[:-1]) * _UNIT_SECONDS[text[-1]]


def _duration_rule(cel_comparison: str, message: str, holds: Callable[[int], bool]) -> Rule:
    # A text that is no duration is another rule's finding; here it must only do no harm.
    return Rule(
        cel=f"!self.matches({cel_string(f'^{_DURATION_PATTERN}$')}) || {_CEL_SECONDS} {cel_comparison}",
        message=message,
        holds=lambda text: re.fullmatch(_DURATION_PATTERN, text) is None or holds(duration_seconds(text)),
    )


def duration_at_least(minimum: str) -> Rule:
    """Return a rule that a `Duration` is not below ``minimum`` (itself one)."""
    floor = duration_seconds(minimum)
    return _duration_rule(f">= {floor}", f"must be at least {minimum}", lambda seconds: seconds >= floor)


Duration: TypeAlias = Annotated[
    str,
    StringConstraints(max_length=10),
    matches(
        _DURATION_PATTERN,
        "must be a duration: a whole number above 0 and one unit of s, m, h, d, w, as in 90s or 30d",
    ),
    _duration_rule(
        f"<= {_MAX_DURATION_SECONDS}",
        "must be at most 3650d (ten years)",
        lambda seconds: seconds <= _MAX_DURATION_SECONDS,
    ),
]

# --- times -------------------------------------------------------------------------------------


def format_timestamp(when: datetime) -> str:
    """Return RFC 3339 in UTC with whole seconds, the form of Kubernetes' own times."""
    utc_offset = when.utcoffset()
    if utc_offset is None:
        raise ValueError("a time of the API needs a time zone")
    return (when - utc_offset).replace(tzinfo=None, microsecond=0).isoformat() + "Z"


Timestamp: TypeAlias = Annotated[AwareDatetime, PlainSerializer(format_timestamp, return_type=str)]

# --- names -------------------------------------------------------------------------------------

_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = rf"{_LABEL}(\.{_LABEL})*"

ObjectName: TypeAlias = Annotated[
    str,
    StringConstraints(max_length=253),
    matches(
        _SUBDOMAIN,
        "must be the name of a Kubernetes object: lower-case letters, digits, '-' and '.', "
        "beginning and ending with a letter or digit",
    ),
]

NamespaceName: TypeAlias = Annotated[
    str,
    StringConstraints(max_length=63),
    matches(
        _LABEL,
        "must be the name of a namespace: lower-case letters, digits and '-', "
        "beginning and ending with a letter or digit",
    ),
]

ContainerName: TypeAlias = Annotated[
    str,
    StringConstraints(max_length=63),
    matches(
        _LABEL,
        "must be the name of a container: lower-case letters, digits and '-', "
        "beginning and ending with a letter or digit",
    ),
]

SecretKey: TypeAlias = Annotated[
    str,
    StringConstraints(max_length=253),
    matches(
        "[-._a-zA-Z0-9]+",
        "must be a key of a Secret or ConfigMap: letters, digits, '-', '_' and '.'",
    ),
]

_LABEL_NAME: Final = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
LABEL_KEY_PATTERN: Final = f"({_SUBDOMAIN}/)?{_LABEL_NAME}"
LABEL_VALUE_PATTERN: Final = f"({_LABEL_NAME})?"

LabelKey: TypeAlias = Annotated[
    str,
    StringConstraints(max_length=317),
    matches(LABEL_KEY_PATTERN, "must be a label key, as in team or example.com/team"),
]
LabelValue: TypeAlias = Annotated[
    str,
    StringConstraints(max_length=63),
    matches(LABEL_VALUE_PATTERN, "must be a label value: letters, digits, '-', '_' and '.', at most 63"),
]

# --- object stores -----------------------------------------------------------------------------

BucketName: TypeAlias = Annotated[
    str,
    StringConstraints(max_length=63),
    # Upper case and '_' are no longer allowed by AWS, but old buckets and other servers have them.
    matches(
        "[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]",
        "must be a bucket name: 3 to 63 letters, digits, '-', '.' and '_', "
        "beginning and ending with a letter or digit; no s3:// and no path",
    ),
    _lacks(r"\.\.", "a bucket name must not hold '..'"),
]

Region: TypeAlias = Annotated[
    str,
    StringConstraints(max_length=63),
    matches("[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?", "must be a region name, as in eu-central-1"),
]

KmsKeyID: TypeAlias = Annotated[
    str,
    StringConstraints(max_length=2048),
    matches("[A-Za-z0-9:/_-]+", "must be a KMS key id, alias or ARN"),
]

_HOST: Final = r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]"
_PORT: Final = "6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3}"
_URL_SEGMENT: Final = "[A-Za-z0-9_~-][A-Za-z0-9._~-]*"

Endpoint: TypeAlias = Annotated[
    str,
    StringConstraints(max_length=512),
    matches(
        f"https?://({_HOST})(:({_PORT}))?(/{_URL_SEGMENT})*/?",
        "must be a URL as in https://minio.minio.svc:9000: http or https, a host, optionally a port and a "
        "path; "
        "no user, no query",
    ),
]

# --- keys and paths ----------------------------------------------------------------------------


def _without_reserved(message: str) -> Rule:
    return Rule(
        cel=f"!self.split('/').exists(segment, segment == {cel_string(_RESERVED_SEGMENT)})",
        message=message,
        holds=lambda text: _RESERVED_SEGMENT not in text.split("/"),
    )


StorePrefix: TypeAlias = Annotated[
    str,
    StringConstraints(max_length=256),
    matches(
        "[A-Za-z0-9._=-]+(/[A-Za-z0-9._=-]+)*",
        "must be a relative path as in outputs or team/outputs: not empty, no '/' at either end, "
        "segments of letters, digits, '.', '_', '=' and '-'",
    ),
    _lacks(r"(^|/)\.{1,2}(/|$)", "must not hold a '.' or '..' segment"),
    _without_reserved(
        f"must not hold a {_RESERVED_SEGMENT} segment: it is reserved for the operator's own objects"
    ),
]

RulePrefix: TypeAlias = Annotated[
    str,
    StringConstraints(max_length=512),
    Rule(
        cel="self.endsWith('/') && self.size() > 1 && !self.startsWith('/')",
        message="must be a path of whole segments that ends with '/' and does not begin with one, as in "
        "outputs/",
        holds=lambda text: text.endswith("/") and len(text) > 1 and not text.startswith("/"),
    ),
    _lacks(r"/\.{0,2}/|^\.{1,2}/", "must not hold an empty, '.' or '..' segment"),
    _without_reserved(
        f"must not hold a {_RESERVED_SEGMENT} segment: the operator's own objects are never data"
    ),
    _lacks(r"[*?\\]", "wildcards and '\\' are not supported; a prefix covers everything below it"),
    _lacks("[\\x00-\\x1f\\x7f]", "must not hold control characters"),
]

AbsolutePath: TypeAlias = Annotated[
    str,
    StringConstraints(max_length=1024),
    Rule(
        cel="self.startsWith('/') && self.size() > 1",
        message="must be an absolute path below '/', as in /var/run/bubu/storage",
        holds=lambda text: text.startswith("/") and len(text) > 1,
    ),
    _lacks(
        r"/\.{0,2}(/|$)",
        "must be a clean path: no '//', no '.' or '..' segment, no '/' at the end",
    ),
    _lacks(
        "[\\x00-\\x1f\\x7f:]",
        "must not hold ':' (Kubernetes refuses it in mount paths) or control characters",
    ),
]

Quantity: TypeAlias = Annotated[
    str,
    StringConstraints(max_length=20),
    matches(
        "[1-9][0-9]*(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?",
        "must be a quantity of bytes: a whole number above 0, optionally with a unit, as in 512Mi or 2Gi",
    ),
]
