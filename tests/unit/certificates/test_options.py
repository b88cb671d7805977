"""What the commands take about certificates: one way, whole, readable; else a usage error."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from bubu_operator.certificates.lifetimes import Lifetimes, parse_lifetimes
from bubu_operator.cli import cli
from bubu_operator.errors import OptionsError


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tls-cert", "/x"], "belong together"),
        (["--tls-key", "/x"], "belong together"),
        (["--tls-cert", "/x", "--tls-key", "/y", "--authority-secret", "z"], "one or the other"),
        (["--tls-cert", "/x", "--tls-key", "/y", "--dns-name", "z"], "one or the other"),
        (["--dns-name", "https://x"], "neither a DNS name nor an IP address"),
        (["--dns-name", "bücher.example"], "ASCII"),
        (["--dns-name", ""], "neither a DNS name nor an IP address"),
    ],
)
def test_there_is_one_way_to_certificates(arguments: list[str], words: str):
    """Half a pair, two ways at once, or a name that cannot stand in a certificate."""
    done = CliRunner().invoke(cli, ["webhook", *arguments])

    assert done.exit_code == 2
    assert words in " ".join(done.output.split())


def test_lifetimes_are_read():
    """What is left out is as usual; nothing at all is the usual."""
    assert parse_lifetimes("") == Lifetimes()
    assert parse_lifetimes(" leaf=1d, propagation=90s") == Lifetimes(
        leaf_seconds=86400, propagation_seconds=90
    )


@pytest.mark.parametrize(
    "text",
    [
        "ca",
        "ca=",
        "ca=0s",
        "ca=1",
        "life=1d",
        "ca=1d;leaf=1h",
        "leaf=9999999999d",
        "ca=1m",
        "leaf=400d",
        "=1s",
    ],
)
def test_lifetimes_that_make_no_sense_are_refused(text: str):
    """With a sentence, at the start of the command."""
    with pytest.raises(OptionsError, match="lifetimes"):
        parse_lifetimes(text)
    done = CliRunner().invoke(cli, ["controller", "--authority-lifetimes", text])
    assert done.exit_code == 2
    assert "Traceback" not in done.output
