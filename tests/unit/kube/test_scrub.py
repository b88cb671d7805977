"""No credential leaves by a text."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.kube import scrub
from bubu_operator.kube.scrub import REDACTED, Redactor, credential_scope, scrub_patterns, shorten

KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize(
    "text",
    [
        f"The AWS Access Key Id you provided ({KEY}) does not exist",
        f"GET https://b.s3.amazonaws.com/k?X-Amz-Credential={KEY}%2F2026&X-Amz-Signature=deadbeef failed",
        f"https://user:{SECRET}@minio:9000/bucket refused",
        f"header Authorization: AWS4-HMAC-SHA256 Credential={KEY}/2026/s3, Signature=abcdef0123 sent",
        f'{{"secretAccessKey": "{SECRET}"}}',
        f"aws_secret_access_key = {SECRET}",
        f"password={SECRET}",
        f"Bearer {SECRET}",
        f"AWSAccessKeyId={KEY}&Signature={SECRET}",
        f"PASSWORD={SECRET}",
        f"pa\u017f\u017fword={SECRET}",
        f"SeSSion_To\u212aen: {SECRET}",
        f"Author\u0131zation: {SECRET}",
    ],
)
def test_forms_of_credentials_are_removed_unknown(text):
    """Signed URLs, user info, headers and telling names are recognised without knowing the value."""
    clean = scrub_patterns(text)

    for planted in (KEY, SECRET, "deadbeef", "abcdef0123"):
        assert planted not in clean
    assert REDACTED in clean


@pytest.mark.parametrize(
    "text",
    [
        "bucket flows at http://127.0.0.1:9000 did not answer in time",
        "key AWS_ACCESS_KEY_ID of Secret team-a/minio is missing; it has: rootUser, rootPassword",
        "kubectl create rolebinding x --namespace a --clusterrole x --serviceaccount a:b",
        "rule prefix 'outputs/' begins with neither",
    ],
)
def test_our_own_messages_stay_readable(text):
    """Scrubbing must not blot out what people need."""
    assert scrub_patterns(text) == text


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Zs", "Cc"]), min_size=8, max_size=40),
    st.text(max_size=30),
    st.text(max_size=30),
)
def test_known_values_are_removed_in_every_form(secret, before, after):
    """A value read from a Secret is removed plain, quoted and in base64, wherever it stands."""
    redactor = Redactor()
    redactor.add([secret])
    for form in (secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode().rstrip("=")):
        clean = redactor.scrub(f"{before} {form} {after}")
        assert form not in clean.replace(before, "").replace(after, "")


def test_short_values_are_left_alone():
    """A password of one letter cannot be hidden; blotting out the alphabet would help nobody."""
    redactor = Redactor()
    redactor.add(["a", "", "abc"])

    assert redactor.scrub("a fat cat, abc") == "a fat cat, abc"


def test_a_longer_value_goes_before_the_one_it_holds():
    """No part of a secret stays because a shorter one was removed first."""
    redactor = Redactor()
    redactor.add(["hunter2", "hunter2-and-more"])

    assert redactor.scrub("x hunter2-and-more x") == f"x {REDACTED} x"


def test_trailing_line_breaks_of_a_value_do_not_hide_it():
    """A Secret made with echo holds a line break; the value without it is removed all the same."""
    redactor = Redactor()
    redactor.add(["correct-horse\n"])

    assert "correct-horse" not in redactor.scrub("got correct-horse!")


def test_escaped_forms_are_removed():
    """A quote or a backslash in a secret is escaped in JSON log lines and in tracebacks."""
    secret = "pl\"an\\zwq'x"
    redactor = Redactor()
    redactor.add([secret])

    assert "zwq" not in redactor.scrub(json.dumps({"message": f"key {secret}"}))
    assert "zwq" not in redactor.scrub(f"ValueError({secret!r})")


def test_memory_is_bounded():
    """Rotated credentials do not pile up for ever."""
    redactor = Redactor()
    for number in range(10_000):
        redactor.add([f"value-{number:06d}"])

    assert "value-009999" not in redactor.scrub("value-009999")
    assert len(redactor._values) <= 16384


def test_texts_of_a_scope_are_cleaned_of_its_own_values():
    """And of what is the process's own; the process's log of all."""
    redactor = Redactor()
    redactor.add(["kubectl"], "team-b")
    redactor.add(["planted"], "team-a")
    redactor.add(["the-process-itself"])
    text = "kubectl planted the-process-itself"

    assert redactor.of("team-a").scrub(text) == f"kubectl {REDACTED} {REDACTED}"
    assert redactor.of("team-b").scrub(text) == f"{REDACTED} planted {REDACTED}"
    assert redactor.of("team-c").scrub(text) == f"kubectl planted {REDACTED}"
    assert redactor.scrub(text) == f"{REDACTED} {REDACTED} {REDACTED}"


def test_a_value_of_two_scopes_is_hidden_in_both():
    """Two teams may share a credential; whoever came second is no worse off."""
    redactor = Redactor()
    for scope in ("team-a", "team-b"):
        redactor.add(["planted"], scope)

    assert [redactor.of(scope).scrub("planted") for scope in ("team-a", "team-b")] == [REDACTED] * 2


def test_in_a_scope_too_a_longer_value_goes_first_and_short_ones_stay():
    """Whether it is of the scope or of the process; and no word of three letters is hidden."""
    redactor = Redactor()
    redactor.add(["hunter2"])
    redactor.add(["hunter2-and-more", "abc"], "team-a")

    assert redactor.of("team-a").scrub("abc hunter2-and-more x") == f"abc {REDACTED} x"


def test_no_namespace_has_the_scope_of_a_cluster_wide_config():
    """Or a tenant would see what its words are compared with by the name of its namespace."""
    assert credential_scope("StorageConfig", "team-a", "main") == "team-a"
    assert credential_scope("ClusterStorageConfig", "", "main") == "ClusterStorageConfig/main"


def test_a_value_that_is_read_again_outlives_those_that_are_not(monkeypatch):
    """Whoever rotates a lot does not make the process forget what others still use."""
    monkeypatch.setattr(scrub, "MAX_REMEMBERED", 8)
    redactor = Redactor()
    for number in range(20):
        redactor.add(["planted"], "team-a")
        redactor.add([f"value-{number:02d}"], f"team-{number}")

        assert redactor.scrub("planted") == REDACTED
        assert redactor.of("team-a").scrub("planted") == REDACTED
    assert redactor.of("team-0").scrub("value-00") == "value-00"
    assert len(redactor._scopes) <= 8


def test_shorten_makes_one_clean_line():
    """Control characters and line breaks go, and the length is bounded."""
    assert shorten("a\n\tb\x1b[31mc", 50) == "a b [31mc"
    assert len(shorten("x" * 100, 10)) == 10
