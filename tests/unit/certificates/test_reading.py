"""Reading what others may have written: total, and explained; and the time, as the API server tells it."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from bubu_operator.certificates.bundles import bundle_patch, observe_configuration
from bubu_operator.certificates.issuing import (
    UnusableAuthorityError,
    issue_authority,
    issue_leaf,
    load_authority,
    serving_names,
)
from bubu_operator.certificates.stored import AuthorityState, RetiredAuthority, decode, encode
from bubu_operator.errors import KubeUnreachableError
from bubu_operator.kube.server_clock import ServerClock

NOW = datetime(2030, 1, 1, tzinfo=UTC)
AUTHORITY = issue_authority(NOW, lifetime=timedelta(days=30), backdate=timedelta(hours=1))
OTHER = issue_authority(NOW, lifetime=timedelta(days=30), backdate=timedelta(hours=1))
KEYS = ["signing.crt", "signing.key", "upcoming.crt", "upcoming.key", "ca.crt", "state.json"]

values = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=20),
    st.binary(max_size=40).map(lambda content: base64.b64encode(content).decode()),
    st.sampled_from(list(encode(AuthorityState(signing=AUTHORITY, upcoming=OTHER)).values())),
)


@settings(max_examples=150, deadline=None)
@given(st.one_of(values, st.dictionaries(st.sampled_from(KEYS), values)))
def test_any_content_of_the_secret_is_read(data: object):
    """Never an exception; what is wrong is said, without quoting a key."""
    stored = decode(data)

    assert stored.state.signing in (None, AUTHORITY, OTHER)
    assert not any("PRIVATE KEY" in problem for problem in stored.problems)


def test_what_is_written_is_read_back():
    """All of it."""
    state = AuthorityState(
        signing=AUTHORITY,
        retired=(RetiredAuthority(OTHER.certificate, NOW),),
        revision=7,
        leaf_seconds=60,
        propagation_seconds=5,
        rotated="x",
    )

    assert decode(encode(state)).state == state
    assert decode(encode(state)).problems == ()


def test_only_an_authority_signs():
    """A key of another pair, a leaf, or a time outside of its own: refused with the cause."""
    with pytest.raises(UnusableAuthorityError, match="does not belong"):
        load_authority(AUTHORITY.certificate.pem, OTHER.key_pem)
    leaf = issue_leaf(AUTHORITY, ["x"], NOW, lifetime=timedelta(days=1), backdate=timedelta(hours=1))
    with pytest.raises(UnusableAuthorityError, match="not one of an authority"):
        load_authority(leaf.certificate_pem.decode(), leaf.key_pem.decode())
    with pytest.raises(UnusableAuthorityError, match="valid from"):
        issue_leaf(
            AUTHORITY, ["x"], NOW + timedelta(days=31), lifetime=timedelta(days=1), backdate=timedelta()
        )


def test_a_leaf_never_outlives_its_authority():
    """However long it was asked for."""
    leaf = issue_leaf(
        AUTHORITY,
        serving_names("s", "n", ["127.0.0.1"]),
        NOW + timedelta(days=29),
        lifetime=timedelta(days=7),
        backdate=timedelta(days=60),
    )

    assert leaf.not_after == AUTHORITY.certificate.not_after
    assert leaf.not_before == AUTHORITY.certificate.not_before


def test_entries_that_are_right_are_left_alone():
    """In whatever order the certificates stand; the others are patched if nothing has changed meanwhile."""
    pems = (AUTHORITY.certificate.pem, OTHER.certificate.pem)
    contents = ["".join(pems), "".join(reversed(pems)), pems[0], "garbage"]
    webhooks = [
        {"name": "e", "clientConfig": {"caBundle": base64.b64encode(content.encode()).decode()}}
        for content in contents
    ]
    observed = observe_configuration(
        {"metadata": {"resourceVersion": "5"}, "webhooks": [*webhooks, {"clientConfig": {}}, {}]}
    )

    patch = bundle_patch(observed, [AUTHORITY.certificate, OTHER.certificate])

    assert patch[0] == {"op": "test", "path": "/metadata/resourceVersion", "value": "5"}
    assert [item["path"].split("/")[2] for item in patch[1:]] == ["2", "3", "4", "5"]
    assert not observed.entries[3].readable


def test_the_time_is_the_api_servers():
    """Heard from its answers; goes on by a clock that nobody sets; kept when it does not answer."""
    seconds = [100.0]
    dates = ["Tue, 01 Jan 2030 00:00:00 GMT"]

    def send(*_: object, **__: object) -> SimpleNamespace:
        if not dates:
            raise KubeUnreachableError("away")
        return SimpleNamespace(headers={"Date": dates.pop()})

    client = SimpleNamespace(send=send, read=lambda *_: b"")
    clock = ServerClock(client, local=lambda: NOW + timedelta(hours=5), elapsed=lambda: seconds[0])  # type: ignore[arg-type]
    assert (clock.known, clock.stale) == (False, True)
    assert clock.now() == NOW + timedelta(hours=5)

    assert clock.ask()
    assert not clock.stale
    seconds[0] += 90
    assert clock.now() == NOW + timedelta(seconds=90)
    assert not clock.ask()
    assert not clock.hear("yesterday")
    assert clock.now() == NOW + timedelta(seconds=90)
    assert round(clock.ahead_seconds) == 5 * 3600 - 90
