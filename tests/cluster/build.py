"""Go programs built once and kept outside the clone.

Each program has its own folder in the cache, named after a hash of everything that decides its
contents. It is built to a temporary folder and renamed, so a folder that exists is complete; a
file lock keeps two builders of the same program from racing. While Go works, a line every few
seconds says how far it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.errors import BuildError, PrerequisiteError
from tests.cluster.progress import Pace, clock, run_with_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

__all__ = [
    "KUBERNETES_VERSION",
    "Binaries",
    "Program",
    "build_lock",
    "cache_root",
    "cached_binaries",
    "control_plane_program",
    "ensure_binaries",
    "ensure_program",
    "find_go",
    "given_or_built",
    "program_key",
]

KUBERNETES_VERSION = "v1.36.3"
MODULE = Path(__file__).with_name("controlplane")
COMMANDS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
PROGRESS_SECONDS = 5.0
BUILD_DEADLINE_SECONDS = 2700.0

_MAJOR, _MINOR = KUBERNETES_VERSION.removeprefix("v").split(".")[:2]
_LDFLAGS = " ".join(
    [
        "-s -w",
        f"-X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}",
        f"-X k8s.io/component-base/version.gitMajor={_MAJOR}",
        f"-X k8s.io/component-base/version.gitMinor={_MINOR}",
    ]
)


@dataclass(frozen=True, slots=True)
class Program:
    """What to build, and with what.

    Attributes:
        name: the executable's name.
        title: what people are told is being built.
        version: shown in the cache folder's name.
        go_arguments: arguments of ``go`` that build it; the executable appears in the folder that
            ``{out}`` stands for.
        inputs: files whose contents decide the result.
        folder: where ``go`` runs; a neutral folder if absent.
        links: names of links to the executable, for one that dispatches on its own name.
        minimum_go: the oldest Go that can build it.
    """

    name: str
    title: str
    version: str
    go_arguments: tuple[str, ...]
    inputs: tuple[Path, ...] = ()
    folder: Path | None = None
    links: tuple[str, ...] = ()
    minimum_go: tuple[int, int] = (1, 26)


@dataclass(frozen=True, slots=True)
class Binaries:
    """The folder that holds the control plane's programs under upstream's own names."""

    folder: Path

    @property
    def kubectl(self) -> Path:
        """The kubectl that belongs to this control plane."""
        return self.folder / "kubectl"

    def path(self, command: str) -> Path:
        """Return the path of one of ``etcd``, ``kube-apiserver``, … ."""
        return self.folder / command


def control_plane_program() -> Program:
    """Return the description of the local control plane: our Go module over upstream's commands."""
    return Program(
        name="controlplane",
        title=f"the Kubernetes {KUBERNETES_VERSION} control plane",
        version=KUBERNETES_VERSION,
        go_arguments=(
            "build",
            "-v",
            "-trimpath",
            "-buildvcs=false",
            "-mod=readonly",
            f"-ldflags={_LDFLAGS}",
            "-o",
            "{out}/controlplane",
            ".",
        ),
        inputs=(MODULE / "main.go", MODULE / "go.mod", MODULE / "go.sum"),
        folder=MODULE,
        links=COMMANDS,
    )


def cache_root(env: Mapping[str, str] | None = None) -> Path:
    """Return the folder of built programs: ``$BUBU_CACHE_DIR``, or the user's cache folder."""
    env = os.environ if env is None else env
    if env.get("BUBU_CACHE_DIR"):
        return Path(env["BUBU_CACHE_DIR"]).expanduser().absolute()
    base = env.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(base).absolute() / "bubu-storage-operator"


def program_key(program: Program) -> str:
    """Return the cache folder's name: program, version, and a hash of all that decides the contents."""
    digest = hashlib.sha256()
    for part in (program.name, program.version, os.uname().machine, *program.go_arguments, *program.links):
        digest.update(part.encode() + b"\0")
    for path in program.inputs:
        contents = path.read_bytes()
        digest.update(f"{path.name}\0{len(contents)}\0".encode() + contents)
    return f"{program.name}-{program.version}-{digest.hexdigest()[:16]}"


def cached_binaries() -> Binaries | None:
    """Return the control plane's programs if they have been built, without building anything."""
    folder = cache_root() / program_key(control_plane_program())
    return Binaries(folder) if folder.is_dir() else None


def ensure_binaries(report: Callable[[str], None] | None = None) -> Binaries:
    """Return the control plane's programs, building them first where that is needed.

    Args:
        report: receives progress lines; standard error if absent.

    Raises:
        PrerequisiteError: Go is missing or too old.
        BuildError: Go failed.
    """
    return Binaries(ensure_program(control_plane_program(), report))


def given_or_built(program: Program, variable: str, report: Callable[[str], None] | None = None) -> Path:
    """Return a program's executable: the one that a variable names, or the one in the cache.

    Args:
        program: what to build where it is missing; its executable has its name.
        variable: name of the environment variable.
        report: gets a line now and then while it is built.

    Raises:
        PrerequisiteError: it must be built and Go is missing, or the variable names no program.
        BuildError: Go failed.
    """
    given = os.environ.get(variable)
    if not given:
        return ensure_program(program, report) / program.name
    if shutil.which(given) is None:
        raise PrerequisiteError(f"{variable}={given} is not an executable file.")
    return Path(given).absolute()


def ensure_program(program: Program, report: Callable[[str], None] | None = None) -> Path:
    """Return the cache folder that holds a program, building it first where that is needed.

    Raises:
        PrerequisiteError: Go is missing or too old, or the cache folder cannot be written.
        BuildError: Go failed.
    """
    report = report or _print_progress
    root = cache_root()
    target = root / program_key(program)
    if target.is_dir():
        return target
    go = find_go(program)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with build_lock(root / f".{target.name}.lock", program.title, report):
            if not target.is_dir():
                _build(go, program, target, report)
    except OSError as error:
        raise PrerequisiteError(
            f"{program.title} cannot be kept in {root} ({error.strerror or error}); "
            "set BUBU_CACHE_DIR to a folder with 300 MB of space."
        ) from error
    return target


def find_go(program: Program) -> str:
    """Return the path of a Go that can build the program.

    Raises:
        PrerequisiteError: there is none on PATH, or it is too old and may not fetch a newer one.
    """
    needed = ".".join(map(str, program.minimum_go))
    go = shutil.which("go")
    if go is None:
        raise PrerequisiteError(
            f"Building {program.title} needs Go {needed} or newer, and there is no go on PATH: "
            "install it from https://go.dev/dl/."
        )
    try:
        answer = subprocess.run(
            [go, "env", "GOVERSION", "GOTOOLCHAIN"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            cwd="/",
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise PrerequisiteError(f"{go} does not work ({error}): reinstall Go {needed} or newer.") from error
    found, toolchain = [*answer.stdout.splitlines(), "", ""][:2]
    version = _go_version(found)
    # Since 1.21 go fetches the toolchain that a module asks for, unless told to stay local.
    fetches = version >= (1, 21) and toolchain.endswith(("auto", "path"))
    if version < program.minimum_go and not fetches:
        raise PrerequisiteError(
            f"Building {program.title} needs Go {needed} or newer, and {go} is "
            f"{found or 'of an unknown version'}: "
            "install a newer one from https://go.dev/dl/ or set GOTOOLCHAIN=auto."
        )
    return go


def _go_version(text: str) -> tuple[int, int]:
    """Return major and minor of a text such as ``go1.26.8``; zeros for anything else."""
    match = re.match(r"go(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _print_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def build_lock(path: Path, title: str, report: Callable[[str], None]) -> Generator[None]:
    """Hold an exclusive lock; it vanishes with the process, so no builder can leave it behind.

    Args:
        path: the lock file.
        title: what is being built, for people who wait.
        report: gets a line now and then while another process has the lock.

    Raises:
        BuildError: another process has had it for longer than any build takes.
    """
    with path.open("a") as handle:
        deadline = time.monotonic() + BUILD_DEADLINE_SECONDS
        next_report = 0.0
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                now = time.monotonic()
                if now >= deadline:
                    raise BuildError(f"another process has been building {title} for too long") from None
                if now >= next_report:
                    report(f"waiting for another process that builds {title}")
                    next_report = now + 4 * PROGRESS_SECONDS
                time.sleep(0.2)
        yield


def _build(go: str, program: Program, target: Path, report: Callable[[str], None]) -> None:
    started = time.monotonic()
    report(f"building {program.title} (once; kept in {target})")
    for leftover in target.parent.glob(f".{target.name}.*/"):
        # A killed builder's; the lock says that no other one is at work.
        shutil.rmtree(leftover, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        arguments = [word.replace("{out}", str(work)) for word in program.go_arguments]
        # A user's GOFLAGS, workspace or GOBIN must not change what is built or where it lands.
        env = {**os.environ, "GOWORK": "off", "GOFLAGS": "", "GOBIN": str(work)}
        _run_go([go, *arguments], env, program, report)
        executable = work / program.name
        if not executable.is_file():
            raise BuildError(f"go built {program.title} without an error, yet {executable.name} is not there")
        for link in program.links:
            (work / link).symlink_to(executable.name)
        work.chmod(0o755)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report(f"built {program.title} in {clock(time.monotonic() - started)}")


def _run_go(
    argv: Sequence[str], env: Mapping[str, str], program: Program, report: Callable[[str], None]
) -> None:
    """Run go, count what its ``-v`` prints, and report at a steady pace."""
    fetched, compiled = 0, 0

    def count(line: str) -> bool:
        nonlocal fetched, compiled
        if line.startswith("go: downloading "):
            fetched += 1
        elif re.fullmatch(r"[\w.\-~]+(/[\w.\-~]+)*", line):
            compiled += 1
        else:
            return True
        return False

    def tell(seconds: float) -> None:
        counts = f"{fetched} modules fetched, {compiled} packages compiled"
        if not fetched and not compiled:
            counts = "all compiled before, linking"
        report(f"  {clock(seconds)}  {counts}")

    ended = run_with_progress(
        argv,
        count,
        folder=program.folder or "/",
        env=env,
        pace=Pace(PROGRESS_SECONDS, tell),
        deadline_seconds=BUILD_DEADLINE_SECONDS,
    )
    if ended.code != 0:
        raise BuildError(f"go could not build {program.title} (exit code {ended.code}):\n{ended.last_lines}")
