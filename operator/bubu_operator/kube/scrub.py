"""Keeps credentials out of what people and logs get to read.

Two nets: values that this process has read from Secrets are removed wherever they occur
(also URL-quoted and in base64), and forms that look like credentials are removed even
when nobody told us their value: signed URLs' queries, user info in URLs, access key ids,
``Authorization`` headers, ``key=value`` pairs with a telling name.

Status texts, events and log lines all pass through one `Redactor` per process.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

__all__ = ["REDACTED", "Redactor", "scrub_patterns", "shorten"]

REDACTED: Final = "[redacted]"
MIN_SECRET_CHARACTERS: Final = 4
"""Shorter values would blot out ordinary words and protect nothing."""

MAX_REMEMBERED: Final = 16384

_URL_QUERY = re.compile(r"(?P<url>\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s?#\"'<>]+)\?[^\s\"'<>]*")
_URL_USERINFO = re.compile(
    r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.-]*://)(?:[^\s/@\"'<>]+|[^\s/@:\"'<>]*:[^\s@\"'<>]+)@"
)
_SIGNED_PARAMETER = re.compile(
    r"(?i)\b(?P<name>X-Amz-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|Signature|Credential)=[^\s&,;\"'<>]+"
)
_ACCESS_KEY_ID = re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b")
_AUTHORIZATION = re.compile(
    r"(?i)\b(?P<name>authorization)(?P<sep>[\"']?\s*[:=]\s*)[^\r\n,;\"']+(?:,[^\r\n;\"']+)*"
)
_BEARER = re.compile(r"(?i)\bbearer\s+[A-Za-z0-9._~+/-]{8,}=*")
_PAIR = re.compile(
    r"(?i)\b(?P<name>[\w-]*(?:secret[_-]?(?:access[_-]?)?key|session[_-]?token|password|passwd|access[_-]?key(?:[_-]?id)?|secretaccesskey))"
    r"(?P<sep>[\"']?\s*[:=]\s*[\"']?)(?P<value>[^\s,;&\"'<>]+)"
)
_PAIR_WORDS: Final = ("key", "token", "password", "passwd")
_ACCESS_KEY_WORDS: Final = ("AKIA", "ASIA", "AROA", "AIDA")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]+")


def scrub_patterns(text: str) -> str:
    """Remove what looks like a credential, whoever's it is."""
    # Nearly all text holds none. Each pattern is tried only where a piece stands that it cannot do
    # without: that takes a twentieth of the time, and every log line pays for it.
    folded = text.casefold()
    if "://" in text:
        text = _URL_USERINFO.sub(rf"\g<scheme>{REDACTED}@", text)
        text = _URL_QUERY.sub(rf"\g<url>?{REDACTED}", text)
    if "=" in text:
        text = _SIGNED_PARAMETER.sub(rf"\g<name>={REDACTED}", text)
    if "author" in folded:
        text = _AUTHORIZATION.sub(rf"\g<name>\g<sep>{REDACTED}", text)
    if "bearer" in folded:
        text = _BEARER.sub(f"Bearer {REDACTED}", text)
    if any(word in folded for word in _PAIR_WORDS):
        text = _PAIR.sub(rf"\g<name>\g<sep>{REDACTED}", text)
    return _ACCESS_KEY_ID.sub(REDACTED, text) if any(word in text for word in _ACCESS_KEY_WORDS) else text


def shorten(text: str, max_characters: int) -> str:
    """Return one line of at most ``max_characters``, without control characters."""
    line = _CONTROL.sub(" ", " ".join(text.split()))
    return line if len(line) <= max_characters else line[: max_characters - 1] + "…"


class Redactor:
    """Remembers secret values of this process and removes them from text. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, None] = {}
        self._ordered: tuple[str, ...] = ()

    def add(self, values: Iterable[str]) -> None:
        """Remember values, also quoted, escaped and in base64; empty and very short ones are ignored."""
        forms: set[str] = set()
        for value in values:
            for candidate in {value, value.strip()}:
                if len(candidate) >= MIN_SECRET_CHARACTERS:
                    forms |= {
                        candidate,
                        quote(candidate, safe=""),
                        # As log lines and tracebacks show a quote or a backslash in it.
                        json.dumps(candidate, ensure_ascii=False)[1:-1],
                        repr(candidate)[1:-1],
                        base64.b64encode(candidate.encode()).decode().rstrip("="),
                    }
        if not forms:
            return
        with self._lock:
            if forms <= self._values.keys():
                return
            for form in forms:
                self._values.pop(form, None)
                self._values[form] = None
            while len(self._values) > MAX_REMEMBERED:
                del self._values[next(iter(self._values))]
            # Longest first: a value that holds another must go as a whole.
            self._ordered = tuple(sorted(self._values, key=len, reverse=True))

    def scrub(self, text: str) -> str:
        """Return ``text`` without known secret values and without what looks like one."""
        for value in self._ordered:
            if value in text:
                text = text.replace(value, REDACTED)
        return scrub_patterns(text)
