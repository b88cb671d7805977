"""What the error tree promises whoever catches one of its errors."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError

from bubu_storage import errors
from bubu_storage.errors import (
    BucketNotFoundError,
    CopyError,
    CopyPhase,
    ObjectNotFoundError,
    StorageError,
    ThrottledError,
    UnavailableError,
    is_copy_phase,
    is_not_found,
)

CLASSES = [
    getattr(errors, name)
    for name in errors.__all__
    if isinstance(getattr(errors, name), type) and issubclass(getattr(errors, name), StorageError)
]


def sdk_error(status: int, code: str, message: str = "") -> ClientError:
    """An error of the SDK with a status."""
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "GetObject")


class CarriesStatusError(Exception):
    """An error of some HTTP client."""

    def __init__(self, text: str, **facts: object) -> None:
        super().__init__(text)
        self.__dict__.update(facts)


def caused(error: BaseException, cause: BaseException) -> BaseException:
    """Return an error with a cause."""
    error.__cause__ = cause
    return error


def during(error: BaseException, context: BaseException) -> BaseException:
    """Return an error that was raised while another one was being handled."""
    error.__context__ = context
    return error


MISSING = ObjectNotFoundError("gone", key="a", status=404)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, False),
        (MISSING, True),
        (caused(RuntimeError("step"), MISSING), True),
        (caused(UnavailableError("x"), FileNotFoundError(2, "x")), True),
        # The put that followed a miss was throttled: something may well be there.
        (during(ThrottledError("slow down"), MISSING), False),
        (BucketNotFoundError("no bucket", status=404), False),
        (caused(ObjectNotFoundError("x"), BucketNotFoundError("y")), False),
        (caused(RuntimeError("x"), BucketNotFoundError("not found")), False),
        (UnavailableError("upstream not found", key="notfound"), False),
        (sdk_error(404, "NoSuchKey"), True),
        (sdk_error(404, "404", "anything"), True),
        (sdk_error(404, "NoSuchBucket"), False),
        (sdk_error(500, "InternalError", "upstream not found"), False),
        (CarriesStatusError("x", status_code=404), True),
        (CarriesStatusError("status code: 404", status_code=503), False),
        (CarriesStatusError("x", response=SimpleNamespace(status_code=404)), True),
        (CarriesStatusError("not found", response=SimpleNamespace(status_code=500)), False),
        (CarriesStatusError("api error NotFound: x"), True),
        (CarriesStatusError("x", status_code="404"), False),
        (OSError(5, "device not found"), False),
        (PermissionError(13, "not found"), False),
    ],
    ids=lambda value: f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else str(value),
)
def test_is_not_found(error, expected):
    """By type and cause, else by status, and by words only where there is nothing better."""
    assert is_not_found(error) is expected


def test_copy_phase_follows_causes_only():
    """A copy that failed while something else was handled is not what failed."""
    read = CopyError(CopyPhase.READ, MISSING)

    assert is_copy_phase(caused(RuntimeError("x"), read), CopyPhase.READ)
    assert not is_copy_phase(read, CopyPhase.WRITE)
    assert not is_copy_phase(during(RuntimeError("x"), read), CopyPhase.READ)
    assert not is_copy_phase(None, CopyPhase.READ)


def test_a_chain_in_a_circle_ends():
    """Causes can be set by hand, also to each other."""
    first, second = RuntimeError("1"), RuntimeError("2")
    first.__cause__, second.__cause__ = second, first

    assert not is_not_found(first)
    assert not is_copy_phase(first, CopyPhase.READ)


def to_another_process(error: StorageError) -> StorageError:
    """What a worker's pool does with it."""
    return pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes


def make(kind: type[StorageError]) -> StorageError:
    """An instance with every attribute set."""
    if kind is CopyError:
        return CopyError(CopyPhase.WRITE, ThrottledError("slow", status=503, code="SlowDown"), key="k")
    return kind("text", key="k", status=418, code="Teapot")


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("way", [copy.copy, to_another_process])
def test_an_error_survives_the_way_between_processes(kind, way):
    """As a worker process hands it back, with all that it knows."""
    error = make(kind)

    again = way(error)

    assert type(again) is kind
    assert str(again) == str(error)
    facts = ("message", "key", "status", "code", "phase", "json_path", "retry_after_seconds")
    assert {name: getattr(again, name, None) for name in facts} == {
        name: getattr(error, name, None) for name in facts
    }


def test_a_copy_error_keeps_its_cause_between_processes():
    """Which is how its reader finds out what happened."""
    again = to_another_process(CopyError(CopyPhase.READ, MISSING))

    assert isinstance(again.__cause__, ObjectNotFoundError)
    assert is_not_found(again)
    assert is_copy_phase(again, CopyPhase.READ)
