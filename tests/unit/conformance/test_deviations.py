"""Our better outcome for each case in which the Go implementation is known to be wrong.

One test a case, named after it. What a Go reader or writer sees stays within the format:
objects have the same form, and references lead to them.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from bubu_storage.errors import InvalidKeyError
from bubu_storage.payload.codec import encode

REF = "$bubuStorageRef"
TYPE = "$bubuStorageContentType"


def text_ref(path):
    """A reference as dehydrate writes it for a long string."""
    return {TYPE: "text/plain", REF: path}


def json_ref(path):
    """A reference as dehydrate writes it for any other value."""
    return {TYPE: "application/json", REF: path}


def raw_object(text):
    """The bytes of a stored string."""
    return b'{"contentType":"raw","data":"' + text.encode() + b'"}'


def nested(key, levels, leaf):
    """``levels`` maps of one key around a leaf."""
    for _ in range(levels):
        leaf = {key: leaf}
    return leaf


def test_every_deviating_case_has_its_test(storage_cases):
    """A case marked as a defect without a test of our own outcome is a gap."""
    marked = {case_id for case_id, case in storage_cases.items() if "stance" in case}
    source = Path(sys.modules[__name__].__file__).read_text("utf-8")

    assert set(re.findall(r'observed\("(s-[a-z_]+-\d+)"\)', source)) == marked
    assert len(marked) == 21


def test_depth_039_data_nested_eleven_levels_comes_back(observed, storage_cases):
    """Fix 1: what dehydrate offloads at depth 11 counts as one reference, so hydrate can put it back."""
    seen = observed("s-depth-039")

    assert seen.result == storage_cases["s-depth-039"]["input"]
    assert encode(seen.dehydrated) == encode(storage_cases["s-depth-039"]["expect"]["dehydrated"])
    assert list(seen.files) == ["outputs/ns/run-1/m.0.m.0.m.0.m.0.m.0.m.json"]


def test_depth_048_plain_data_of_any_depth_hydrates(observed):
    """Fix 1: data without references is returned as it is; there is nothing to limit."""
    assert observed("s-depth-048").result == nested("k", 11, 1)


def test_depth_050_a_deep_reference_to_a_map_resolves(observed):
    """Fix 1: nesting above a reference does not use up the budget for references."""
    assert observed("s-depth-050").result == [[[[[[[[[{"a": 1}]]]]]]]]]


def test_depth_053_a_subtree_offloaded_in_the_middle_comes_back(observed):
    """Fix 1: levels above and below an offloaded subtree are not added up."""
    seen = observed("s-depth-053")

    assert seen.result == {"x": "y" * 17, "a": nested("a", 9, 1)}
    assert seen.files == {
        "outputs/ns/run-1/a.a.a.a.a.a.json": b'{"contentType":"json","data":{"a":{"a":{"a":{"a":1}}}}}'
    }


def test_stored_object_259_deep_stored_data_is_read(observed):
    """Fix 1: a stored document of 200 levels has no reference in it, and is simply returned."""
    result = observed("s-stored_object-259").result

    levels = 0
    while result:
        (result,) = result
        levels += 1
    assert levels == 199


def test_keys_083_a_key_that_climbs_stays_in_its_run(observed):
    """Fix 4: the object does not land beside the run, where it could replace another run's."""
    seen = observed("s-keys-083")

    assert seen.result == {"../up": text_ref("outputs/ns/run-1/%2E%2E/up.json")}
    assert seen.files == {"outputs/ns/run-1/%2E%2E/up.json": raw_object("K" * 1100)}


def test_keys_084_a_key_that_climbs_to_the_root_stays_in_its_run(observed):
    """Fix 4: nor does it land at the root of the store."""
    seen = observed("s-keys-084")

    path = "outputs/ns/run-1/%2E%2E/%2E%2E/%2E%2E/x.json"
    assert seen.result == {"../../../x": text_ref(path)}
    assert seen.files == {path: raw_object("K" * 1100)}


def test_keys_087_a_key_that_only_looks_like_climbing_keeps_its_name(observed):
    """Fix 4 changes nothing here: with the suffix, ``x/...json`` is inside the run and harmless."""
    seen = observed("s-keys-087")

    assert seen.result == {"x/..": text_ref("outputs/ns/run-1/x/...json")}
    assert list(seen.files) == ["outputs/ns/run-1/x/...json"]


def test_id_and_prefix_091_a_run_id_that_climbs_is_refused(observed):
    """Fix 4: an id out of the prefix is the caller's mistake; nothing is written anywhere."""
    seen = observed("s-id_and_prefix-091")

    assert isinstance(seen.error, InvalidKeyError)
    assert "'../x'" in str(seen.error)
    assert seen.files == {}


def test_numbers_112_an_integer_over_2_to_the_53_stays_exact(observed):
    """Peer lossy: 9007199254740993 does not become …992."""
    assert observed("s-numbers-112").result == {
        "n": 9007199254740993,
        "s": text_ref("outputs/ns/run-1/s.json"),
    }


def test_numbers_114_a_negative_integer_under_minus_2_to_the_53_stays_exact(observed):
    """Peer lossy: nor do negative ones lose digits."""
    assert observed("s-numbers-114").result["n"] == -9007199254740993


def test_numbers_116_the_largest_unsigned_64_bit_integer_stays_exact(observed):
    """Peer lossy: 18446744073709551615 is a common "unlimited" and must survive."""
    assert observed("s-numbers-116").result["n"] == 18446744073709551615


def test_numbers_118_an_integer_of_thirty_digits_is_stored_with_all_of_them(observed):
    """Peer lossy: all digits are written, so the value is long enough to be offloaded."""
    seen = observed("s-numbers-118")

    assert seen.result["n"] == json_ref("outputs/ns/run-1/n.json")
    assert (
        seen.files["outputs/ns/run-1/n.json"]
        == b'{"contentType":"json","data":123456789012345678901234567890}'
    )


def test_numbers_122_a_stored_integer_is_read_with_all_its_digits(observed):
    """Peer lossy: reading keeps what was stored."""
    result = observed("s-numbers-122").result

    assert (type(result), result) == (int, 9007199254740993)


def test_refs_172_a_reference_longer_than_the_limit_is_left_alone(observed, storage_cases):
    """Fix 5: offloading the path of a reference would make it a reference no more."""
    seen = observed("s-refs-172")

    assert seen.result == {"r": {REF: "p" * 1030}}
    assert seen.files == {}


def test_refs_173_a_reference_at_the_depth_limit_is_left_alone(observed, storage_cases):
    """Fix 5: the path of a reference at depth 10 is not torn out of it."""
    seen = observed("s-refs-173")

    assert seen.result == storage_cases["s-refs-173"]["input"]
    assert seen.files == {}


def test_selector_231_an_unrelated_stale_reference_does_not_matter(observed):
    """Fix 20: a selector loads only what it leads through."""
    assert observed("s-selector-231").result == 1


def test_inputs_274_a_field_named_input_survives(observed, storage_cases):
    """Fix 3: the whole document takes input.json, so the field's value goes elsewhere."""
    seen = observed("s-inputs-274")

    assert seen.result == {"input": "x" * 101, "b": "y" * 90}
    assert seen.dehydrated == json_ref("inputs/ns/run-1/input.json")
    (other,) = seen.files.keys() - {"inputs/ns/run-1/input.json"}
    assert seen.files[other] == raw_object("x" * 101)
    document = json.loads(seen.files["inputs/ns/run-1/input.json"])
    assert document["data"]["input"] == text_ref(other)


def two_distinct_objects(seen, first, second):
    """Both values are stored, one of them under the natural name, and each is found by its reference."""
    left, right = seen.result[first], seen.result[second]
    left, right = left.get("b", left), right.get("b", right)
    assert left[REF] != right[REF]
    assert seen.files == {left[REF]: raw_object("01234567890"), right[REF]: raw_object("98765432109")}
    return left[REF], right[REF]


def test_collision_293_a_dotted_key_and_a_nested_key_do_not_collide(observed):
    """Fix 2: ``a.b`` and ``a`` → ``b`` get an object each; the first in key order keeps the name."""
    dotted, nested_path = two_distinct_objects(observed("s-collision-293"), "a.b", "a")

    assert nested_path == "outputs/ns/run-1/a.b.json"
    assert re.fullmatch(r"outputs/ns/run-1/a\.b~[0-9a-f]{12}\.json", dotted)


def test_collision_294_the_empty_key_and_output_do_not_collide(observed):
    """Fix 2: both would be output.json."""
    empty, output = two_distinct_objects(observed("s-collision-294"), "", "output")

    assert empty == "outputs/ns/run-1/output.json"
    assert re.fullmatch(r"outputs/ns/run-1/output~[0-9a-f]{12}\.json", output)


def test_collision_295_keys_that_clean_to_one_path_do_not_collide(observed):
    """Fix 2: ``x/y`` and ``x//y`` are one path and two keys."""
    single, double = two_distinct_objects(observed("s-collision-295"), "x/y", "x//y")

    assert double == "outputs/ns/run-1/x/y.json"
    assert re.fullmatch(r"outputs/ns/run-1/x_y~[0-9a-f]{12}\.json", single)
