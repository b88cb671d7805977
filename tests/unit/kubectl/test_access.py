"""Which cluster is asked: kubectl's rules, and one line where they lead nowhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bubu_operator.kubectl.access import open_access
from bubu_operator.kubectl.failures import CommandFailedError


def kubeconfig(path: Path, *names: str, current: str = "", namespace: str = "") -> Path:
    """A file with contexts of these names, each with a server of its own."""
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}.example:6443"}} for name in names],
        "users": [{"name": name, "user": {"token": "t"}} for name in names],
        "contexts": [
            {"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}
            for name in names
        ],
    }
    if current:
        document["current-context"] = current
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """No kubeconfig of the machine, no pod."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


def test_the_current_context_and_its_namespace(tmp_path: Path):
    """The context is named to kubectl, so that a later switch changes nothing."""
    path = kubeconfig(tmp_path / "config", "dev", "prod", current="prod", namespace="flows")

    access = open_access(str(path), "", "")

    assert ("https://prod.example:6443", "flows") == (access.client.server, access.namespace)
    assert ("--kubeconfig", str(path), "--context", "prod") == access.kubectl


def test_a_context_and_a_namespace_by_name(tmp_path: Path):
    """Also where the file has no current one."""
    path = kubeconfig(tmp_path / "config", "dev", "prod", namespace="flows")

    access = open_access(str(path), "dev", "mine")

    assert ("https://dev.example:6443", "mine") == (access.client.server, access.namespace)


def test_several_files_are_merged_as_kubectl_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first file that says which context is current wins; kubectl finds the files by itself."""
    first = kubeconfig(tmp_path / "one", "dev", current="dev")
    second = kubeconfig(tmp_path / "two", "prod", current="prod")
    monkeypatch.setenv("KUBECONFIG", f"{first}:{second}:{tmp_path / 'absent'}")

    assert "https://dev.example:6443" == open_access("", "", "").client.server
    access = open_access("", "prod", "")
    assert "https://prod.example:6443" == access.client.server
    assert ("--context", "prod") == access.kubectl
    assert "default" == access.namespace


@pytest.mark.parametrize(
    ("text", "context", "said"),
    [
        (None, "", "there is no kubeconfig"),
        ("", "", "cannot read a connection"),
        ("a: [", "", "cannot read a connection"),
        ("- 1", "", "cannot read a connection"),
        ("contexts: 3", "", "cannot read a connection"),
        ("contexts: [{}]", "", "cannot read a connection"),
        ("contexts: [{name: a}]\ncurrent-context: a", "", "cannot read a connection"),
        ("contexts: [{name: a}, {name: b}]", "c", "no context 'c' in"),
        ("contexts: [{name: a}, {name: b}]", "", "it has: a, b"),
    ],
)
def test_a_kubeconfig_that_leads_nowhere(tmp_path: Path, text: str | None, context: str, said: str):
    """One line that names the file."""
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)

    with pytest.raises(CommandFailedError, match="config") as caught:
        open_access(str(path), context, "")

    assert said in caught.value.message
    assert "\n" not in caught.value.message


def test_without_the_extra_the_pip_line_is_printed():
    """A plain library install has the command, too; it says what it lacks."""
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'kubernetes', 'pydantic', 'yaml', 'urllib3', 'cryptography'}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "sys.argv = ['kubectl-bubu', 'check']\n"
        "from bubu_operator.kubectl.main import main\n"
        "main()\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )

    assert (1, "") == (done.returncode, done.stdout)
    assert "pip install 'bubu-storage[operator]'" in done.stderr
    assert 1 == len(done.stderr.splitlines())
