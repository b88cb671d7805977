"""Logs: one line an event, of a known form, and nothing secret in any of them."""

from __future__ import annotations

import io
import json
import logging

import kopf
import pytest

from bubu_operator.errors import OptionsError
from bubu_operator.kube.scrub import Redactor
from bubu_operator.observability.logging import setup_logging


@pytest.fixture
def restore_logging():
    """Put the root logger, and those that are quieted, back as they were."""
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    yield
    root.handlers[:], root.level = before
    logging.captureWarnings(capture=False)
    for name in ("urllib3", "botocore", "boto3", "asyncio", "kopf", "kopf._core.reactor.running"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def planted():
    """A redactor that knows a secret."""
    redactor = Redactor()
    redactor.add(["planted-secret"])
    return redactor


def test_json_lines_are_json_and_clean(restore_logging, planted):
    """Messages, arguments, extras and tracebacks all pass the scrubber."""
    out = io.StringIO()
    setup_logging("info", "json", planted, stream=out)
    log = logging.getLogger("some.module")

    log.info("got %s", "planted-secret", extra={"port": 8080, "detail": "planted-secret"})
    try:
        int("planted-secret")
    except ValueError:
        log.exception("failed")
    log.debug("not shown")

    first, second = [json.loads(line) for line in out.getvalue().splitlines()]
    assert (first["level"], first["logger"], first["port"]) == ("info", "some.module", 8080)
    assert first["message"] == "got [redacted]"
    assert "ValueError" in second["exception"]
    assert "planted" not in out.getvalue()


def test_console_lines_are_clean_too(restore_logging, planted):
    """The form for people hides the same things."""
    out = io.StringIO()
    setup_logging("debug", "console", planted, stream=out)

    logging.getLogger("x").warning("planted-secret")

    assert "[redacted]" in out.getvalue()
    assert "planted" not in out.getvalue()


@pytest.mark.parametrize(("level", "form"), [("loud", "json"), ("info", "xml")])
def test_wrong_options_name_the_right_ones(planted, level, form):
    """A mistyped option is one clear sentence."""
    with pytest.raises(OptionsError, match="use one of"):
        setup_logging(level, form, planted)


def test_lines_of_kopf_name_their_object_and_nothing_else(restore_logging, planted):
    """Kopf adds all of its settings to each line about an object."""
    out = io.StringIO()
    setup_logging("info", "json", planted, stream=out)
    ref = {"kind": "StorageConfig", "namespace": "flows", "name": "main", "uid": "u"}

    logging.getLogger("kopf.objects").warning(
        "odd", extra={"settings": kopf.OperatorSettings(), "k8s_skip": 1, "k8s_ref": ref}
    )
    logging.getLogger("ours").warning("fine", extra={"settings": "kept"})

    theirs, ours = [json.loads(line) for line in out.getvalue().splitlines()]
    assert theirs.keys() == {"time", "level", "logger", "message", "object"}
    assert theirs["object"] == "StorageConfig flows/main"
    assert ours["settings"] == "kept"


def test_lines_of_uvicorn_have_no_second_message_in_colours(restore_logging, planted):
    """A copy of each message with escape sequences for a terminal is of no use in a log."""
    out = io.StringIO()
    setup_logging("info", "json", planted, stream=out)

    logging.getLogger("uvicorn.error").info("up", extra={"color_message": "\x1b[36mup\x1b[0m"})

    assert json.loads(out.getvalue()).keys() == {"time", "level", "logger", "message"}
