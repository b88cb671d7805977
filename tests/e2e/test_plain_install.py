"""What ``pip install .`` gives somebody who only wants the library, in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program and return what it said."""
    return subprocess.run(
        [str(word) for word in words], cwd=cwd, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.fixture(scope="module")
def plain_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the ``bin`` folder of a new environment with the library and no extra."""
    folder = tmp_path_factory.mktemp("plain")
    # Only what git knows: a stray build folder of this machine must not help.
    archive = folder / "source.tar"
    listed = run("git", "ls-files", "-z", cwd=ROOT)
    assert listed.returncode == 0, listed.stderr
    with tarfile.open(archive, "w") as tar:
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).exists():
                tar.add(ROOT / name, arcname=name)
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "source", filter="data")
    made = run(sys.executable, "-m", "venv", folder / "env")
    assert made.returncode == 0, made.stderr
    binaries = folder / "env" / "bin"
    installed = run(binaries / "python", "-m", "pip", "install", "--quiet", folder / "source")
    assert installed.returncode == 0, installed.stderr
    return binaries


def test_plain_install_has_no_operator_dependencies(plain_environment: Path) -> None:
    """Neither Kopf, nor the Kubernetes client, nor pydantic comes along."""
    listed = run(plain_environment / "python", "-m", "pip", "list", "--format=freeze").stdout.lower()

    assert "bubu-storage==" in listed
    assert "boto3==" in listed
    for name in ("kopf", "kubernetes", "pydantic", "uvicorn", "structlog", "cryptography", "aiobotocore"):
        assert f"\n{name}==" not in f"\n{listed}"


def test_plain_install_passes_the_recorded_cases(plain_environment: Path) -> None:
    """The installed command line agrees with the Go implementation on every recorded case."""
    files = sorted((ROOT / "tests" / "golden" / "conformance").glob("*-vectors.json"))
    assert len(files) == 2

    done = run(plain_environment / "bubu-storage", "conformance", *files)

    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.splitlines()[-1] == "370 passed, 0 failed, 21 deviates"


def test_plain_install_says_how_to_get_the_operator(plain_environment: Path) -> None:
    """``bubu-operator`` is there, names the pip line and exits with 1, without a traceback."""
    done = run(plain_environment / "bubu-operator", "controller")

    assert done.returncode == 1
    assert "pip install 'bubu-storage[operator]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_plain_install_stores_and_resolves(plain_environment: Path, tmp_path: Path) -> None:
    """A step with nothing but its environment offloads a document and gets it back."""
    code = (
        "from bubu_storage import StorageManager\n"
        "data = {'text': 'x' * 5000, 'n': 1}\n"
        "with StorageManager.from_env() as storage:\n"
        "    small = storage.dehydrate(data, run_id='ns/run-1')\n"
        "    assert storage.hydrate(small) == data\n"
        "print(small['text']['$bubuStorageRef'])\n"
    )

    done = subprocess.run(
        [str(plain_environment / "python"), "-c", code],
        env={"BUBU_STORAGE_PROVIDER": "file", "BUBU_STORAGE_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "outputs/ns/run-1/text.json"
    assert (tmp_path / "outputs/ns/run-1/text.json").read_bytes().startswith(b'{"contentType":"raw"')
