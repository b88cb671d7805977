"""The pydantic models judge the table of objects as the API server does (see tests/cluster/test_crds.py)."""

from __future__ import annotations

import pytest
import yaml
from pydantic import ValidationError

from bubu_operator.api.crds import render_crds
from bubu_operator.api.v1alpha1 import KINDS, describe_validation_error
from tests.cluster.crd_table import CASES, CrdCase

MODELS = {kind.KIND: kind for kind in KINDS}


def _messages(case: CrdCase) -> str:
    try:
        MODELS[case.kind].model_validate(case.body)
    except ValidationError as error:
        return describe_validation_error(error)
    return ""


def _rule_messages(node: object) -> set[str]:
    """Every message of a rule in a CRD."""
    if isinstance(node, list):
        return set().union(*(_rule_messages(item) for item in node))
    if isinstance(node, dict):
        own = {rule["message"] for rule in node.get("x-kubernetes-validations", [])}
        return own.union(*(_rule_messages(value) for value in node.values()))
    return set()


RULE_MESSAGES = _rule_messages([yaml.safe_load(text) for text in render_crds().values()])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_models_give_the_verdict_of_the_table(case: CrdCase):
    """An object is refused by the models exactly when the table says that the API server refuses it."""
    assert bool(case.refused) == bool(_messages(case)), _messages(case)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.refused and any(case.refused in message for message in RULE_MESSAGES)],
    ids=str,
)
def test_rules_speak_with_the_same_words(case: CrdCase):
    """Where a rule of ours refuses, the models say what the API server says."""
    assert case.refused in _messages(case)


def test_every_rule_on_a_new_object_has_a_case():
    """No rule of the CRDs is untested: each message is in the table (updates are tested on their own)."""
    untested = {
        message
        for message in RULE_MESSAGES
        if not any(case.refused and case.refused in message for case in CASES)
    }

    on_updates = {message for message in RULE_MESSAGES if "changed or removed after creation" in message}

    assert untested == on_updates
