"""Objects of ours from the API's JSON, for reconcile functions.

A status is the operator's own note: one that somebody wrote by hand, or another version, must
not keep the spec from being followed. What cannot be read of it counts as not there, and the
next status that is written replaces it.
"""

from __future__ import annotations

import logging
from typing import TypeVar

from pydantic import ValidationError

from bubu_operator.api.v1alpha1.base import Resource, describe_validation_error
from bubu_operator.kube.resources import JsonObject, key_of

__all__ = ["parse_object"]

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=Resource)


def parse_object(model: type[Model], obj: JsonObject) -> Model:
    """Parse an object, its status left out where that is what cannot be read.

    Raises:
        ValidationError: the spec or the metadata is invalid.
    """
    try:
        return model.model_validate(obj)
    except ValidationError as error:
        parsed = model.model_validate({**obj, "status": {}})
        logger.warning(
            "%s %s: its status cannot be read and counts as empty: %s",
            model.KIND,
            key_of(obj),
            describe_validation_error(error),
        )
        return parsed
