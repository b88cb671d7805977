"""Whole lists or errors: nothing in between ever looks like a list."""

from __future__ import annotations

import pytest

from bubu_operator.errors import (
    KubeForbiddenError,
    KubeGoneError,
    KubeThrottledError,
    KubeTimeoutError,
    KubeUnreachableError,
)
from bubu_operator.kube.resources import Resource
from bubu_operator.owners.gather import FIRST_PAGE, MAX_STARTS, Gatherer, NotServedError, Traffic
from bubu_operator.owners.kinds import STORY_RUN, OwnerKind
from bubu_storage.errors import OwnersUnknownError
from tests.unit.operator_owners.world import RUNS, STORY_RUNS, Api, entry, fail, story_run

RESOURCE = Resource("runs.bubustack.io", "v1alpha1", STORY_RUNS, "StoryRun")


@pytest.fixture
def api():
    """An API server with 250 story runs of two namespaces."""
    made = Api()
    made.put(STORY_RUNS, *(story_run(f"r{number:03d}") for number in range(200)))
    made.put(
        STORY_RUNS, *(story_run(f"r{number:03d}", metadata={"namespace": "team-b"}) for number in range(50))
    )
    return made


def gatherer(api, **options):
    """Make a gatherer that waits without waiting."""
    waits = []
    return Gatherer(
        api,
        **(
            {"deadline": 100.0, "traffic": Traffic(), "monotonic": lambda: 0.0, "sleep": waits.append}
            | options
        ),
    )


def names(api, namespace=None, *, metadata_only=False, **options):
    """List story runs; return their names."""
    return gatherer(api, **options).read_list(
        RESOURCE, namespace, lambda obj: obj["metadata"]["name"], metadata_only=metadata_only
    )


@pytest.mark.parametrize("page_size", [1, 7, 199, 250, 1_000])
@pytest.mark.parametrize("metadata_only", [False, True])
def test_all_pages_are_read(api, page_size, metadata_only):
    """However the server cuts them."""
    api.page_size = page_size

    assert len(names(api, metadata_only=metadata_only)) == 250
    assert len(names(api, "team-b", metadata_only=metadata_only)) == 50
    assert names(api, "nobody") == []


def test_pages_are_cut_by_bytes(api):
    """The first one is small; large objects keep the others small, small objects make them large."""
    names(api)
    limits = [int(request.query["limit"]) for request in api.requests]
    api.requests.clear()
    api.put(STORY_RUNS, *(story_run(f"r{number:03d}", spec={"x": "y" * 400_000}) for number in range(60)))
    names(api)

    assert limits == [FIRST_PAGE, 5_000]
    assert [int(request.query["limit"]) for request in api.requests][:3] == [FIRST_PAGE, 10, 10]


def test_an_expired_snapshot_is_begun_anew(api):
    """Nothing of the first try is left in the list."""
    api.page_size = 100
    api.before = fail(
        KubeGoneError("expired", status=410), times=1, when=lambda request: request.query.get("continue")
    )

    assert len(names(api)) == 250
    assert [bool(request.query["continue"]) for request in api.requests] == [False, True, False, True, True]


def test_a_snapshot_that_always_expires_is_an_error(api):
    """It is not begun for ever."""
    api.page_size = 100
    api.before = lambda _: api.forget_snapshots()

    with pytest.raises(OwnersUnknownError, match="never complete"):
        names(api)

    assert len(api.requests) == 2 * MAX_STARTS


def test_an_object_made_between_two_pages_is_not_half_seen(api):
    """All pages are of one snapshot."""
    api.page_size = 100

    def before(request):
        if request.query.get("continue"):
            api.put(STORY_RUNS, story_run(f"a{len(api.requests)}"))

    api.before = before

    assert len(names(api)) == 250


def test_pages_of_different_snapshots_do_not_make_a_list(api):
    """A server, or a cache in between, that mixes them."""
    api.page_size = 100
    seen = []

    def alter(answer):
        seen.append(1)
        answer["metadata"]["resourceVersion"] = str(len(seen))

    api.alter = alter

    with pytest.raises(OwnersUnknownError, match="different times"):
        names(api)


@pytest.mark.parametrize("remaining", [199, 201])
def test_a_count_that_does_not_fit_is_no_list(api, remaining):
    """A page that announces more, or fewer, objects than follow."""
    api.page_size = 100

    def alter(answer):
        if answer["metadata"].get("remainingItemCount") == 200:
            answer["metadata"]["remainingItemCount"] = remaining

    api.alter = alter

    with pytest.raises(OwnersUnknownError, match=f"{remaining} objects were announced"):
        names(api)


def test_a_short_last_page_is_no_list(api):
    """Objects that were announced and are missing."""
    api.page_size = 200

    def alter(answer):
        if "continue" not in answer["metadata"]:
            answer["items"] = answer["items"][:-1]

    api.alter = alter

    with pytest.raises(OwnersUnknownError, match="200 objects were announced, 199 came"):
        names(api)


def test_a_server_that_counts_nothing_is_believed(api):
    """The count is optional; the last page is the one without a token."""
    api.page_size = 100
    api.alter = lambda answer: answer["metadata"].pop("remainingItemCount", None)

    assert len(names(api)) == 250


@pytest.mark.parametrize(
    "alter",
    [
        lambda answer: answer.pop("items"),
        lambda answer: answer.update(items={"a": 1}),
        lambda answer: answer.update(items=["x"]),
        lambda answer: answer["items"][0]["metadata"].pop("name"),
        lambda answer: answer["metadata"].pop("resourceVersion"),
    ],
)
def test_what_is_no_list_is_an_error(api, alter):
    """An answer of 200 with something else in it."""
    api.alter = alter

    with pytest.raises(OwnersUnknownError, match="cannot list storyruns"):
        names(api)


def test_no_items_at_all_is_an_empty_list(api):
    """As some servers write it."""
    api.objects.clear()
    api.alter = lambda answer: answer.update(items=None)

    assert names(api) == []


@pytest.mark.parametrize(
    "error",
    [KubeThrottledError("slow down"), KubeUnreachableError("boom", status=503), KubeTimeoutError("silence")],
)
def test_a_short_trouble_is_sat_out_a_long_one_is_an_error(api, error):
    """Once more, and not oftener."""
    api.before = fail(error, times=1)
    assert len(names(api)) == 250
    api.before = fail(error, times=2)
    with pytest.raises(OwnersUnknownError, match=str(error)):
        names(api)


def test_a_missing_right_is_named(api):
    """Who reads it knows what to grant, and to whom."""
    api.before = fail(KubeForbiddenError("storyruns is forbidden", status=403), times=9)

    with pytest.raises(OwnersUnknownError) as raised:
        names(api, "team-a")

    for word in (
        "storyruns",
        "namespace team-a",
        "verbs get and list",
        "'runs.bubustack.io'",
        "controller-rbac.yaml",
    ):
        assert word in str(raised.value)


def test_the_deadline_ends_everything(api):
    """A server that is slow at each of many pages."""
    times = iter(range(0, 1_000, 30))
    api.page_size = 10

    with pytest.raises(OwnersUnknownError, match="takes too long"):
        names(api, monotonic=lambda: float(next(times)))

    assert 1 < len(api.requests) < 6


def test_kinds_become_resources(api):
    """By discovery; subresources are none."""
    api.served[RUNS].insert(0, entry("StoryRun", "storyruns/status"))

    assert gatherer(api).resource_of(STORY_RUN) == RESOURCE


def test_a_kind_of_the_core_group(api):
    """Its discovery is elsewhere."""
    api.served["/api/v1"] = [entry("Pod", "pods")]

    assert gatherer(api).resource_of(OwnerKind("", "v1", "Pod")).path() == "/api/v1/pods"


def test_a_kind_that_is_not_served(api):
    """Of an unknown group, an unknown version, or unknown in a known one."""
    for kind in (
        OwnerKind("x.io", "v1", "Flow"),
        OwnerKind("runs.bubustack.io", "v9", "StoryRun"),
        OwnerKind("runs.bubustack.io", "v1alpha1", "Flow"),
    ):
        with pytest.raises(NotServedError, match="does not serve"):
            gatherer(api).resource_of(kind)


def test_a_cluster_scoped_kind_owns_nothing(api):
    """Runs have namespaces, and so must their owners."""
    api.served[RUNS].append(entry("World", "worlds", namespaced=False))

    with pytest.raises(OwnersUnknownError, match="cluster-scoped"):
        gatherer(api).resource_of(OwnerKind("runs.bubustack.io", "v1alpha1", "World"))


def test_discovery_that_fails_is_no_absence(api):
    """An aggregated API that is down must not look as if nobody owned anything."""
    api.before = fail(KubeUnreachableError("service unavailable", status=503), times=2)

    with pytest.raises(OwnersUnknownError, match="service unavailable") as raised:
        gatherer(api).resource_of(STORY_RUN)

    assert not isinstance(raised.value, NotServedError)


def test_a_list_of_a_kind_that_is_gone(api):
    """Told apart from other errors: discovery is to be asked again."""
    api.served[RUNS].clear()

    with pytest.raises(NotServedError):
        names(api)


def test_traffic_is_counted(api):
    """Requests and bytes, of all that was asked."""
    traffic = Traffic()
    names(api, traffic=traffic)

    assert traffic.requests == len(api.requests)
    assert traffic.received_bytes > 250 * 100
