"""``docs/install.md``, then ``docs/upgrade.md``, as a newcomer reads them: every command, on a real node.

What is left out is what the page itself leaves to the reader: building the image and bringing it to
the cluster, which the fixture does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bubu_operator.api.v1alpha1 import KINDS
from tests.chart.programs import ensure_helm
from tests.cluster.fixtures import prepare_before_tests
from tests.cluster.processes import Stopwatch
from tests.image.built_image import ensure_image
from tests.node.node_cluster import NodeCluster
from tests.node.packages import why_no_node
from tests.unit.docs.pages import DOCS, ROOT, Block, blocks_of

if TYPE_CHECKING:
    from tests.cluster import Cluster

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

BLOCKS = [block for block in blocks_of(DOCS / "install.md") if block.language in {"sh", "console"}]
NEWCOMERS_SECONDS = 120
"""What the page promises, from `helm install` to the first pod's log."""

VARYING = re.compile(r"\b\d+(?:s|m|h|d)\b|^release .*", re.MULTILINE)


def build_first(session: pytest.Session) -> None:
    """Build the image and Helm before the first test, with visible progress and outside its time."""
    if not why_no_node():

        def prepare() -> None:
            ensure_helm()
            ensure_image(print)

        prepare_before_tests(session, prepare)


@dataclass(slots=True)
class Shell:
    """A person's shell with kubectl, Helm and the plugin, in a clone of the repository."""

    cluster: Cluster
    folder: Path
    printed: list[str] = field(default_factory=list[str])

    def __call__(self, command: str) -> str:
        """Run a command as typed; what it prints to both outputs. It must not fail."""
        programs = {
            "helm": ensure_helm(),
            "kubectl": self.cluster.kubectl_path,
            "kubectl-bubu": Path(sys.executable).parent / "kubectl-bubu",
        }
        folder = self.folder / "bin"
        folder.mkdir(exist_ok=True)
        for name, program in programs.items():
            if not (folder / name).exists():
                (folder / name).symlink_to(program)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HELM_", "KUBE"))}
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=ROOT,
            env={
                **kept,
                "PATH": f"{folder}:{os.environ['PATH']}",
                "HOME": str(self.folder),
                "KUBECONFIG": str(self.cluster.kubeconfig),
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        text = f"{done.stdout}{done.stderr}"
        self.printed.append(f"$ {command}\n{text}")
        assert done.returncode == 0, "\n".join(self.printed)
        return text


@pytest.fixture
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    """A fresh cluster with one node that has the image."""
    reason = why_no_node()
    if reason:
        if os.environ.get("BUBU_REQUIRE_NODE") == "1":
            pytest.fail(f"no node can be started: {reason}")
        pytest.skip(f"no node can be started: {reason}")
    build_first(request.session)
    with ExitStack() as stack:
        node = stack.enter_context(NodeCluster.start(nodes=1))
        node.load_image(ensure_image(print).archive)
        yield Shell(node.cluster, tmp_path)


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Return each command of a session with what the page says that it prints; a script is one command."""
    if block.language == "sh":
        yield block.text, ""
        return
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        match = re.fullmatch(r"((?:[^\n]*\\\n)*[^\n]*)\n(.*)", part, re.DOTALL)
        assert match is not None
        yield match[1], match[2]


def words(text: str) -> list[list[str]]:
    """Lines as words, without what differs from one run to the next."""
    return [VARYING.sub("AGE", line).split() for line in text.splitlines()]


def test_a_newcomer_gets_a_first_pod_in_two_minutes(shell: Shell):
    """Steps 2 and 3, word for word: what is shown is printed, and all of it takes less than was promised."""
    first = next(i for i, block in enumerate(BLOCKS) if "helm install" in block.text)
    last = next(i for i, block in enumerate(BLOCKS) if "flows-s3" in block.text)
    begun = Stopwatch()

    for block in BLOCKS[first:last]:
        for command, shown in commands(block):
            if command.startswith("kubectl logs"):
                shell(
                    "kubectl wait -n flows pod/hello --timeout=240s "
                    "--for=jsonpath='{.status.phase}'=Succeeded"
                )
            printed = shell(command)
            if command.startswith("kubectl get bsc"):
                shell("kubectl wait -n flows bsc/main --for=condition=Ready --timeout=240s")
                shell("kubectl wait -n flows bsc/main --for=jsonpath='{.status.injectedPods}' --timeout=240s")
                printed = shell(command)
            if command.startswith("kubectl logs"):
                taken = begun.seconds
                print(f"from helm install to the first pod's log: {taken:.1f} s")
                assert taken < NEWCOMERS_SECONDS
            if shown:
                assert words(printed)[0] == words(shown)[0]
                assert len(words(printed)) == len(words(shown))

    shell("helm test bubu-storage -n bubu-storage-system")
    assert "fail" not in shell("kubectl bubu check")
    # Step 4 with the page's own placeholders: all is taken, and the config says what is wrong with it.
    shell(BLOCKS[last].text)
    shell("kubectl wait -n flows bsc/main --for=condition=Ready=False --timeout=240s")
    assert "SecretForbidden" not in shell("kubectl get bsc -n flows")
    shell(next(block.text for block in BLOCKS if "retentionpolicy.yaml" in block.text))

    upgrade_and_uninstall(shell)


def upgrade_and_uninstall(shell: Shell) -> None:
    """The commands of ``docs/upgrade.md``; what stays is what its table says, and pods can be created."""
    # The placeholders of step 4 are no keys, of which `kubectl bubu check` would speak with exit code 1.
    shell("kubectl delete brp,bsc --all -n flows")
    shell("kubectl apply -n flows -f docs/examples/storageconfig-file-emptydir.yaml")
    shell("kubectl wait -n flows bsc/private --for=condition=Ready --timeout=240s")
    sessions = [block for block in blocks_of(DOCS / "upgrade.md") if "helm " in block.text]
    for block in sessions:
        for command, _ in commands(block):
            shell(command.replace("image.tag=NEW", "image.tag=dev"))
    page = (DOCS / "upgrade.md").read_text("utf-8")

    assert len(shell("kubectl get crds -o name | grep storage.bubustack.io").splitlines()) == len(KINDS)
    assert "private" in shell("kubectl get bsc -n flows -o name")
    for kind in ("secret", "lease"):
        left = shell(f"kubectl get {kind} -n bubu-storage-system -o name").split()
        ours = [name.partition("/")[2] for name in left if "bubu" in name and "helm" not in name]
        assert [name for name in ours if f"`{name}`" not in page] == []
        assert len(ours) == 1
    assert "bubu" not in shell("kubectl get clusterroles,mutatingwebhookconfigurations -o name")
    shell("kubectl label namespace flows storage.bubustack.io/strict=true")
    shell("kubectl run later -n flows --image=bubu-storage-operator:dev --labels=bubustack.io/engram=x")
