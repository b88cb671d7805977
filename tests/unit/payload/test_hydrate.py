"""References are resolved, limits are about references only, and errors say where."""

from __future__ import annotations

import copy
import logging
import time

import pytest

from bubu_storage.errors import (
    CorruptObjectError,
    DepthError,
    InvalidKeyError,
    KubeRefError,
    LimitExceededError,
    ObjectNotFoundError,
    RefCycleError,
    RefNotAllowedError,
    SelectorError,
    StorageDisabledError,
    StorageError,
    is_not_found,
)
from bubu_storage.payload.hydrate import HydrateOptions, hydrate

REF, PATH = "$bubuStorageRef", "$bubuStoragePath"


def ref(path, selector=None):
    """A reference."""
    return {REF: path} if selector is None else {REF: path, PATH: selector}


class Store:
    """Decoded objects by key; remembers what was asked for."""

    reads_ahead = True

    def __init__(self, objects):
        self.objects = objects
        self.fetched = []
        self.announced = []

    def announce(self, wants):
        """Take note."""
        self.announced.append([want.key for want in wants])

    def get(self, key):
        """Return the very object, as the real fetcher does."""
        self.fetched.append(key)
        if key not in self.objects:
            raise ObjectNotFoundError(f"no object {key!r}", key=key)
        return self.objects[key]


class Cluster:
    """Every key of every ConfigMap and Secret has the same value."""

    def __init__(self, value):
        self.value = value

    def config_map_value(self, *_):
        """As text."""
        return self.value

    def secret_value(self, *_):
        """As bytes."""
        return self.value.encode()


def run(data, objects=None, **options):
    """Hydrate with a budget of ten."""
    options = {"max_hops": 10, "ref_search_depth": 10, **options}
    return hydrate(
        data, objects if isinstance(objects, Store) else Store(objects or {}), HydrateOptions(**options)
    )


def test_results_share_nothing_with_anything():
    """Not with the input, not with each other, though an object is fetched once a call at most."""
    stored = {"list": [1]}
    data = {"a": ref("x"), "b": ref("x"), "c": [ref("y")], "d": [{"e": 1}]}
    before = copy.deepcopy(data)
    result = run(data, {"x": stored, "y": ref("x")})

    result["a"]["list"].append(2)
    result["d"][0]["e"] = 2
    assert result["b"] == result["c"][0] == {"list": [1]}
    assert result["b"]["list"] is not result["c"][0]["list"]
    assert data == before


def test_all_references_of_a_document_are_announced_at_once():
    """In document order, each once, clean; then those of the objects that they lead to."""
    store = Store({"x": 1, "y": {"p": ref("z"), "q": ref("z"), "r": ref("x")}, "z": 3})
    run([ref("./x"), ref("y"), {"k": ref("x")}], store)
    assert store.announced[0] == ["x", "y", "x"]  # two spellings of one key
    assert [keys for keys in store.announced[1:] if keys] == [["z", "x"]]


def test_nothing_forbidden_is_announced():
    """Reading ahead must not read what the reference itself may not, nor what is no key."""
    store = Store({"ok/x": 1, "ok/v": 2})
    data = [ref("ok/x"), ref("ok/v"), ref("secret/y"), ref(".bubu/z"), ref("../w"), ref("a/../ok/x2")]
    with pytest.raises(RefNotAllowedError):
        run(data, store, allowed_prefixes=("ok",))
    assert store.announced[0] == ["ok/x", "ok/v"]


def chain(length):
    """Objects c/0 … that each refer to the next, and a last one with a value."""
    return {f"c/{i}": ref(f"c/{i + 1}") for i in range(length - 1)} | {f"c/{length - 1}": "end"}


def test_the_budget_counts_references():
    """As many hops as allowed, and not one more."""
    assert run({"k": [ref("c/0")]}, chain(10)) == {"k": ["end"]}
    with pytest.raises(DepthError, match="number 11 of a chain; at most 10"):
        run(ref("c/0"), chain(11))
    assert run(ref("c/0"), chain(3000), max_hops=3000) == "end"


def test_nesting_is_free():
    """Deep data above, between and below references costs nothing."""
    deep = ref("x")
    for _ in range(500):
        deep = {"k": [deep]}
    inner = ref("y")
    for _ in range(500):
        inner = [inner]
    result = run(deep, {"x": inner, "y": "leaf"}, max_hops=2)

    while isinstance(result, (dict, list)):
        result = result["k"] if isinstance(result, dict) else result[0]
    assert result == "leaf"


@pytest.mark.parametrize(
    "objects",
    [
        {"x": ref("x")},
        {"x": {"a": [ref("y")]}, "y": ref("x")},
        {"x": ref("y", "a"), "y": {"a": ref("./x")}},
    ],
)
def test_cycles_are_found_at_once(objects):
    """Whatever the budget; the message names the object."""
    store = Store(objects)
    with pytest.raises(RefCycleError, match="leads back to"):
        run(ref("x"), store, max_hops=10**9)
    assert len(store.fetched) <= 2


def test_the_same_object_twice_side_by_side_is_no_cycle():
    """Only an object that is being resolved counts."""
    assert run([ref("x"), ref("x")], {"x": ref("y"), "y": 1}) == [1, 1]


def test_input_that_contains_itself_or_is_too_deep():
    """Is a DepthError, not an endless loop."""
    endless = []
    endless.append({"x": endless})
    with pytest.raises(DepthError):
        run(endless)
    deep = []
    for _ in range(10_001):
        deep = [deep]
    with pytest.raises(DepthError):
        run(deep)


def test_each_document_has_the_format_s_nesting_to_itself():
    """Two documents that are each as deep as allowed fit into one another."""
    outer, inner = ref("x"), "leaf"
    for _ in range(9_990):
        outer, inner = [outer], [inner]
    result = run(outer, {"x": inner})

    levels = 0
    while isinstance(result, list):
        (result,) = result
        levels += 1
    assert (result, levels) == ("leaf", 19_980)


def test_a_long_chain_through_selectors_ends_in_an_error():
    """Selectors nest calls; the interpreter's stack is not the user's problem."""
    objects = {f"c/{i}": {"v": ref(f"c/{i + 1}", "v")} for i in range(5000)} | {"c/5000": {"v": 1}}
    with pytest.raises(DepthError, match="selectors"):
        run(ref("c/0", "v"), objects, max_hops=10**6)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("", InvalidKeyError),
        ("/etc/passwd", InvalidKeyError),
        ("a/../../b", InvalidKeyError),
        ("..\\b", InvalidKeyError),
        (".bubu/claim", InvalidKeyError),
        (".", InvalidKeyError),
        ("outputs/other/x", RefNotAllowedError),
        ("outputs/team-10/x", RefNotAllowedError),
        ("outputs/team-1x", RefNotAllowedError),
    ],
)
def test_references_out_of_bounds(path, error):
    """Traversal, our own area, and anything outside the allowed prefixes; nothing is fetched."""
    store = Store({path: 1})
    with pytest.raises(error, match=r"\$\.a"):
        run({"a": ref(path)}, store, allowed_prefixes=("outputs/team-1",))
    assert store.fetched == []


def test_allowed_prefixes_hold_for_stored_references_too():
    """An object that may be read can lead to one that may not."""
    objects = {"ok/x": {"in": ref("other/y")}, "other/y": 1}
    with pytest.raises(RefNotAllowedError, match=r"\$\.in of 'ok/x'"):
        run(ref("ok/x"), objects, allowed_prefixes=("ok",))
    assert run(ref("ok/x"), objects, allowed_prefixes=(".",)) == {"in": 1}
    with pytest.raises(RefNotAllowedError, match="none"):
        run(ref("ok/x"), objects, allowed_prefixes=())


def test_a_stale_reference_says_where_it_stands():
    """The document, the place in it and the object; the store's own error is the cause."""
    with pytest.raises(ObjectNotFoundError, match=r"\$\.p\[1\] of 'x' leads to 'gone'") as caught:
        run({"a": ref("x")}, {"x": {"p": [0, ref("gone")]}})

    assert caught.value.key == "gone"
    assert is_not_found(caught.value)
    assert isinstance(caught.value.__cause__, ObjectNotFoundError)


def test_other_errors_get_the_place_as_a_note():
    """The error itself stays as the store raised it."""

    class Broken(Store):
        def get(self, key):
            """Fail."""
            raise CorruptObjectError(f"object {key!r} is broken", key=key)

    with pytest.raises(CorruptObjectError, match="object 'x' is broken") as caught:
        run({"a": [ref("x")]}, Broken({}))
    assert caught.value.__notes__ == ["while resolving the reference at $.a[0] to 'x'"]


def test_the_first_fault_in_document_order_counts():
    """However parallel the fetching is."""
    with pytest.raises(ObjectNotFoundError, match="'gone/1'"):
        run({"z": ref("gone/1"), "a": ref("gone/2")}, {})


SELECTED = {
    "d": {
        "plain": {"v": 1},
        "ref": ref("e"),
        "list": [ref("e"), {"n": 2}, {"x": 3}],
        "bad": ref("gone"),
        "whole": ref("l"),
        "text": "t",
        "inner": ref("f", "deep.n"),
    },
    "e": {"n": ref("n")},
    "f": {"deep": {"n": {"q": [ref("n")]}}, "bad": ref("gone")},
    "l": [ref("n"), "m"],
    "n": 7,
    "r": ref("d"),
}


@pytest.mark.parametrize(
    ("selector", "value"),
    [
        ("plain", {"v": 1}),
        ("ref", {"n": 7}),
        ("ref.n", 7),
        ("list[0].n", 7),
        ("list[*].n", [7, 2, None]),
        ("whole", [7, "m"]),
        ("whole[*]", [7, "m"]),
        ("whole[0]", 7),
        ("inner.q[0]", 7),
        ("inner", {"q": [7]}),
    ],
)
def test_selectors_load_what_they_lead_through(selector, value):
    """And nothing else: the stale reference beside them does not matter."""
    store = Store(SELECTED)
    assert run(ref("d", selector), store) == value
    assert run({"x": ref("r", selector)}, SELECTED) == {"x": value}
    assert "gone" not in store.fetched


def test_selected_values_are_copies():
    """Two references to the same part give two values."""
    objects = {"d": {"p": {"q": [1]}}}
    result = run([ref("d", "p"), ref("d", "p.q"), ref("d")], objects)

    result[0]["q"].append(2)
    result[1].append(3)
    assert result[2] == {"p": {"q": [1]}}


@pytest.mark.parametrize(
    ("selector", "reason"),
    [
        ("none", "field 'none' does not exist"),
        ("text.x", "field 'x' needs an object and found a string"),
        ("plain.v.x", "found a number"),
        ("plain[0]", "needs a list and found an object"),
        ("list[3]", "out of range; the list has 3 elements"),
        ("list.x", "needs an object and found a list"),
        ("ref.n.x", "found a number"),
        ("list[", "has no ']'"),
    ],
)
def test_selectors_that_do_not_fit(selector, reason):
    """The error names selector, object, step and what was found."""
    with pytest.raises(SelectorError, match=reason) as caught:
        run(ref("d", selector), SELECTED)
    assert repr(selector) in str(caught.value)
    assert "'d'" in str(caught.value)


@pytest.mark.parametrize(("value", "kind"), [(None, "null"), (True, "a boolean"), (1.5, "a number")])
def test_selector_errors_name_json_types(value, kind):
    """In JSON's words."""
    with pytest.raises(SelectorError, match=f"found {kind}$"):
        run(ref("d", "v.x"), {"d": {"v": value}})


def test_kubernetes_references():
    """Resolved by hydrate, left alone otherwise; their values are not resolved again."""
    data = {"a": {"$bubuSecretRef": "s:k"}, "b": ref("x")}
    objects = {"x": [{"$bubuConfigMapRef": "c:k"}]}
    options = {"workload_namespace": "ns", "kube_resolver": Cluster('{"$bubuStorageRef":"gone"}')}

    assert run(data, objects, **options) == {"a": ref("gone"), "b": [ref("gone")]}
    assert run(ref("x", "[0]"), objects, **options) == ref("gone")
    assert run(data, objects, kube_refs=False, **options) == {
        "a": {"$bubuSecretRef": "s:k"},
        "b": objects["x"],
    }
    with pytest.raises(KubeRefError, match="kube_resolver="):
        run(data, objects, workload_namespace="ns")


def test_a_kubernetes_value_is_read_once_and_handed_out_as_copies():
    """A document cannot make one call per reference, nor two places share one list."""
    asked = []

    class Counting(Cluster):
        def secret_value(self, *where):
            """Count."""
            asked.append(where)
            return super().secret_value(*where)

    data = [{"$bubuSecretRef": "s:k"}] * 100

    result = run(data, workload_namespace="ns", kube_resolver=Counting("[1]"))

    assert result == [[1]] * 100
    assert asked == [("ns", "s", "k")]
    result[0].append(2)
    assert result[1] == [1]


def test_kubernetes_values_count_against_the_limit():
    """A large ConfigMap that a document names many times over is one more way to blow it up."""
    data = [{"$bubuConfigMapRef": "c:k"}] * 10
    options = {"workload_namespace": "ns", "kube_resolver": Cluster("x" * 1000)}

    assert len(run(data, max_copied_bytes=11_000, **options)) == 10
    with pytest.raises(LimitExceededError):
        run(data, max_copied_bytes=9_000, **options)


def test_lookalikes_of_kubernetes_references_do_not_flood_the_log(caplog):
    """One line for a whole call."""
    with caplog.at_level(logging.WARNING):
        run([{"$bubuSecretRef": "x"}] * 50, workload_namespace="ns")
    assert len(caplog.records) == 1


def test_what_looks_like_a_kubernetes_reference_is_left_with_a_warning(caplog):
    """Data stays data, as in the Go SDK, but not without a word."""
    with caplog.at_level(logging.WARNING):
        assert run({"a": {"$bubuSecretRef": "other/s:k"}}, workload_namespace="ns") == {
            "a": {"$bubuSecretRef": "other/s:k"}
        }
    assert "$.a looks like a ConfigMap or Secret reference" in caplog.text


def test_disabled_storage():
    """Data passes, Kubernetes references still work, any storage reference is an error."""
    options = {"enabled": False, "workload_namespace": "ns", "kube_resolver": Cluster("v")}
    assert run({"a": [1], "b": {"$bubuConfigMapRef": "c:k"}}, **options) == {"a": [1], "b": "v"}

    deep = ref("x")
    for _ in range(20):
        deep = [deep]
    for data in (ref("x"), {"a": [ref("x", 5)]}, deep):
        with pytest.raises(StorageDisabledError, match="BUBU_STORAGE_PROVIDER"):
            run(data, **options)


@pytest.mark.parametrize("leaf", [["x" * 10] * 10, "x" * 100, {"k": None}])
def test_small_documents_cannot_blow_up(leaf):
    """Ten objects that each name the next one ten times stand for ten billion values."""
    objects = {"0": leaf, **{str(n): [ref(str(n - 1))] * 10 for n in range(1, 10)}}
    with pytest.raises(LimitExceededError, match=r"limit of 1000000; .*BUBU_MAX_HYDRATED_SIZE"):
        run(ref("9"), objects, max_copied_bytes=1_000_000)
    assert len(run(ref("2"), objects, max_copied_bytes=1_000_000)) == 10


@pytest.mark.parametrize("stored", ["x" * 1000, ["x" * 1000, ref("n")]], ids=["text", "text inside"])
def test_texts_count_as_often_as_they_appear(stored):
    """They share memory here, but whoever writes the result out again pays for each."""
    data = [ref("stored")] * 10
    objects = {"stored": stored, "n": 1}
    assert len(run(data, objects, max_copied_bytes=11_000)) == 10
    with pytest.raises(LimitExceededError):
        run(data, objects, max_copied_bytes=9_000)


def test_wildcards_cannot_blow_up():
    """Many references that each select all of one long list are charged for their lists."""
    objects = {"list": [None] * 1000}
    selected = [ref("list", "[*]")] * 100
    assert len(run(selected, objects, max_copied_bytes=900_000)) == 100
    with pytest.raises(LimitExceededError):
        run(selected, objects, max_copied_bytes=800_000)


def test_plain_data_and_documents_used_once_cost_nothing():
    """The limit is about what references bring together, not about what the caller holds already."""
    objects = {"once": ["x" * 1000]}
    assert run([ref("once"), "y" * 1000], objects, max_copied_bytes=0) == [["x" * 1000], "y" * 1000]


def test_deep_documents_take_linear_time():
    """A document of 10,000 levels and 20,000 small maps takes moments, not minutes."""
    leaves = [{"k": n} for n in range(20_000)]
    deep = [leaves, ref("x")]
    for _ in range(9_000):
        deep = {"k": deep}
    started = time.perf_counter()

    result = run(ref("deep"), {"deep": deep, "x": 1})

    for _ in range(9_000):
        result = result["k"]
    assert result == [leaves, 1]
    assert time.perf_counter() - started < 60


def test_messages_stay_short_whatever_the_document():
    """Paths, keys and selectors of any length are cut in messages."""
    deep = {"k" * 10_000: [ref("gone")]}
    for _ in range(5_000):
        deep = [deep]
    for data in (
        deep,
        ref("../" * 10_000),
        ref("a" * 10_000),
        ref("x", "y" * 10_000),
        ref("x", "[" * 10_000),
    ):
        with pytest.raises(StorageError) as caught:
            run(data, {"x": {}})
        assert len(str(caught.value)) < 1000


def test_keys_that_are_no_text_have_a_place_too():
    """Data from Python code may hold such keys; a failing reference below one is still reported."""
    with pytest.raises(ObjectNotFoundError, match=r"\$\[7\]\['None'\] leads"):
        run({7: {None: ref("gone")}})


def test_other_values_pass():
    """Tuples become lists, everything else is returned as it is."""
    marker = object()
    assert run({"a": (1, ref("x")), 5: marker}, {"x": []}) == {"a": [1, []], 5: marker}
