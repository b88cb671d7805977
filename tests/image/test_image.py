"""The image: what is in it, what is not, and that every role starts in the strictest container."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bubu_storage import __version__
from tests.cluster.processes import Stopwatch
from tests.image.built_image import build_archive
from tests.image.container import Entry, ImageFiles, Running
from tests.node.base_image import ensure_base_image

pytestmark = [pytest.mark.node, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
VENV = "/opt/bubu-storage"
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
END_SECONDS = 15.0
"""The webhook answers for 5 s after the signal, so that nobody calls in vain; a pod has 30 s."""
COMMANDS = (
    ("bubu-operator", "controller", "--help"),
    ("bubu-operator", "webhook", "--help"),
    ("bubu-operator", "retention-pass", "--help"),
    ("bubu-operator", "retention-agent", "--help"),
    ("bubu-operator", "probe", "--help"),
    ("bubu-operator", "crds"),
    ("bubu-operator", "--version"),
    ("bubu-storage", "--help"),
    ("kubectl-bubu", "--help"),
)


@pytest.fixture(scope="session")
def ours(image: ImageFiles) -> dict[str, Entry]:
    """What we add to the base, by path."""
    return image.entries(skip_layers=1)


def run_in(
    image: ImageFiles, root: Path, folder: Path, *words: str, writable_tmp: bool = False
) -> tuple[int, str]:
    """Run a program to its end."""
    with Running.start(
        root, words, env=image.environment, folder=folder, writable_tmp=writable_tmp
    ) as container:
        return container.finish(120)


# -- what the image says of itself ---------------------------------------------------------------


def test_labels_name_version_revision_source_and_licence(image: ImageFiles) -> None:
    """A registry, a scanner and an administrator can tell what this is and where it came from."""
    labels = image.config["config"]["Labels"]
    prefix = "org.opencontainers.image."

    assert __version__ == labels[prefix + "version"]
    assert "bubu-storage-operator" == labels[prefix + "title"]
    assert "Apache-2.0" == labels[prefix + "licenses"]
    assert re.fullmatch(r"unknown|[0-9a-f]{40}(-dirty)?", labels[prefix + "revision"])
    assert re.fullmatch(r"unknown|https://[^@]+", labels[prefix + "source"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", labels[prefix + "created"])


def test_starts_our_program_directly_as_a_numbered_user(image: ImageFiles) -> None:
    """No shell stands between the kubelet and us: signals arrive; ``runAsNonRoot`` can be checked."""
    config = image.config["config"]

    assert ["bubu-operator"] == config["Entrypoint"]
    assert "65532:65532" == config["User"]
    assert "SIGTERM" == config["StopSignal"]
    assert "/" == config["WorkingDir"]


def test_layers_are_the_base_the_dependencies_and_our_code(image: ImageFiles) -> None:
    """Our code is a small layer of its own: an upgrade that keeps the lock file pulls only that."""
    sizes = [sum(member.size for member in layer) for layer in image.layers()]

    assert 3 == len(sizes)
    assert sizes[1] < 120_000_000
    assert sizes[2] < 15_000_000


# -- what is in it, and what is not --------------------------------------------------------------


def test_adds_nothing_outside_its_own_folder(ours: dict[str, Entry]) -> None:
    """Everything of ours is below one folder."""
    assert [] == [path for path in ours if path != "/opt" and not path.startswith(VENV)]


def test_nothing_is_setuid_or_writable_by_others(image: ImageFiles, ours: dict[str, Entry]) -> None:
    """No file of ours runs with rights of its own, and only root may change one."""
    wrong = [
        path
        for path, entry in ours.items()
        if entry.kind != "2" and (entry.mode & (stat.S_ISUID | stat.S_ISGID | 0o022) or entry.uid != 0)
    ]

    assert [] == wrong


def test_has_no_installer_compiler_or_test_suite(ours: dict[str, Entry]) -> None:
    """What builds the image stays in the stage that built it."""
    names = {Path(path).relative_to(VENV).as_posix() for path in ours if path.startswith(VENV + "/")}
    packages = {name.split("/")[3] for name in names if name.startswith("lib/") and name.count("/") >= 3}
    suites = [name for name in names if re.search(r"/tests?/test_\w+\.py$", name)]

    assert set() == packages & {"pip", "uv", "setuptools", "wheel", "hatchling", "pytest", "moto", "obstore"}
    assert [] == suites
    assert {"bubu-operator", "bubu-storage", "kubectl-bubu", "python", "python3"} <= {
        name.removeprefix("bin/") for name in names if name.startswith("bin/")
    }
    assert [] == [
        name for name in names if re.fullmatch(r"bin/(?!bubu-|kubectl-bubu|python[0-9.]*$).+", name)
    ]


def test_knows_nothing_of_the_machine_that_built_it(image: ImageFiles, root: Path) -> None:
    """Neither an index's address nor a certificate bundle nor a folder of the build is in the image."""
    told = json.dumps(image.config)
    metadata = [path for path in root.glob(f"{VENV[1:]}/lib/*/site-packages/*.dist-info/*") if path.is_file()]

    assert not re.search(r"INDEX|PROXY|proxy|/run/secrets/\w|SSL_CERT|://[^/ ]*@", told)
    assert metadata
    assert [] == [path.name for path in metadata if path.name in {"direct_url.json", "uv_cache.json"}]
    # Not in the unpacked root: containers that ran there have left mount points.
    assert [] == [path for path in image.entries() if path.startswith(("/run/secrets/", "/var/run/secrets/"))]


def test_installed_versions_are_those_of_the_lock_file(root: Path) -> None:
    """What was tested is what runs: each distribution has the version that uv.lock pins."""
    import tomllib

    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    pinned = {
        (re.sub(r"[-_.]+", "-", package["name"]).lower(), package.get("version"))
        for package in lock["package"]
        if package["name"] != "bubu-storage"
    }
    found: set[tuple[str, str]] = set()
    for folder in root.glob(f"{VENV[1:]}/lib/*/site-packages/*.dist-info"):
        name, version = folder.name.removesuffix(".dist-info").rsplit("-", 1)
        found.add((re.sub(r"[-_.]+", "-", name).lower(), version))

    assert ("bubu-storage", __version__) in found
    assert set() == found - pinned - {("bubu-storage", __version__)}


# -- that it runs --------------------------------------------------------------------------------


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_runs_as_any_user_with_a_read_only_root(
    image: ImageFiles, root: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """With an unknown uid, nothing writable and no network, each command answers."""
    code, out = run_in(image, root, tmp_path, *words)

    assert 0 == code, out
    assert "Usage:" in out or __version__ in out or "CustomResourceDefinition" in out


def test_every_module_can_be_imported(image: ImageFiles, root: Path, tmp_path: Path) -> None:
    """What was left out of the installed packages is missed by no module of ours."""
    code, out = run_in(
        image,
        root,
        tmp_path,
        "python",
        "-W",
        "error",
        "-c",
        "import importlib, pkgutil, bubu_operator, bubu_storage\n"
        "names = [m.name for p in (bubu_operator, bubu_storage)\n"
        "         for m in pkgutil.walk_packages(p.__path__, p.__name__ + '.')\n"
        "         if not any(word in m.name for word in ('.__main__', '.testing', 'obstore'))]\n"
        "for name in names: importlib.import_module(name)\n"
        "print(len(names), 'modules')\n",
    )

    assert 0 == code, out
    assert int(out.split()[0]) > 150


def test_s3_and_every_way_to_credentials_can_be_described(
    image: ImageFiles, root: Path, tmp_path: Path
) -> None:
    """The service descriptions that were kept are enough for stores, roles and single sign-on."""
    code, out = run_in(
        image,
        root,
        tmp_path,
        "python",
        "-c",
        "import botocore.session\n"
        "session = botocore.session.Session()\n"
        "names = session.get_available_services()\n"
        "for name in names: session.create_client(name, region_name='eu-central-1')\n"
        "print(' '.join(names))\n",
    )

    assert 0 == code, out
    assert {"s3", "sts", "sso", "sso-oidc"} <= set(out.split())


def test_bytecode_is_there_and_used(image: ImageFiles, root: Path, tmp_path: Path) -> None:
    """A role does not compile hundreds of modules at each start, which a read-only root would forget."""
    code, out = run_in(
        image,
        root,
        tmp_path,
        "python",
        "-v",
        "-c",
        "import bubu_operator.controllers.main",
    )
    compiled = re.findall(r"# code object from '?(/opt/\S+?\.py)'?$", out, flags=re.MULTILINE)
    cached = re.findall(r"# code object from '?(/opt/\S+?\.pyc)'?$", out, flags=re.MULTILINE)

    assert 0 == code, out[-2000:]
    assert len(cached) > 300
    assert [] == [name for name in compiled if "/kubernetes/client/models/" not in name]


@pytest.mark.parametrize(
    ("role", "ready"),
    [("controller", "waiting for the API server"), ("webhook", "serving certificate refused")],
)
def test_roles_start_and_end_quickly_when_asked(
    image: ImageFiles, root: Path, tmp_path: Path, role: str, ready: str
) -> None:
    """As the container's first process, without an API server, a role waits, and SIGTERM ends it with 0."""
    account = tmp_path / "account"
    account.mkdir()
    for name in ("token", "namespace"):
        (account / name).write_text("x")
    (account / "ca.crt").write_bytes(Path(certificates()).read_bytes())
    env = {**image.environment, "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    started = time.monotonic()

    with Running.start(
        root,
        ["bubu-operator", role],
        env=env,
        folder=tmp_path,
        writable_tmp=True,
        mounts={ACCOUNT: account},
    ) as container:
        seen = container.read_until(ready)
        waited = time.monotonic() - started
        asked = Stopwatch()
        container.signal("TERM")
        code, rest = container.finish(60)
        took = asked.seconds

    print(f"{role}: {waited:.1f} s to its first wait, {took:.1f} s to its end")
    assert ready in seen, seen
    assert 0 == code, seen + rest
    assert took < END_SECONDS
    assert "Traceback" not in seen + rest


def test_importing_the_library_is_quick(image: ImageFiles, root: Path, tmp_path: Path) -> None:
    """An engram that only imports the library does not pay for what it does not use."""
    code, out = run_in(
        image,
        root,
        tmp_path,
        "python",
        "-c",
        "import time; t = time.process_time(); import bubu_storage\nprint(time.process_time() - t)",
    )

    assert 0 == code, out
    print(f"import bubu_storage: {float(out) * 1000:.0f} ms of a CPU")
    assert float(out) < 1.0


# -- that it can be built again ------------------------------------------------------------------


@pytest.mark.skipif(not os.environ.get("BUBU_LONG_TESTS"), reason="builds once more: BUBU_LONG_TESTS=1")
@pytest.mark.timeout(900)
def test_a_second_build_has_the_same_files(image: ImageFiles, tmp_path: Path) -> None:
    """Built anew, without any cached layer, every file has the same bytes, owner and mode."""

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    again = tmp_path / "again.tar"
    build_archive(again, base=ensure_base_image(report), report=report, fresh=True)
    first, second = image.entries(), ImageFiles(again).entries()

    assert first.keys() == second.keys()
    assert [] == [path for path in first if first[path] != second[path]]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--tag"], "--tag needs a value"),
        (["--frobnicate"], "--frobnicate is not known"),
    ],
)
def test_wrong_arguments_are_refused_with_a_hint(words: list[str], complaint: str) -> None:
    """A slip of the pen builds nothing."""
    done = subprocess.run(
        [ROOT / "scripts" / "image", *words], capture_output=True, text=True, check=False, timeout=60
    )

    assert 2 == done.returncode
    assert complaint in done.stderr


def test_without_an_engine_the_way_out_is_named(tmp_path: Path) -> None:
    """Neither docker nor buildah: one message says what to install."""
    for tool in ("bash", "dirname", "cat"):
        (tmp_path / tool).symlink_to(f"/bin/{tool}" if Path(f"/bin/{tool}").exists() else f"/usr/bin/{tool}")
    done = subprocess.run(
        [ROOT / "scripts" / "image"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert 1 == done.returncode
    assert "install buildah" in done.stderr


def certificates() -> str:
    """Return the path of some certificate bundle."""
    import certifi

    return certifi.where()
