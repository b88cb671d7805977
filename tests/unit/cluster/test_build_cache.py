"""Programs are built once, completely, with visible progress, and never by two at a time."""

from __future__ import annotations

import dataclasses
import fcntl
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster import build
from tests.cluster.build import (
    COMMANDS,
    Program,
    cache_root,
    cached_binaries,
    control_plane_program,
    ensure_program,
    find_go,
    program_key,
)
from tests.cluster.errors import BuildError, PrerequisiteError

if TYPE_CHECKING:
    from collections.abc import Callable

GO_VERSION = "if sys.argv[1] == 'env': print('go1.26.8\\nlocal'); sys.exit()"
# Writes the executable where `-o` says, after the kind of output that `go build -v` gives.
GO_BUILDS = f"""
{GO_VERSION}
print("go: downloading example.com/module v1.2.3", file=sys.stderr)
print("k8s.io/api/core/v1", file=sys.stderr)
with open(os.path.join(os.path.dirname(__file__), "calls"), "a") as calls: calls.write("built ")
open(sys.argv[sys.argv.index("-o") + 1], "w").write("program")
"""

WAITS_FOR_THE_TEST = """
patience = time.monotonic() + 60
while not os.path.exists(os.path.join(os.path.dirname(__file__), "go-on")) and time.monotonic() < patience:
    time.sleep(0.01)
"""


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """A small program with one input file and two links."""
    source = tmp_path / "main.go"
    source.write_text("package main", encoding="utf-8")
    return Program(
        name="tool",
        title="the tool",
        version="v1",
        go_arguments=("build", "-o", "{out}/tool", "."),
        inputs=(source,),
        folder=tmp_path,
        links=("one", "two"),
    )


def test_cache_folder_follows_the_environment():
    """BUBU_CACHE_DIR wins, then XDG_CACHE_HOME, then the user's cache folder; always outside the clone."""
    both = {"BUBU_CACHE_DIR": "/own", "XDG_CACHE_HOME": "/xdg"}

    assert cache_root(both) == Path("/own")
    assert cache_root({"XDG_CACHE_HOME": "/xdg"}) == Path("/xdg/bubu-storage-operator")
    assert cache_root({}) == Path("~/.cache/bubu-storage-operator").expanduser()
    assert cache_root({"BUBU_CACHE_DIR": "~/own"}) == Path("~/own").expanduser()


def test_key_is_stable(program: Program):
    """The same inputs give the same folder, wherever the clone is."""
    assert program_key(program) == program_key(dataclasses.replace(program, folder=None))
    assert program_key(program).startswith("tool-v1-")


def test_key_changes_with_every_input(program: Program, tmp_path: Path):
    """A changed source, flag, link, name or version is another program."""
    before = program_key(program)
    changed = [
        dataclasses.replace(program, version="v2"),
        dataclasses.replace(program, name="other"),
        dataclasses.replace(program, go_arguments=(*program.go_arguments, "-ldflags=-s")),
        dataclasses.replace(program, links=("one",)),
        dataclasses.replace(program, inputs=()),
    ]
    keys = {program_key(item) for item in changed}
    (tmp_path / "main.go").write_text("package main // changed", encoding="utf-8")
    keys.add(program_key(program))

    assert before not in keys
    assert len(keys) == len(changed) + 1


def test_control_plane_key_covers_its_module_and_linker_flags():
    """The three files of the module and the version that the linker stamps decide the key."""
    described = control_plane_program()

    assert [path.name for path in described.inputs] == ["main.go", "go.mod", "go.sum"]
    assert all(path.is_file() for path in described.inputs)
    assert any("gitVersion=v1.36.3" in word and "gitMinor=36" in word for word in described.go_arguments)
    assert described.links == COMMANDS


def test_first_use_builds_and_second_does_not(fake_path: Callable[..., Path], program: Program):
    """What is in the cache is used as it is."""
    folder = fake_path(go=GO_BUILDS)
    lines: list[str] = []

    first = ensure_program(program, lines.append)
    second = ensure_program(program, lines.append)

    assert first == second == cache_root() / program_key(program)
    assert (first / "one").resolve() == first / "tool"
    assert (first / "two").read_text(encoding="utf-8") == "program"
    assert (folder / "calls").read_text(encoding="utf-8") == "built "
    assert lines[0].startswith("building the tool")
    assert lines[-1].startswith("built the tool in 0:0")


def test_cached_program_needs_no_go(fake_path: Callable[..., Path], program: Program):
    """A machine that lost its Go still runs what it has built."""
    fake_path(go=GO_BUILDS)
    built = ensure_program(program, print)
    fake_path(go="sys.exit(1)")

    assert ensure_program(program, print) == built


def test_failed_build_says_why_and_leaves_nothing(fake_path: Callable[..., Path], program: Program):
    """Go's own last words are in the error, and the next attempt starts afresh."""
    fake_path(go=f"{GO_VERSION}\nprint('k8s.io/api')\nprint('main.go:3:1: syntax error')\nsys.exit(1)")

    with pytest.raises(BuildError, match=r"exit code 1\):\n +main.go:3:1: syntax error"):
        ensure_program(program, print)

    assert [path for path in cache_root().iterdir() if path.is_dir()] == []


def test_build_without_result_is_an_error(fake_path: Callable[..., Path], program: Program):
    """A go that ends well but writes nothing is not believed."""
    fake_path(go=GO_VERSION)

    with pytest.raises(BuildError, match="is not there"):
        ensure_program(program, print)


def test_leftovers_of_a_killed_builder_are_removed(fake_path: Callable[..., Path], program: Program):
    """A builder that was killed leaves a temporary folder; the next one takes it away."""
    fake_path(go=GO_BUILDS)
    leftover = cache_root() / f".{program_key(program)}.killed"
    leftover.mkdir(parents=True)

    ensure_program(program, print)

    assert not leftover.exists()


def test_progress_is_reported_while_go_works(
    fake_path: Callable[..., Path], program: Program, monkeypatch: pytest.MonkeyPatch
):
    """Lines with the elapsed time and the counts appear during the build, not after it."""
    monkeypatch.setattr(build, "PROGRESS_SECONDS", 0.2)
    folder = fake_path(go=GO_BUILDS + f"sys.stderr.flush()\n{WAITS_FOR_THE_TEST}")
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        if re.fullmatch(r"  0:[0-9]{2}  1 modules fetched, 1 packages compiled", line):
            (folder / "go-on").touch()

    ensure_program(program, report)

    assert (folder / "go-on").exists()
    assert "fetched" not in lines[0]


def test_endless_build_is_given_up(
    fake_path: Callable[..., Path], program: Program, monkeypatch: pytest.MonkeyPatch
):
    """The time for a build is bounded."""
    monkeypatch.setattr(build, "BUILD_DEADLINE_SECONDS", 0.5)
    fake_path(go=f"{GO_VERSION}\ntime.sleep(300)")

    with pytest.raises(BuildError, match=r"given up after 0:[0-9]{2}$"):
        ensure_program(program, print)


def test_two_builders_build_once(fake_path: Callable[..., Path], program: Program):
    """The second waits, says so, and uses what the first has built."""
    folder = fake_path(go=GO_BUILDS + WAITS_FOR_THE_TEST)
    lines: list[str] = []
    results: list[Path] = []

    def report(line: str) -> None:
        lines.append(line)
        if line.startswith("waiting for another process"):
            (folder / "go-on").touch()

    builders = [
        threading.Thread(target=lambda: results.append(ensure_program(program, report))) for _ in range(3)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(120)

    assert results == [cache_root() / program_key(program)] * 3
    assert (folder / "calls").read_text(encoding="utf-8") == "built "
    assert any(line.startswith("waiting for another process") for line in lines)


def test_waiting_for_another_builder_is_bounded(
    fake_path: Callable[..., Path], program: Program, monkeypatch: pytest.MonkeyPatch
):
    """A builder that never ends does not block others for ever."""
    monkeypatch.setattr(build, "BUILD_DEADLINE_SECONDS", 0.3)
    fake_path(go=GO_BUILDS)
    cache_root().mkdir()
    with (cache_root() / f".{program_key(program)}.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        with pytest.raises(BuildError, match="another process"):
            ensure_program(program, print)


def test_unwritable_cache_is_one_sentence(
    fake_path: Callable[..., Path], program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """The message names the folder and the variable that moves it."""
    fake_path(go=GO_BUILDS)
    (tmp_path / "file").touch()
    monkeypatch.setenv("BUBU_CACHE_DIR", str(tmp_path / "file" / "cache"))

    with pytest.raises(PrerequisiteError, match="set BUBU_CACHE_DIR") as caught:
        ensure_program(program, print)

    assert "\n" not in str(caught.value)


def test_users_go_settings_do_not_leak_into_the_build(
    fake_path: Callable[..., Path], program: Program, monkeypatch: pytest.MonkeyPatch
):
    """GOFLAGS, a workspace and GOBIN of the user's change neither the result nor its place."""
    monkeypatch.setenv("GOFLAGS", "-mod=vendor")
    monkeypatch.setenv("GOBIN", "/elsewhere")
    fake_path(
        go=GO_BUILDS
        + "assert os.environ['GOFLAGS'] == '' and os.environ['GOWORK'] == 'off'\n"
        + "assert os.environ['GOBIN'] == os.path.dirname(sys.argv[sys.argv.index('-o') + 1])"
    )

    assert ensure_program(program, print).is_dir()


def test_missing_go_is_one_sentence(fake_path: Callable[..., Path], program: Program):
    """The message says what is missing, for what, and where to get it."""
    fake_path()

    with pytest.raises(PrerequisiteError) as caught:
        find_go(program)

    assert str(caught.value) == (
        "Building the tool needs Go 1.26 or newer, and there is no go on PATH: "
        "install it from https://go.dev/dl/."
    )


@pytest.mark.parametrize(
    ("version", "toolchain", "accepted"),
    [
        ("go1.26.0", "local", True),
        ("go1.27rc1", "local", True),
        ("go2.0", "local", True),
        ("go1.25.9", "local", False),
        ("go1.9", "local", False),
        # From 1.21 on, go fetches what the module asks for unless told to stay local.
        ("go1.22.1", "auto", True),
        ("go1.22.1", "go1.22.1+auto", True),
        ("go1.20.3", "auto", False),
        ("devel +abc", "local", False),
        ("", "", False),
    ],
)
def test_go_must_be_new_enough_or_able_to_fetch_a_newer(
    fake_path: Callable[..., Path], program: Program, version: str, toolchain: str, accepted: bool
):
    """An old Go is refused with its version and the way out, in one line."""
    fake_path(go=f"print({version!r}); print({toolchain!r})")

    if accepted:
        assert find_go(program).endswith("/go")
    else:
        with pytest.raises(PrerequisiteError, match=r"needs Go 1\.26 or newer, and .*GOTOOLCHAIN") as caught:
            find_go(program)
        assert "\n" not in str(caught.value)


def test_broken_go_is_named(fake_path: Callable[..., Path], program: Program):
    """A go that cannot even tell its version is not used."""
    fake_path(go="sys.exit(3)")

    with pytest.raises(PrerequisiteError, match="does not work"):
        find_go(program)


def test_cached_binaries_never_build(fake_path: Callable[..., Path]):
    """Asking what is there starts nothing."""
    folder = fake_path(go=GO_BUILDS)

    assert cached_binaries() is None
    assert not (folder / "calls").exists()
