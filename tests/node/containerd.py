"""containerd on a node: its configuration, its start, and the images that it is given.

Nothing is pulled: an image comes from an archive, under the name that it has there.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.node.images import PAUSE_IMAGE
from tests.node.machine import overlay_works
from tests.node.packages import CNI_PLUGINS

if TYPE_CHECKING:
    from tests.node.machine import Machine

__all__ = ["Containerd"]

_NAMESPACE = "k8s.io"
_IMPORT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Containerd:
    """The container runtime of one node.

    Attributes:
        machine: where it runs.
        programs: the folder of containerd, its shim and ctr.
    """

    machine: Machine
    programs: Path

    @property
    def socket(self) -> Path:
        """Where it listens, as the node sees it."""
        return Path("/run/containerd/containerd.sock")

    def start(self, pod_range: str) -> None:
        """Start it with a network of its own for pods; ``wait`` waits for it.

        Args:
            pod_range: the addresses of the node's pods, as CIDR.
        """
        folder = self.machine.folder
        networks = folder / "cni"
        networks.mkdir()
        bridge = {
            "type": "bridge",
            "bridge": "pods0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": pod_range}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": "/run/cni-addresses",
            },
        }
        plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
        document = {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}
        (networks / "10-pods.conflist").write_text(json.dumps(document, indent=1), encoding="utf-8")
        config = folder / "containerd.toml"
        config.write_text(self._config(networks), encoding="utf-8")
        # The shim is found beside containerd; runc on the search path.
        self.machine.spawn("containerd", self.programs / "containerd", "--config", config)

    def wait(self) -> None:
        """Wait until it answers.

        Raises:
            StartError: it ended, or takes too long.
        """
        self.machine.wait_for(
            lambda: self._ctr("version", check=False).returncode == 0, "containerd", "containerd to answer"
        )

    def load(self, archive: Path) -> None:
        """Import the images of an archive (docker-archive or OCI layout as tar).

        Raises:
            StartError: the archive cannot be read.
        """
        self._ctr("images", "import", "--local", str(archive))

    def images(self) -> list[str]:
        """Return the names of the images that it has."""
        names = self._ctr("images", "list", "--quiet").stdout.split()
        return [name for name in names if not name.startswith("sha256:")]

    def kill(self, container_id: str, signal: str) -> None:
        """Send a signal to the first process of a container, as the kernel's own killer would."""
        self._ctr("tasks", "kill", "--signal", signal, container_id)

    def _ctr(self, *arguments: str, check: bool = True):
        words = [self.programs / "ctr", "--address", self.socket, "--namespace", _NAMESPACE, *arguments]
        return self.machine.run(*words, check=check, timeout_seconds=_IMPORT_SECONDS)

    def _config(self, networks: Path) -> str:
        folder = self.machine.folder
        runc = shutil.which("runc", path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        snapshotter = "overlayfs" if overlay_works(folder) else "native"
        return f"""\
version = 3
root = {_quoted(folder / "containerd")}
state = "/run/containerd/state"
oom_score = 0
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = {_quoted(self.socket)}

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "{snapshotter}"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [{_quoted(CNI_PLUGINS)}]
    conf_dir = {_quoted(networks)}
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = {_quoted(runc or "runc")}
      SystemdCgroup = false
"""


def _quoted(text: Path | str) -> str:
    """Return a text as TOML spells it; JSON's strings are a part of TOML's."""
    return json.dumps(str(text))
