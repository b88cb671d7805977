"""An image's archive as files, and as containers that runc starts: no daemon, no network, no cluster.

A container here is stricter than most clusters make it: a read-only root, no capability, no new
privileges, a uid that no passwd file knows, a network with nothing in it, not even loopback.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import secrets
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Entry", "ImageFiles", "Running"]

UID = 12345
"""Neither the image's own nor in its passwd file: what a cluster with its own ranges picks."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder or link of a layer, without its date."""

    mode: int
    uid: int
    kind: str
    link: str
    digest: str


class ImageFiles:
    """What an archive in Docker's format holds.

    Attributes:
        config: the image's configuration, as engines read it.
        archive: the file.
    """

    def __init__(self, archive: Path) -> None:
        self.archive = archive
        with tarfile.open(archive) as outer:
            (self._manifest,) = json.load(_member(outer, "manifest.json"))
            self.config: dict[str, Any] = json.load(_member(outer, self._manifest["Config"]))

    @property
    def tags(self) -> list[str]:
        """The references that an import gives."""
        return list(self._manifest["RepoTags"])

    @property
    def environment(self) -> dict[str, str]:
        """The variables that every container of the image has."""
        return dict(entry.split("=", 1) for entry in self.config["config"]["Env"])

    def layers(self) -> Iterator[tarfile.TarFile]:
        """Open each layer, from the base upwards."""
        with tarfile.open(self.archive) as outer:
            for name in self._manifest["Layers"]:
                with tarfile.open(fileobj=_member(outer, name)) as layer:
                    yield layer

    def entries(self, *, skip_layers: int = 0) -> dict[str, Entry]:
        """Return what the layers hold by path; the upper one wins.

        Args:
            skip_layers: leave out so many of the lowest ones: the base has one.
        """
        found: dict[str, Entry] = {}
        for number, layer in enumerate(self.layers()):
            if number < skip_layers:
                continue
            for member in layer:
                file = layer.extractfile(member) if member.isreg() else None
                digest = "" if file is None else hashlib.sha256(file.read()).hexdigest()
                path = "/" + member.name.removeprefix("./").strip("/")
                kind = member.type.decode()
                found[path] = Entry(member.mode, member.uid, kind, member.linkname, digest)
        return found

    def relabelled(self, target: Path, reference: str, labels: Mapping[str, str]) -> Path:
        """Write the same image under another name and with other labels: a different image to a node."""
        config = {**self.config, "config": {**self.config["config"]}}
        config["config"]["Labels"] = {**(config["config"].get("Labels") or {}), **labels}
        text = json.dumps(config).encode()
        name = f"{hashlib.sha256(text).hexdigest()}.json"
        manifest = [{**self._manifest, "Config": name, "RepoTags": [reference]}]
        with tarfile.open(self.archive) as outer, tarfile.open(target, "w") as out:
            for path, content in ((name, text), ("manifest.json", json.dumps(manifest).encode())):
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(content), 0o644
                out.addfile(entry, io.BytesIO(content))
            for layer in self._manifest["Layers"]:
                member = outer.getmember(layer)
                out.addfile(member, outer.extractfile(member) if member.isreg() else None)
        return target

    def unpack(self, folder: Path) -> None:
        """Write all files below a folder, as a container sees them (no layer of ours deletes anything)."""
        for layer in self.layers():
            layer.extractall(folder, numeric_owner=True, filter="fully_trusted")  # noqa: S202 - we built it
        folder.chmod(0o755)  # the container's "/", which any user must be able to look into


@dataclass(slots=True)
class Running:
    """A container that was started.

    Attributes:
        name: what runc knows it by.
        process: runc, which ends when the container does, with its exit code.
    """

    name: str
    process: subprocess.Popen[str]

    @classmethod
    def start(
        cls,
        root: Path,
        words: Sequence[str],
        *,
        env: Mapping[str, str],
        folder: Path,
        writable_tmp: bool = False,
        mounts: Mapping[str, Path] | None = None,
    ) -> Self:
        """Start a container.

        Args:
            root: the image's files.
            words: program and arguments; the program is looked up as an engine does.
            env: the whole environment.
            folder: for the container's description; its own for each container.
            writable_tmp: give it an empty ``/tmp`` of its own, as the chart does.
            mounts: paths in the container and what is bound there, for reading.
        """
        name = f"bubu-image-{secrets.token_hex(4)}"
        described = _describe(root, words, env, writable_tmp=writable_tmp, mounts=mounts or {})
        (folder / "config.json").write_text(json.dumps(described))
        process = subprocess.Popen(
            ["runc", "run", "--bundle", str(folder), name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        return cls(name, process)

    def __enter__(self) -> Self:
        """Itself; the container is killed at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what still runs and take what it left."""
        if self.process.poll() is None:
            self.signal("KILL")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        subprocess.run(["runc", "delete", "--force", self.name], capture_output=True, check=False)

    def signal(self, name: str) -> None:
        """Send a signal to the container's first process."""
        subprocess.run(["runc", "kill", self.name, name], capture_output=True, check=False)

    def read_until(self, text: str) -> str:
        """Read its output up to the line that holds a text; all of it if it ends before."""
        assert self.process.stdout is not None
        lines: list[str] = []
        for line in self.process.stdout:
            lines.append(line)
            if text in line:
                break
        return "".join(lines)

    def finish(self, timeout_seconds: float) -> tuple[int, str]:
        """Wait for its end; return the exit code and what it wrote since it was last read."""
        out, _ = self.process.communicate(timeout=timeout_seconds)
        return self.process.returncode, out


def _member(outer: tarfile.TarFile, name: str) -> Any:
    file = outer.extractfile(name)
    if file is None:
        raise FileNotFoundError(name)
    return file


def _describe(
    root: Path,
    words: Sequence[str],
    env: Mapping[str, str],
    *,
    writable_tmp: bool,
    mounts: Mapping[str, Path],
) -> dict[str, Any]:
    binds = [
        {"destination": path, "type": "bind", "source": str(source), "options": ["rbind", "ro"]}
        for path, source in mounts.items()
    ]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": UID, "gid": UID},
            "args": list(words),
            "env": [f"{key}={value}" for key, value in env.items()],
            "cwd": "/",
            "noNewPrivileges": True,
        },
        "root": {"path": str(root), "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            *([_tmp()] if writable_tmp else []),
            *binds,
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
    }


def _tmp() -> dict[str, Any]:
    options = ["nosuid", "nodev", "noexec", "mode=1777"]
    return {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": options}
