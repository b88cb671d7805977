"""What importing the packages does to a process, seen from a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def run_python(code: str, *flags: str) -> str:
    """Run ``code`` in a new interpreter started in the repository's root and return its output."""
    done = subprocess.run(
        [sys.executable, *flags, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("flags", [(), ("-S",), ("-I",)], ids=["plain", "no-site", "isolated"])
def test_standard_library_operator_is_not_shadowed(flags: tuple[str, ...]) -> None:
    """``import operator`` finds the standard library from the repository's root, whatever the flags."""
    stdlib = run_python("import sysconfig; print(sysconfig.get_paths()['stdlib'])")

    found = run_python("import collections, operator; print(operator.__file__, operator.add(1, 2))", *flags)

    assert f"{stdlib}/operator.py 3" == found


def test_operator_folder_is_no_package() -> None:
    """``operator/`` stays a plain folder: an ``__init__.py`` in it would shadow the standard library."""
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert (ROOT / "operator" / "bubu_operator" / "__init__.py").exists()


@pytest.mark.parametrize(
    "heavy",
    [
        "boto3",
        "botocore",
        "obstore",
        "prometheus_client",
        "kubernetes",
        "kopf",
        "pydantic",
        "click",
        "bubu_operator",
    ],
)
def test_importing_the_library_loads_nothing_heavy(heavy: str) -> None:
    """``import bubu_storage`` costs an engram neither an SDK nor anything of Kubernetes."""
    loaded = run_python(f"import sys, bubu_storage; print({heavy!r} in sys.modules)")

    assert "False" == loaded


def test_library_without_extras_needs_few_distributions() -> None:
    """The plain install stays small: nothing of the operator is among its requirements."""
    plain = [line for line in requires("bubu-storage") or [] if "extra ==" not in line]
    names = {line.split(">")[0].split("=")[0].strip() for line in plain}

    assert {"boto3", "click", "prometheus-client"} == names


def test_operator_command_without_extra_prints_the_pip_line() -> None:
    """Without the extra, ``bubu-operator`` says how to install it and exits with 1, no traceback."""
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'kopf', 'kubernetes', 'pydantic', 'uvicorn'}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "sys.argv = ['bubu-operator', 'crds']\n"
        "from bubu_operator.cli import main\n"
        "main()\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert 1 == done.returncode
    assert "pip install 'bubu-storage[operator]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_acceptance_suite_says_that_it_needs_pytest() -> None:
    """Pytest is no requirement of the library; whoever subclasses the suite without it is told."""
    code = (
        "import sys\n"
        "sys.modules['pytest'] = None\n"
        "try:\n"
        "    from bubu_storage.testing import BackendAcceptance\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error)\n"
        "from bubu_storage.testing import FaultBackend, MockStorageManager\n"
    )
    assert "BackendAcceptance needs pytest; pip install pytest" == run_python(code)
