"""Reviews on the wire: what is read at once, and what is put together from texts."""

from __future__ import annotations

import base64
import json

import pytest

from bubu_operator.webhook.review import ReviewRejectedError, parse_review, render_answer
from tests.unit.webhook.asgi import review_of

REVIEW = review_of({"metadata": {"name": "p"}, "spec": {}})


@pytest.mark.parametrize("body", [REVIEW + b"\n", b" \r\n\t" + REVIEW, REVIEW + b" \r\n\t"])
def test_space_around_a_review_is_no_part_of_it(body: bytes):
    """An API server ends with a line feed."""
    assert parse_review(body).uid == "u-1"


@pytest.mark.parametrize(
    ("body", "place"),
    [(REVIEW + b"x", len(REVIEW)), (REVIEW + b"\n\n{}", len(REVIEW) + 2), (b" {} {}", 4), (b"{}\x0b", 2)],
)
def test_what_follows_a_review_is_refused(body: bytes, place: int):
    """With its place, as the decoder itself says it."""
    with pytest.raises(ReviewRejectedError, match=f"Extra data at character {place}$") as refused:
        parse_review(body)
    with pytest.raises(json.JSONDecodeError, match="Extra data") as plain:
        json.loads(body)
    assert plain.value.pos == place
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "audit", [None, {}, {"reason": "Injected"}, {"reason": 'é"\\\n\ud800', "config": "c"}]
)
@pytest.mark.parametrize("warnings", [[], ["a warning"]])
@pytest.mark.parametrize("patch", ["", "[]", '[{"op":"add","path":"/a","value":"\\u00e9"}]'])
def test_an_answer_is_what_an_encoder_would_write(
    audit: dict[str, str] | None, warnings: list[str], patch: str
):
    """Byte by byte, whichever of its parts there are."""
    response: dict[str, object] = {"uid": 'é"\\', "allowed": True}
    if warnings:
        response["warnings"] = ["bubu-storage: a warning"]
    if audit:
        response["auditAnnotations"] = audit
    if patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(patch.encode()).decode()
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}

    answer = render_answer('é"\\', patch=patch, warnings=iter(warnings), audit=audit)

    assert answer == json.dumps(review, separators=(",", ":")).encode()
