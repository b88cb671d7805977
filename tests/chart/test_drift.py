"""What the chart takes from elsewhere is up to date; needs no Helm."""

from __future__ import annotations

import pytest

from scripts.chart import expected, leftovers, read_values, with_version


def test_copies_versions_and_the_table_are_current():
    """`make generate` writes them: CRDs, Chart.yaml, docs/reference/chart-values.md."""
    wanted = expected()

    assert [] == [str(path) for path, text in wanted.items() if path.read_text("utf-8") != text]
    assert [] == leftovers(wanted)


def test_a_value_without_a_comment_is_an_error():
    """The table would have a hole."""
    with pytest.raises(ValueError, match=r"line 3: b has no comment"):
        read_values("# about a\na: 1\nb: 1\n")


def test_the_version_is_the_librarys():
    """In both places of Chart.yaml, and nowhere else."""
    chart = "apiVersion: v2\nversion: 0.0.1\nappVersion: 0.0.1\nkubeVersion: 1\n"

    assert "apiVersion: v2\nversion: 2.0\nappVersion: 2.0\nkubeVersion: 1\n" == with_version(
        chart, '__version__ = "2.0"\n'
    )
