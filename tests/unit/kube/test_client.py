"""The client: paths, patches, pages, errors, timeouts."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import pytest
import urllib3
from kubernetes.client.configuration import Configuration

from bubu_operator.errors import (
    KubeApiError,
    KubeConfigError,
    KubeConflictError,
    KubeForbiddenError,
    KubeGoneError,
    KubeInvalidError,
    KubeNotFoundError,
    KubeThrottledError,
    KubeTimeoutError,
    KubeUnauthorizedError,
    KubeUnreachableError,
    LeadershipLostError,
)
from bubu_operator.kube import transport
from bubu_operator.kube.client import KubeClient, PatchType
from bubu_operator.kube.lease_fence import LeadershipFence
from bubu_operator.kube.resources import CLUSTER_STORAGE_CONFIGS, DEPLOYMENTS, SECRETS, STORAGE_CONFIGS


def test_an_object_is_asked_for_with_identity_and_path(serve):
    """A get names group, version, namespace and name, and carries the token."""
    server, client = serve(lambda handler: handler.reply({"kind": "StorageConfig", "spec": {"odd": 1}}))

    found = client.get(STORAGE_CONFIGS, "main", "team-a")

    method, path, headers, _ = server.seen[0]
    assert found == {"kind": "StorageConfig", "spec": {"odd": 1}}
    assert (method, path) == (
        "GET",
        "/apis/storage.bubustack.io/v1alpha1/namespaces/team-a/storageconfigs/main",
    )
    assert headers["Authorization"] == "Bearer sesame-token"


def test_core_and_cluster_paths(serve):
    """The core group has a root of its own; cluster-scoped kinds have no namespace in the path."""
    server, client = serve(lambda handler: handler.reply({}))

    client.get(SECRETS, "s", "a")
    client.get(CLUSTER_STORAGE_CONFIGS, "c")
    client.get(SECRETS, "odd/name", "a")

    assert [path for _, path, _, _ in server.seen] == [
        "/api/v1/namespaces/a/secrets/s",
        "/apis/storage.bubustack.io/v1alpha1/clusterstorageconfigs/c",
        "/api/v1/namespaces/a/secrets/odd%2Fname",
    ]


def test_a_nameless_object_is_never_asked_for(serve):
    """An empty name would address the whole collection, which a delete must never do."""
    server, client = serve(lambda handler: handler.reply({}))

    with pytest.raises(KubeApiError, match="without a name"):
        client.delete(SECRETS, "", "a")

    assert server.seen == []


@pytest.mark.parametrize("kind", list(PatchType))
def test_patches_say_what_they_are(serve, kind):
    """Each patch type goes out with its media type and its body unchanged."""
    server, client = serve(lambda handler: handler.reply({}))
    body = [{"op": "add", "path": "/a", "value": 1}] if kind is PatchType.JSON else {"a": None}

    client.patch(DEPLOYMENTS, "d", body, "a", patch_type=kind, field_manager="me", force=True)

    _, path, headers, sent = server.seen[0]
    assert headers["Content-Type"] == kind.value
    assert json.loads(sent) == body
    assert path.endswith("/deployments/d?fieldManager=me&force=true")


def test_a_status_patch_can_be_tied_to_a_version(serve):
    """With a resourceVersion the server refuses a write onto another version."""
    server, client = serve(lambda handler: handler.reply({}))

    client.patch_status(STORAGE_CONFIGS, "main", {"provider": "s3"}, "a", resource_version="7")

    _, path, _, sent = server.seen[0]
    assert path.endswith("/storageconfigs/main/status")
    assert json.loads(sent) == {"status": {"provider": "s3"}, "metadata": {"resourceVersion": "7"}}


@pytest.mark.parametrize("uid", ["", "u-1"])
def test_a_deletion_says_what_becomes_of_the_dependants(serve, uid):
    """The API server's own choice for a Job leaves its pods behind; a uid keeps from deleting another one."""
    server, client = serve(lambda handler: handler.reply({}))

    client.delete(SECRETS, "s", "a", uid=uid)

    ((method, path, _, body),) = server.seen
    assert (method, path) == ("DELETE", "/api/v1/namespaces/a/secrets/s")
    sent = json.loads(body)
    assert sent.pop("preconditions", None) == ({"uid": uid} if uid else None)
    assert sent == {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}


def test_lists_are_read_page_by_page(serve):
    """All pages of one snapshot are put together, with the snapshot's version."""

    def script(handler):
        more = "continue=" not in handler.path
        handler.reply(
            {
                "metadata": {"resourceVersion": "9", "continue": "next" if more else ""},
                "items": [{"metadata": {"name": "a" if more else "b"}}],
            }
        )

    server, client = serve(script)

    listed = client.list(SECRETS, "a", label_selector="x=y")

    assert [item["metadata"]["name"] for item in listed.items] == ["a", "b"]
    assert listed.resource_version == "9"
    assert len(server.seen) == 2
    assert "labelSelector=x%3Dy" in server.seen[1][1]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, KubeInvalidError),
        (401, KubeUnauthorizedError),
        (403, KubeForbiddenError),
        (404, KubeNotFoundError),
        (409, KubeConflictError),
        (410, KubeGoneError),
        (422, KubeInvalidError),
        (429, KubeThrottledError),
        (500, KubeUnreachableError),
        (503, KubeUnreachableError),
        (504, KubeTimeoutError),
        (418, KubeApiError),
    ],
)
def test_every_status_has_its_error(serve, status, expected):
    """Errors are told apart by type and keep the API's own words."""
    _, client = serve(
        lambda handler: handler.reply(
            {"message": "the server's words", "reason": "Why"}, status, {"Retry-After": "3"}
        )
    )

    with pytest.raises(KubeApiError, match="the server's words") as raised:
        client.get(SECRETS, "s", "a")

    assert type(raised.value) is expected
    assert (raised.value.status, raised.value.reason) == (status, "Why")
    if isinstance(raised.value, KubeThrottledError):
        assert raised.value.retry_after_seconds == 3.0


def test_an_expired_list_token_is_gone_whatever_its_status(serve):
    """Reason Expired means: begin the list again."""
    _, client = serve(lambda handler: handler.reply({"reason": "Expired", "message": "old"}, 400))

    with pytest.raises(KubeGoneError):
        client.list(SECRETS)


@pytest.mark.parametrize("answer", ["<html>login</html>", "null", "[]", '"ok"', "[" * 100_000])
def test_an_answer_that_is_no_json_object_names_the_proxy(serve, answer):
    """A login page in between is recognised for what it is, and so is a health check's answer."""
    _, client = serve(lambda handler: handler.reply(answer))

    with pytest.raises(KubeUnreachableError, match=r"no JSON( object)?; is a proxy in between"):
        client.get(SECRETS, "s", "a")


@pytest.mark.parametrize("line", ["null", "[]", '{"type": "ADDED", "object": [1]}', "[" * 100_000])
def test_a_line_of_a_watch_that_is_no_event_breaks_it_off(serve, line):
    """Whoever follows lists again; it is no fault of ours."""
    _, client = serve(lambda handler: handler.reply(f"{line}\n"))

    with (
        client.watch(SECRETS, "a", resource_version="1") as stream,
        pytest.raises(KubeUnreachableError, match=r"a line is no (JSON|event)"),
    ):
        next(iter(stream))


@pytest.mark.parametrize("length", ["known", "chunked", "unknown"])
@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_that_trickles_is_a_timeout(serve, monkeypatch, length, status):
    """Each byte comes in time, but never the last one: the call ends all the same, and the next one works."""
    monkeypatch.setattr(transport, "BODY_SECONDS", 0.3)

    def trickle(handler):
        if len(handler.server.seen) > 1:
            handler.reply({"kind": "Secret"})
            return
        handler.send_response(status)
        headers = {"known": ("Content-Length", "100000"), "chunked": ("Transfer-Encoding", "chunked")}
        handler.send_header(*headers.get(length, ("Connection", "close")))
        handler.end_headers()
        with contextlib.suppress(OSError):
            while not handler.server.release.wait(0.01):
                handler.wfile.write(b"1\r\n \r\n" if length == "chunked" else b" ")

    server, client = serve(trickle)

    with pytest.raises(KubeTimeoutError, match=r"reading .*/secrets/s: .* did not end within 0\.3 s"):
        client.get(SECRETS, "s", "a", timeout_seconds=20)
    assert client.get(SECRETS, "s", "a", timeout_seconds=20) == {"kind": "Secret"}
    assert len(server.seen) == 2


def test_a_server_that_hangs_is_a_timeout(serve):
    """A call comes back when its time is over, and the error says so."""
    _, client = serve(lambda handler: handler.server.release.wait(120))
    began = time.monotonic()

    with pytest.raises(KubeTimeoutError, match="did not answer in time"):
        client.create(SECRETS, {}, "a", timeout_seconds=0.2)

    assert time.monotonic() - began < 60, "long before the server would have answered"


def test_a_silent_server_is_asked_once(serve):
    """A timeout is one timeout: the request is not sent again behind the caller's back."""
    server, client = serve(lambda handler: handler.server.release.wait(120))

    with pytest.raises(KubeTimeoutError):
        client.get(SECRETS, "a", "b", timeout_seconds=0.2)

    deadline = time.monotonic() + 60
    while not server.seen:  # its thread may come later than the client's patience ends
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)
    assert len(server.seen) == 1


def test_nobody_there():
    """A refused connection is unreachable, at once, and the token is not in the text."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = Configuration(host=f"http://127.0.0.1:{port}", api_key={"BearerToken": "sesame-token"})

    with (
        KubeClient(configuration) as client,
        pytest.raises(KubeUnreachableError, match="cannot reach") as raised,
    ):
        client.get(SECRETS, "s", "a")

    assert "sesame" not in str(raised.value)


@pytest.mark.parametrize("content", [None, "{", "clusters: 3"])
def test_a_bad_kubeconfig_is_one_clear_sentence(tmp_path, content):
    """A missing or malformed kubeconfig names the file and the ways out."""
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content, encoding="utf-8")

    with pytest.raises(KubeConfigError, match=r"config.*Set KUBECONFIG"):
        KubeClient.load(str(path))


def test_a_kubeconfig_connects_with_its_token(serve, tmp_path):
    """Server and token of the file are used, also for a library that connects by itself."""
    server, _ = serve(lambda handler: handler.reply({}))
    path = tmp_path / "config"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server.url}}],
        "users": [{"name": "u", "user": {"token": "from-the-file"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_text(json.dumps(document), encoding="utf-8")

    with KubeClient.load(str(path)) as client:
        client.get(SECRETS, "s", "a")
        connection = client.connection()

    assert server.seen[0][2]["Authorization"] == "Bearer from-the-file"
    assert (connection.server, connection.authorization) == (server.url, "Bearer from-the-file")
    assert "from-the-file" not in repr(connection)


def test_a_watch_yields_events_and_ends_with_the_server(serve):
    """Events come in order, each with the version to go on from."""
    events = [
        {"type": kind, "object": {"metadata": {"name": "x", "resourceVersion": str(number)}}}
        for number, kind in enumerate(["ADDED", "MODIFIED", "BOOKMARK"], start=5)
    ]

    def script(handler):
        handler.stream(*events)
        handler.end_stream()

    server, client = serve(script)

    with client.watch(SECRETS, "a", resource_version="4") as stream:
        seen = [(event.type, event.resource_version) for event in stream]

    assert seen == [("ADDED", "5"), ("MODIFIED", "6"), ("BOOKMARK", "7")]
    assert "allowWatchBookmarks=true" in server.seen[0][1]
    assert "resourceVersion=4" in server.seen[0][1]


def test_an_error_event_is_raised(serve):
    """The server forgets versions in the middle of a stream, too."""
    _, client = serve(
        lambda handler: handler.stream({"type": "ERROR", "object": {"code": 410, "message": "old"}})
    )

    with client.watch(SECRETS, resource_version="4") as stream, pytest.raises(KubeGoneError, match="old"):
        list(stream)


def test_a_silent_watch_times_out(serve):
    """Not a byte for the inactivity time: the connection is dead, whatever TCP thinks."""

    def script(handler):
        handler.stream({"type": "ADDED", "object": {}})
        handler.server.release.wait(120)

    _, client = serve(script)

    with (
        client.watch(SECRETS, resource_version="4", inactivity_seconds=0.2) as stream,
        pytest.raises(KubeTimeoutError, match="silent"),
    ):
        list(stream)


def test_a_watch_can_be_ended_from_another_thread(serve):
    """`close` wakes a thread that waits for the next byte, quietly."""

    def script(handler):
        handler.stream({"type": "ADDED", "object": {}})
        handler.server.release.wait(120)

    _, client = serve(script)
    began = time.monotonic()
    with client.watch(SECRETS, resource_version="4", inactivity_seconds=120) as stream:
        first = threading.Event()
        ended: list[int] = []

        def read() -> None:
            count = 0
            for _ in stream:
                count += 1
                first.set()
            ended.append(count)

        reader = threading.Thread(target=read)
        reader.start()
        assert first.wait(60)
        stream.close()
        reader.join(60)

    assert ended == [1]
    assert time.monotonic() - began < 100, "before the server, or the watch's own patience, ended it"


def test_a_guard_stands_before_everything_but_reading(serve):
    """What changes something is not sent when the guard refuses; reading is nobody's business."""
    server, _ = serve(lambda handler: handler.reply({}))

    def refuse(what):
        raise LeadershipLostError(f"{what}: not now")

    configuration = Configuration(host=server.url, api_key={"BearerToken": "Bearer sesame-token"})
    with KubeClient(configuration, guard=refuse) as client:
        client.get(SECRETS, "s", "a")
        for change in (
            lambda: client.create(SECRETS, {}, "a"),
            lambda: client.replace(SECRETS, {"metadata": {"name": "s", "namespace": "a"}}),
            lambda: client.patch(SECRETS, "s", {}, "a"),
            lambda: client.patch_status(SECRETS, "s", {}, "a"),
            lambda: client.delete(SECRETS, "s", "a"),
        ):
            with pytest.raises(LeadershipLostError, match="not now"):
                change()

    assert [method for method, *_ in server.seen] == ["GET"]


def test_a_guard_says_how_long_a_request_may_take(serve):
    """A request of one whose leadership ends soon does not wait for its answer beyond that."""
    server, _ = serve(lambda handler: handler.server.release.wait(120))
    configuration = Configuration(host=server.url, api_key={"BearerToken": "Bearer sesame-token"})
    with KubeClient(configuration, guard=lambda _what: 0.3) as client:
        began = time.monotonic()
        with pytest.raises(KubeTimeoutError):
            client.patch(SECRETS, "s", {}, "a")
        assert time.monotonic() - began < 60
    server.release.set()


def test_a_guard_is_asked_again_when_the_connection_stands(serve, monkeypatch):
    """Whoever leads no longer once a name is resolved or a hand shaken has sent nothing; reading goes on."""
    server, _ = serve(lambda handler: handler.reply({}))
    now = [100.0]
    fence = LeadershipFence(lambda: now[0])
    fence.extend(107.0)
    create_connection = urllib3.util.connection.create_connection

    def slowly(*args, **options):
        now[0] += 10.0
        return create_connection(*args, **options)

    monkeypatch.setattr(urllib3.util.connection, "create_connection", slowly)
    configuration = Configuration(host=server.url, api_key={"BearerToken": "Bearer sesame-token"})
    with KubeClient(configuration, guard=fence.check) as client:
        with pytest.raises(LeadershipLostError, match="not sent"):
            client.patch(SECRETS, "s", {}, "a")
        assert server.seen == []
        client.get(SECRETS, "s", "a")

    assert [method for method, *_ in server.seen] == ["GET"]


def test_an_observer_is_told_how_each_request_ended(serve):
    """One word each; what a guard keeps from being sent is none of them."""
    answers = iter([200, 404, 409, 410, 422, 403, 401, 429, 500, 418])

    def refuse(what):
        raise LeadershipLostError(f"{what}: not now")

    server, _ = serve(lambda handler: handler.reply({}, status=next(answers)))
    told = []
    configuration = Configuration(host=server.url, api_key={"BearerToken": "Bearer sesame-token"})
    with KubeClient(configuration, guard=refuse, observe=lambda *words: told.append(words)) as client:
        for _ in range(10):
            with contextlib.suppress(KubeApiError):
                client.get(SECRETS, "s", "a")
        with pytest.raises(LeadershipLostError):
            client.delete(SECRETS, "s", "a")
    closed = Configuration(host="http://127.0.0.1:1")
    client = KubeClient(closed, observe=lambda *words: told.append(words))
    with client, pytest.raises(KubeUnreachableError):
        client.delete(SECRETS, "s", "a")

    assert told == [
        ("GET", "ok"),
        ("GET", "not_found"),
        ("GET", "conflict"),
        ("GET", "gone"),
        ("GET", "invalid"),
        ("GET", "forbidden"),
        ("GET", "unauthorized"),
        ("GET", "throttled"),
        ("GET", "unreachable"),
        ("GET", "other"),
        ("DELETE", "unreachable"),
    ]
