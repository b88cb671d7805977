"""Which local paths may be stores: only below a root, never through a link."""

from __future__ import annotations

from pathlib import Path

import pytest

from bubu_operator.controllers.local_path import check_local_path


@pytest.fixture
def root(tmp_path):
    """An allowed root with a store, a file and a link out of it."""
    allowed = tmp_path / "allowed"
    (allowed / "store").mkdir(parents=True)
    (allowed / "file").write_text("x", encoding="utf-8")
    (tmp_path / "outside").mkdir()
    (allowed / "link").symlink_to(tmp_path / "outside")
    (allowed / "inner").symlink_to(allowed / "store")
    return allowed


@pytest.mark.parametrize("below", ["", "store", "store/", "new/deep/er", "store/../store", "./store"])
def test_below_the_root_is_fine(root, below):
    """The root itself, what is in it, and what does not exist yet."""
    assert check_local_path(f"{root}/{below}", [root]) is None


@pytest.mark.parametrize("way", ["/etc", "..", "store/../../outside", "../allowed-not"])
def test_outside_is_refused(root, way):
    """Neither another tree nor a way back up, and no other directory whose name begins alike."""
    path = way if way.startswith("/") else f"{root}/{way}"

    problem = check_local_path(path, [root])

    assert problem is not None
    assert problem.outside
    assert str(root) in problem.message


@pytest.mark.parametrize("way", ["link", "link/below", "inner", "inner/x"])
def test_links_are_refused_wherever_they_lead(root, way):
    """A link can be turned elsewhere after the check; none is followed."""
    problem = check_local_path(f"{root}/{way}", [root])

    assert problem is not None
    assert problem.outside
    assert "symbolic link" in problem.message


def test_a_root_behind_a_link_is_the_administrators_choice(root, tmp_path):
    """The root may be named by its link or by its real path."""
    (tmp_path / "alias").symlink_to(root)

    assert check_local_path(str(root / "store"), [tmp_path / "alias"]) is None
    assert check_local_path(str(tmp_path / "alias" / "store"), [tmp_path / "alias"]) is None


def test_below_a_file_is_unusable_not_forbidden(root):
    """A path through a regular file can never be a directory."""
    problem = check_local_path(f"{root}/file/store", [root])

    assert problem is not None
    assert not problem.outside
    assert "not a directory" in problem.message


def test_no_root_no_path(root):
    """By default nothing on the controller's machine is a store, and the message names the option."""
    problem = check_local_path(str(root), [])

    assert problem is not None
    assert problem.outside
    assert "--allow-local-root" in problem.message


def test_a_root_that_is_missing_is_said(tmp_path):
    """The administrator's mistake is told apart from the user's."""
    problem = check_local_path(str(tmp_path / "no" / "store"), [tmp_path / "no"])

    assert problem is not None
    assert not problem.outside
    assert "does not exist" in problem.message


def test_no_descriptor_is_left_open(root):
    """Checks run for ever in one process."""
    before = len(list(Path("/proc/self/fd").iterdir()))

    for way in ("store", "link", "file/x", "new", "../x"):
        check_local_path(f"{root}/{way}", [root])

    assert len(list(Path("/proc/self/fd").iterdir())) == before
