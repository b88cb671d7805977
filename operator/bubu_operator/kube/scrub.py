"""Keeps credentials out of what people and logs get to read.

Two nets: values that this process has read from Secrets are removed wherever they occur
(also URL-quoted and in base64), and forms that look like credentials are removed even
when nobody told us their value: signed URLs' queries, user info in URLs, access key ids,
``Authorization`` headers, ``key=value`` pairs with a telling name.

Status texts, events and log lines all pass through one `Redactor` per process. Invariants: log lines,
which operators read, are cleaned of every value that the process knows; what tenants read is cleaned of
the values of its own store only (`Redactor.of`), or a tenant could blot words out of everybody's
messages by a credential, and learn by a guess in a message that somebody else has that credential.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

__all__ = ["REDACTED", "Redactor", "credential_scope", "scrub_patterns", "shorten"]

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


def credential_scope(kind: str, namespace: str, name: str) -> str:
    """Return to whose texts the credentials of a config belong: its namespace's, or its own if it has none.

    No namespace is called like a cluster-wide config: the slash sees to that.
    """
    return namespace or f"{kind}/{name}"


class Redactor:
    """Remembers secret values of this process and removes them from text. Thread-safe.

    Args:
        forms: known from the start, each in just this form.
    """

    def __init__(self, forms: Iterable[str] = ()) -> None:
        self._lock = threading.Lock()
        self._common = dict.fromkeys(forms)
        self._scopes: dict[str, dict[str, None]] = {}
        self._values = dict(self._common)
        self._ordered = _longest_first(self._values)

    def add(self, values: Iterable[str], scope: str = "") -> None:
        """Remember values, also quoted, escaped and in base64; empty and very short ones are ignored.

        Args:
            values: what nobody may read.
            scope: whose texts are cleaned of them, by `credential_scope`; "" for everybody's, which is
                for what is the process's own.
        """
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
            _remember(self._common if not scope else self._scope(scope), forms)
            if _remember(self._values, forms):
                self._ordered = _longest_first(self._values)

    def of(self, scope: str) -> Redactor:
        """Return one that knows, of what is known now, that scope's values and everybody's only."""
        with self._lock:
            forms = self._common | self._scopes.get(scope, {})
        return Redactor(forms)

    def _scope(self, scope: str) -> dict[str, None]:
        # The latest last: what is read again and again stays.
        known = self._scopes.pop(scope, {})
        self._scopes[scope] = known
        if len(self._scopes) > MAX_REMEMBERED:
            del self._scopes[next(iter(self._scopes))]
        return known

    def scrub(self, text: str) -> str:
        """Return ``text`` without known secret values, whoever's, and without what looks like one."""
        for value in self._ordered:
            if value in text:
                text = text.replace(value, REDACTED)
        return scrub_patterns(text)


def _remember(known: dict[str, None], forms: set[str]) -> bool:
    """Put forms last, and let go of the first if there are too many; tell whether any was new."""
    is_news = not forms <= known.keys()
    for form in forms:
        known.pop(form, None)
        known[form] = None
    while len(known) > MAX_REMEMBERED:
        del known[next(iter(known))]
    return is_news


def _longest_first(values: Iterable[str]) -> tuple[str, ...]:
    # A value that holds another must go as a whole.
    return tuple(sorted(values, key=len, reverse=True))
