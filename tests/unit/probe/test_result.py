"""The result of a probe: what is written fits and is read back; what is forged is refused in few words."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.probe.result import (
    MAX_RESULT_BYTES,
    RESULT_REASONS,
    ProbeResult,
    UnreadableResultError,
    parse_result,
)
from bubu_storage.backend.probe import Capability

ALL = tuple(capability.value for capability in Capability)


@given(
    reason=st.sampled_from(sorted(RESULT_REASONS)),
    message=st.text(max_size=6000),
    latency=st.integers(0, 600_000),
)
def test_what_is_written_fits_and_is_read_back(reason, message, latency):
    """Whatever an error says, in whatever script, the kubelet keeps the whole document."""
    result = ProbeResult.model_construct(
        reason=reason, message=message, capabilities=ALL, latency_milliseconds=latency
    )

    text = result.to_text()

    assert len(text.encode()) < MAX_RESULT_BYTES
    back = parse_result(text)
    assert (back.reason, back.seen, back.latency_milliseconds) == (reason, tuple(Capability), latency)


@given(st.text(max_size=5000) | st.recursive(st.none(), st.lists, max_leaves=50).map(json.dumps))
def test_any_text_is_read_or_refused(text):
    """Nothing but one error comes out, and its words are ours."""
    said = ""
    try:
        parse_result(text)
    except UnreadableResultError as error:
        said = str(error)

    assert 0 < len(said) < 200


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "[" * 4096,
        "{" * 4096,
        '{"version":1}',
        '{"version":2,"reason":"ProbeSucceeded"}',
        '{"version":1,"reason":"Suspended"}',
        '{"version":1,"reason":"ProbeSucceeded","latency_milliseconds":-1}',
        '{"version":1,"reason":"ProbeSucceeded","latency_milliseconds":1e9}',
        '{"version":1,"reason":"ProbeSucceeded","latency_milliseconds":NaN}',
        '{"version":1,"reason":"ProbeSucceeded","capabilities":["' + "x" * 100 + '"]}',
        '{"version":1,"reason":"ProbeSucceeded","capabilities":' + json.dumps(["Read"] * 100) + "}",
        '{"version":1,"reason":"ProbeSucceeded","message":"' + "x" * 4096 + '"}',
        '{"version":1,"reason":"ProbeSucceeded","PLANTED":1,"message":["PLANTED"]}',
    ],
)
def test_forgeries(text):
    """Refused, and not quoted."""
    with pytest.raises(UnreadableResultError) as caught:
        parse_result(text)

    assert "PLANTED" not in str(caught.value)


def test_unknown_capabilities_are_left_out():
    """Words of a later version, or of a forger, do not reach the status."""
    result = parse_result(
        '{"version":1,"reason":"ProbeSucceeded","capabilities":["Write","Fly","Read","Read"],"later":{}}'
    )

    assert result.seen == (Capability.READ, Capability.WRITE)
    assert result.reason is Reason.PROBE_SUCCEEDED


def test_old_versions_travel_with_the_capabilities():
    """Seen or not known: a probe that says nothing of them has not seen that there are none."""
    result = ProbeResult(reason=Reason.PROBE_SUCCEEDED, capabilities=("Read", "Versioned"))
    back = parse_result(result.to_text())

    assert (back.seen, back.versioned) == ((Capability.READ,), True)
    assert parse_result(result.model_copy(update={"capabilities": ("Read",)}).to_text()).versioned is None
