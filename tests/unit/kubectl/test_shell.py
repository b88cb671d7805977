"""Exports for a laptop: run by real shells, with every hostile value that a config could hold."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bubu_operator.injection import load_config
from bubu_operator.injection.environment import InjectionPlan, PlannedEnv
from bubu_operator.kubectl.shell import authority_of, in_cluster_hint, render_exports
from tests.unit.injection.builders import S3, config, config_object

SHELLS = [shell for shell in ("sh", "bash", "dash", "zsh", "ksh") if shutil.which(shell)]
HOSTILE = [
    "$(touch planted)",
    "`touch planted`",
    "'; touch planted; '",
    '"; touch planted; "',
    "a\ntouch planted\nb",
    "$HOME ${HOME} !! \\ \\\\ ~ * ? # ;&|<>",
    " leading and trailing ",
    "ümlaut \u2028 \t tab",
    "-n",
    "",
]


def plan_of(**more: Any) -> InjectionPlan:
    """The plan of a config on S3."""
    plan = config(**more).plan
    assert plan is not None
    return plan


def with_value(plan: InjectionPlan, name: str, value: str) -> InjectionPlan:
    """The plan with another literal, written as injection writes it."""
    env = tuple(
        PlannedEnv({"name": name, "value": value.replace("$", "$$")}, name, "", item.group)
        if item.name == name
        else item
        for item in plan.env
    )
    return replace(plan, env=env)


def evaluated(lines: tuple[str, ...], shell: str, folder: Path, name: str) -> str:
    """Let a shell evaluate the lines as a person does, and read one variable back, byte for byte."""
    program = folder / "bin" / "kubectl"
    program.parent.mkdir(exist_ok=True)
    if not program.exists():
        program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$0.args"\nprintf "from the secret"\n')
        program.chmod(0o755)
    script = f'eval "$LINES_TO_RUN"; printf "%s." "${{{name}-unset}}"'
    done = subprocess.run(
        [shell, "-c", script],
        cwd=folder,
        env={
            "PATH": f"{program.parent}:/usr/bin:/bin",
            "LINES_TO_RUN": "\n".join(lines),
            "LC_ALL": "C.UTF-8",
        },
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert done.stderr == b""
    assert not (folder / "planted").exists()
    return done.stdout.decode()[:-1]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("value", HOSTILE)
def test_values_are_never_run(shell: str, value: str, tmp_path: Path):
    """Quotes, newlines and substitutions arrive as they are, and nothing of them is executed."""
    plan = with_value(plan_of(), "BUBU_STORAGE_S3_BUCKET", value)

    exports = render_exports(plan, namespace="flows", kubectl=())

    assert evaluated(exports.lines, shell, tmp_path, "BUBU_STORAGE_S3_BUCKET") == value


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(value=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30))
def test_any_text_survives_a_shell(value: str, tmp_path: Path):
    """What a pod gets literally, the laptop gets literally."""
    plan = with_value(plan_of(), "BUBU_STORAGE_OUTPUT_PREFIX", value)

    exports = render_exports(plan, namespace="flows", kubectl=())

    assert evaluated(exports.lines, SHELLS[0], tmp_path, "BUBU_STORAGE_OUTPUT_PREFIX") == value


@pytest.mark.parametrize("shell", SHELLS)
def test_hostile_names_reach_kubectl_as_arguments(shell: str, tmp_path: Path):
    """A context, a Secret or a key with quotes in it is an argument of kubectl, never shell."""
    plan = plan_of()
    name = "x\"; touch planted; '$(touch planted)"
    entry = {"name": "AWS_ACCESS_KEY_ID", "valueFrom": {"secretKeyRef": {"name": name, "key": name}}}
    item = PlannedEnv(entry, "AWS_ACCESS_KEY_ID", "", None)
    plan = replace(plan, env=(plan.env[0], item))

    exports = render_exports(plan, namespace=name, kubectl=("--context", name))

    assert evaluated(exports.lines, shell, tmp_path, "AWS_ACCESS_KEY_ID") == "from the secret"
    arguments = (tmp_path / "bin" / "kubectl.args").read_text("utf-8").splitlines()
    assert ["--context", name, "-n", name, "get", "secret", name, "-o"] == arguments[:8]
    assert arguments[8].startswith("go-template={{with .data}}{{with index . ")


def test_each_secret_key_is_read_once():
    """Three keys, three calls of kubectl; the names of the other family are copies."""
    lines = render_exports(plan_of(), namespace="flows", kubectl=()).lines

    assert sum("get secret" in line for line in lines) == 3
    assert 'export BUBU_S3_ACCESS_KEY_ID="$AWS_ACCESS_KEY_ID"' in lines
    assert 'export BUBU_S3_SESSION_TOKEN="${AWS_SESSION_TOKEN-}"' in lines


@pytest.mark.parametrize("shell", SHELLS)
def test_an_absent_session_token_is_unset(shell: str, tmp_path: Path):
    """An empty token would be sent as a token by some SDKs, and one of yesterday is none of this store."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "kubectl"
    program.write_text('#!/bin/sh\ncase "$*" in *TOKEN*) ;; *) printf key ;; esac\n')
    program.chmod(0o755)
    exports = render_exports(plan_of(), namespace="flows", kubectl=())
    lines = ("export AWS_SESSION_TOKEN=yesterday", *exports.lines)

    assert evaluated(lines, shell, tmp_path, "AWS_SESSION_TOKEN") == "unset"
    assert evaluated(lines, shell, tmp_path, "BUBU_S3_SESSION_TOKEN") == "unset"


def test_what_another_config_left_is_unset(tmp_path: Path):
    """The endpoint of the store before must not meet the bucket of this one; AWS_* are the user's."""
    plan = plan_of(s3={"bucket": "flows", "authentication": {"serviceAccount": {"name": "runner"}}})
    lines = render_exports(plan, namespace="flows", kubectl=()).lines

    before = ("export BUBU_STORAGE_S3_ENDPOINT=http://old BUBU_S3_ACCESS_KEY_ID=old AWS_PROFILE=mine", *lines)

    assert evaluated(before, "sh", tmp_path, "BUBU_STORAGE_S3_ENDPOINT") == "unset"
    assert evaluated(before, "sh", tmp_path, "BUBU_S3_ACCESS_KEY_ID") == "unset"
    assert evaluated(before, "sh", tmp_path, "AWS_PROFILE") == "mine"
    assert "AWS_" not in lines[0]


@pytest.mark.parametrize(
    ("authentication", "note"),
    [({"serviceAccount": {"name": "runner"}}, "ServiceAccount runner"), ({"anonymous": {}}, "anonymously")],
)
def test_a_store_without_keys_is_said(authentication: dict[str, Any], note: str):
    """Nothing can be exported for an identity of pods."""
    exports = render_exports(
        plan_of(s3={"bucket": "flows", "authentication": authentication}), namespace="flows", kubectl=()
    )

    assert note in " ".join(exports.notes)
    assert "get secret" not in " ".join(exports.lines)


def test_a_file_store_is_refused():
    """A claim is mounted by pods only."""
    with pytest.raises(ValueError, match="laptop cannot reach"):
        render_exports(plan_of(file={"volumeClaimName": "claim"}), namespace="flows", kubectl=())


def test_another_endpoint_replaces_the_configs():
    """As for a port-forward; the rest stays."""
    lines = render_exports(plan_of(), namespace="flows", kubectl=(), endpoint="http://127.0.0.1:9000").lines

    assert "export BUBU_STORAGE_S3_ENDPOINT=http://127.0.0.1:9000" in lines
    assert not any("minio.minio.svc" in line for line in lines)


@pytest.mark.parametrize(
    ("endpoint", "hint"),
    [
        ("https://minio.minio.svc:9000", "-n minio service/minio 9000:9000"),
        ("http://store.team.svc.cluster.local", "-n team service/store 80:80"),
        ("http://minio:9000", "-n flows service/minio 9000:9000"),
        ("https://s3.eu-central-1.amazonaws.com", ""),
        ("http://127.0.0.1:9000", ""),
        ("http://localhost:9000", ""),
        ("http://[::1]:9000", ""),
        ("http://broken:port", ""),
        ("", ""),
    ],
)
def test_names_inside_the_cluster_are_hinted_at(endpoint: str, hint: str):
    """With the port-forward that helps; names of the world are left alone."""
    told = in_cluster_hint(endpoint, "flows")

    assert bool(told) == bool(hint)
    assert hint in told


def test_the_authority_is_found():
    """ConfigMap and key, None where the machine's own trust is meant."""
    s3 = {**S3, "tls": {"caBundle": {"configMapRef": {"name": "ca", "key": "root.pem"}}}}
    plan = load_config(config_object(s3=s3)).plan
    assert plan is not None

    assert authority_of(plan) == ("ca", "root.pem")
    assert authority_of(plan_of()) is None
