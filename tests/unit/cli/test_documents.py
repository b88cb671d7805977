"""``hydrate``, ``dehydrate`` and ``resolve`` do what the library does, byte for byte."""

from __future__ import annotations

import json

import pytest

from bubu_storage import StorageManager
from bubu_storage.settings import FileSettings, ManagerSettings

DOCUMENT = {
    "text": "x" * 3000,
    "list": [1, 2.5, {"deep": "y" * 2000}],
    "small": True,
    "big": 9007199254740991,
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with the document."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "doc.json").write_text(json.dumps(DOCUMENT))
    return tmp_path


@pytest.fixture
def small(on, here):
    """The document, dehydrated."""
    result = on("dehydrate", "doc.json", "--run-id", "team-a/run-1")
    assert (0, "") == (result.exit_code, result.stderr)
    return result.stdout


def test_there_and_back(on, small):
    """Dehydrate and hydrate in a pipe give the document back; keys name the run."""
    back = on("hydrate", stdin=small)

    assert DOCUMENT == json.loads(back.stdout)
    assert 1 == back.stdout.count("\n")
    assert "outputs/team-a/run-1/text.json" == json.loads(small)["text"]["$bubuStorageRef"]


def test_the_same_as_the_library(on, store, small):
    """The document and the objects are those of a manager in a pod."""
    settings = ManagerSettings(backend=FileSettings(store.url.removeprefix("file://") + "-2"))
    with StorageManager(settings) as manager:
        assert manager.dehydrate(DOCUMENT, run_id="team-a/run-1") == json.loads(small)
        for item in manager.list_objects("outputs"):
            with manager.backend.get_object(item.key) as ours, store.get_object(item.key) as theirs:
                assert ours.read() == theirs.read()


def test_inputs_and_limits(on, here):
    """``--inputs`` writes below inputs/; the limit is that of the option."""
    inputs = on("dehydrate", "--inputs", "doc.json", "--run-id", "team-a/story")
    inline = on("dehydrate", "doc.json", "--run-id", "team-a/x", "--max-inline-size", 100000)
    stored = on("dehydrate", "-", "--run-id", "team-a/x", "--max-inline-size", 10, stdin='"a longer text"')

    assert "inputs/team-a/story/" in inputs.stdout
    assert DOCUMENT == json.loads(inline.stdout)
    assert "$bubuStorageRef" in json.loads(stored.stdout)


def test_dehydrate_makes_the_directory(run, here):
    """A command that writes may begin a file store; one that reads may not."""
    url = f"file://{here}/fresh"

    assert 1 == run("hydrate", "doc.json", "--store", url).exit_code
    assert not (here / "fresh").exists()
    assert 0 == run("dehydrate", "doc.json", "--run-id", "a/b", "--store", url).exit_code
    assert (here / "fresh").is_dir()


@pytest.mark.parametrize("run_id", ["", "run", "a/", "/b", " / ", "/"])
def test_a_run_id_has_two_parts(on, here, run_id):
    """Runs without one would overwrite each other's objects."""
    result = on("dehydrate", "doc.json", "--run-id", run_id)

    assert 2 == result.exit_code
    assert "is not NAMESPACE/NAME" in result.stderr


def test_a_run_id_cannot_leave_the_prefix(on, here, keys):
    """A climbing id is refused before anything is written."""
    before = keys()

    result = on("dehydrate", "doc.json", "--run-id", "../../etc")

    assert (2, "") == (result.exit_code, result.stdout)
    assert before == keys()


@pytest.mark.parametrize("command", [("hydrate",), ("dehydrate", "--run-id", "a/b")])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "standard input is empty"),
        (" \n", "standard input is empty"),
        ("{", "standard input is no JSON document"),
        ('{"password": hunter2secret}', "standard input is no JSON document"),
        ("1 2", "standard input is no JSON document"),
        ("NaN", "standard input is no JSON document"),
    ],
)
def test_bad_documents(on, command, text, words):
    """One line that says what is wrong and where, and nothing of the content."""
    result = on(*command, stdin=text)

    assert (1, "") == (result.exit_code, result.stdout)
    assert words in result.stderr
    assert 1 == result.stderr.count("\n")
    assert "hunter2secret" not in result.stderr


def test_a_missing_file(on):
    """Is named."""
    result = on("hydrate", "nope.json")

    assert (1, "bubu-storage: 'nope.json' cannot be read: No such file or directory\n") == (
        result.exit_code,
        result.stderr,
    )


def test_allowed_prefixes(on, small):
    """A reference to anywhere else is refused; a bad prefix is wrong usage."""
    good = on("hydrate", "--allowed-prefix", "outputs/team-a", stdin=small)
    bad = on("hydrate", "--allowed-prefix", "outputs/team-b", "--allowed-prefix", "x", stdin=small)
    ugly = on("hydrate", "--allowed-prefix", "../x", stdin=small)

    assert [0, 1, 2] == [good.exit_code, bad.exit_code, ugly.exit_code]
    assert ["", ""] == [bad.stdout, ugly.stdout]


def test_kubernetes_references(on, monkeypatch):
    """The command has no access to a cluster; the option leaves such references alone."""
    text = '{"$bubuSecretRef":{"name":"s","key":"k"}}'

    monkeypatch.setenv("BUBU_POD_NAMESPACE", "team-a")
    refused = on("hydrate", stdin=text)
    kept = on("hydrate", "--storage-refs-only", stdin=text)

    assert 1 == refused.exit_code
    assert "--storage-refs-only" in refused.stderr
    assert json.loads(text) == json.loads(kept.stdout)


@pytest.mark.parametrize(
    "ref", ['"../../etc/passwd"', '"/etc/passwd"', '"a\\u0000b"', json.dumps("k" * 5000), '".bubu/claim"']
)
def test_hostile_references(on, ref):
    """Refused, whatever is behind them."""
    result = on("hydrate", stdin='{"$bubuStorageRef":' + ref + "}")

    assert (1, "") == (result.exit_code, result.stdout)
    assert 1 == result.stderr.count("\n")


def test_resolve(on, small):
    """A key, a part of it, or a reference as it stands in a document."""
    ref = json.dumps(json.loads(small)["text"])

    assert DOCUMENT["text"] == json.loads(on("resolve", "outputs/team-a/run-1/text.json").stdout)
    assert DOCUMENT["text"] == json.loads(on("resolve", ref).stdout)
    assert DOCUMENT["text"] == json.loads(on("resolve", "-", stdin=ref).stdout)
    assert DOCUMENT["text"] == on("resolve", "--text", ref).stdout


def test_resolve_a_part(on, here):
    """What follows ``#`` selects; a part that is not there is a failure that names the step."""
    on("dehydrate", "--inputs", "doc.json", "--run-id", "a/b", "--max-inline-size", 20)
    key = "inputs/a/b/input.json"

    assert [1, 2.5] == json.loads(on("resolve", f"{key}#list").stdout)[:2]
    assert 1 == json.loads(on("resolve", f"{key}#list[0]").stdout)
    missing = on("resolve", f"{key}#list[0].x")
    assert 1 == missing.exit_code
    assert "'x'" in missing.stderr
    assert 1 == on("resolve", "--text", f"{key}#list[0]").exit_code


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("", "empty"),
        ("../x", "'..'"),
        ("s3://b/k", "--store s3://BUCKET"),
        ('{"a":1}', "no reference"),
        ('{"$bubuStorageRef":1}', "no reference"),
        ('{"$bubuStorageRef":"a","x":1}', "no reference"),
    ],
)
def test_no_reference(on, reference, words):
    """Wrong usage, with the form that is right."""
    result = on("resolve", reference)

    assert 2 == result.exit_code
    assert words in result.stderr


def test_broken_json_as_a_reference(on):
    """Is said to be none."""
    assert 1 == on("resolve", '{"$bubu').exit_code
