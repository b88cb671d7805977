"""``scripts/image``: what it asks of the engine, on machines with GNU's tools and with BSD's."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
EPOCH = 1767323045
DATE = "2026-01-02T03:04:05Z"

ENGINE = """#!/bin/sh
case $1 in
  buildx)
    printf '%s\\n' "$@" >"$RECORD/arguments"
    for word in "$@"; do
      case $word in id=build-env,src=*) cp "${word#id=build-env,src=}" "$RECORD/env" ;; esac
    done
    ;;
  image) echo 7 ;;
esac
"""
BSD_DATE = """#!/bin/sh
# As macOS's: -r takes seconds; -d sets the kernel's daylight saving time, and long options are unknown.
[ "$1" = -u ] && [ "$2" = -r ] || { echo "date: illegal option" >&2; exit 1; }
exec /usr/bin/env -i /bin/date -u -d "@$3" "$4"
"""


class Machine:
    """A machine whose docker writes down what it is asked; everything else is real unless replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment: dict[str, str] = {}
        (folder / "bin").mkdir()
        self.program("docker", ENGINE)

    def program(self, name: str, text: str) -> None:
        """Put a program before the real one."""
        path = self.folder / "bin" / name
        path.write_text(text, "utf-8")
        path.chmod(0o755)

    def build(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run the script."""
        return subprocess.run(
            [ROOT / "scripts" / "image", *options],
            env={
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "HOME": str(self.folder),
                "BUBU_IMAGE_ENGINE": "docker",
                "SOURCE_DATE_EPOCH": str(EPOCH),
                "RECORD": str(self.folder),
                **self.environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def arguments(self) -> list[str]:
        """What docker was given."""
        return (self.folder / "arguments").read_text("utf-8").splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """One with an engine that answers at once."""
    return Machine(tmp_path)


@pytest.mark.parametrize("tools", ["gnu", "bsd"])
def test_the_date_is_told_by_whichever_date_there_is(machine: Machine, tools: str):
    """GNU's and BSD's have no option in common for it."""
    if tools == "bsd":
        machine.program("date", BSD_DATE)
    # Without a repository the given date is the label's, too.
    machine.program("git", "#!/bin/sh\nexit 1\n")

    done = machine.build()

    assert (0, "") == (done.returncode, done.stderr)
    assert f"CREATED={DATE}" in machine.arguments()


def test_without_options_the_engine_gets_no_empty_word(machine: Machine):
    """An empty list is expanded to nothing."""
    assert 0 == machine.build().returncode

    given = machine.arguments()
    assert "" not in given
    assert not {"--platform", "--no-cache"} & set(given)


def test_a_platform_and_a_fresh_build_reach_the_engine(machine: Machine):
    """For nodes of another kind than the machine that builds."""
    done = machine.build("--platform", "linux/amd64", "--no-cache", "--tag", "x:1")

    given = machine.arguments()
    assert 0 == done.returncode
    assert "linux/amd64" == given[given.index("--platform") + 1]
    assert "--no-cache" in given


@pytest.mark.parametrize(
    ("platform", "said"),
    [("windows/amd64", "one of Linux"), ("linux/", "one of Linux"), ("linux/amd64,linux/arm64", "for each")],
)
def test_a_platform_that_cannot_be_built_is_refused(machine: Machine, platform: str, said: str):
    """Before anything is built."""
    done = machine.build("--platform", platform)

    assert 2 == done.returncode
    assert said in done.stderr
    assert not (machine.folder / "arguments").exists()


def test_a_quote_in_an_address_survives(machine: Machine):
    """The build reads the settings back by a shell."""
    hostile = "https://user:it's'@index.test/$HOME/`x`/\\"
    machine.environment = {"PIP_EXTRA_INDEX_URL": hostile}
    assert 0 == machine.build().returncode

    read = subprocess.run(
        ["/bin/sh", "-c", f'. {machine.folder}/env; printf %s "$PIP_EXTRA_INDEX_URL"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert hostile == read.stdout


def test_nothing_is_written_that_only_a_later_bash_or_gnu_can():
    """MacOS has bash 3.2 and BSD's tools, and no test runs on it."""
    text = (ROOT / "scripts" / "image").read_text("utf-8")
    code = re.sub(r"(?m)^\s*#.*$", "", text)

    for construct in (
        r"\bmapfile\b|\breadarray\b|declare -A|local -n|\bcoproc\b|&>>|\|&",
        r"\$\{\w+(,,|\^\^|@[QEPA])",
        r"\bdate --|\bsed -i\b|\breadlink -f\b|\bstat -c\b|\bgrep -P\b|\bmktemp --",
        r'(?<!\+)"\$\{optional\[@\]\}"',
    ):
        assert not re.search(construct, code), construct
