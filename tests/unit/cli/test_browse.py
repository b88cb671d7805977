"""``ls``, ``du``, ``stat`` and ``cat``: what people and programs get to see."""

from __future__ import annotations

import json
import random

import pytest

from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.cli.scope import Scope, objects_in, one_level
from bubu_storage.payload.stored import encode_stored_json, encode_stored_text


def lines(result):
    """Return the lines of a command that went well."""
    assert (0, "") == (result.exit_code, result.stderr)
    return result.stdout.splitlines()


def documents(result):
    """Return the JSON lines of a command that went well."""
    return [json.loads(line) for line in lines(result)]


def test_ls_shows_one_level(on):
    """Folders end in a slash, keys are whole, our own area is hidden, and the order is that of keys."""
    assert ["a.txt", "data-old/", "data/", "zoo"] == lines(on("ls"))
    assert ["data/1.bin", "data/deep/"] == lines(on("ls", "data"))
    assert ["data/1.bin", "data/deep/"] == lines(on("ls", "data/"))
    assert ["a.txt"] == lines(on("ls", "a.txt"))


def test_ls_recursive(on):
    """``-r`` gives the objects alone."""
    assert ["a.txt", "data-old/x", "data/1.bin", "data/deep/2.bin", "data/deep/er/3.bin", "zoo"] == lines(
        on("ls", "-r")
    )


def test_our_own_area_can_be_looked_at(on):
    """Hidden does not mean secret: who asks for ``.bubu/`` by name gets it."""
    assert [".bubu/claim"] == lines(on("ls", ".bubu"))


def test_ls_long_and_json(on):
    """``-l`` is short for people; JSON is exact, one document a line."""
    first = lines(on("ls", "-l", "data"))[0]
    entries = documents(on("ls", "data", "-o", "json"))

    assert "256 B" in first
    assert first.endswith("  data/1.bin")
    assert {"folder": "data/deep/"} == entries[1]
    assert ("data/1.bin", 256) == (entries[0]["key"], entries[0]["size_bytes"])
    assert entries[0]["last_modified"].endswith("Z")
    assert entries[0]["etag"].startswith('"')


def test_ls_limit(on):
    """The limit is exact, and a note says that there was more; ``--quiet`` leaves it out."""
    result = on("ls", "-r", "--limit", 2)

    assert ["a.txt", "data-old/x"] == result.stdout.splitlines()
    assert "bubu-storage: stopped after 2 entries (--limit)\n" == result.stderr
    assert "" == on("ls", "-r", "--limit", 2, "-q").stderr
    assert 6 == len(lines(on("ls", "-r", "--limit", 6)))


@pytest.mark.parametrize("command", [("ls",), ("ls", "-r"), ("du",)])
def test_nothing_there(on, command):
    """A prefix that holds nothing is a failure that says so: a half segment is one."""
    result = on(*command, "data/de")

    assert (1, "") == (result.exit_code, result.stdout)
    assert (
        "bubu-storage: there is nothing at 'data/de': no such object or folder; look with 'bubu-storage ls "
        "data/'\n"
    ) == result.stderr


def test_an_empty_store_is_no_failure(run, tmp_path):
    """Nothing to list is an answer, too."""
    (tmp_path / "empty").mkdir()

    assert [] == lines(run("ls", "--store", f"file://{tmp_path}/empty"))
    assert "0 objects" in lines(run("du", "--store", f"file://{tmp_path}/empty"))[0]


def test_du_sums_exactly(on):
    """Each folder once, the sum last; the sizes are those of the objects."""
    sums = documents(on("du", "--depth", 2, "-o", "json"))

    assert [
        {"prefix": "data-old/", "objects": 1, "size_bytes": 3},
        {"prefix": "data/deep/", "objects": 2, "size_bytes": 8},
        {"prefix": "data/", "objects": 3, "size_bytes": 264},
        {"prefix": "", "objects": 6, "size_bytes": 272},
    ] == sums
    assert [{"prefix": "data", "objects": 3, "size_bytes": 264}] == documents(on("du", "data", "-o", "json"))
    assert "264 B" in lines(on("du", "data"))[0]
    assert "3 objects  data" in lines(on("du", "data"))[0]


def test_a_key_cannot_move_the_cursor(on, store):
    """Control characters are shown, not sent to the terminal; JSON escapes them and means the same key."""
    key = "evil/\x1b[2J\n\u202ex\x9b\U000e0001"
    store.put_object(key, b"")

    assert ["evil/\\x1b[2J\\n\\u202ex\\x9b\\U000e0001"] == lines(on("ls", "evil"))
    as_json = on("ls", "evil", "-o", "json")
    assert key == documents(as_json)[0]["key"]
    assert as_json.stdout.removesuffix("\n").isprintable()


def test_stat(on, store):
    """The facts of one object, exact in JSON."""
    table = lines(on("stat", "data/1.bin"))
    facts = documents(on("stat", "data/1.bin", "-o", "json"))[0]

    assert "size      256 B (256 bytes)" in table
    assert "stored    no" in table
    assert store.head_object("data/1.bin").etag == facts["etag"]
    assert {
        "key": "data/1.bin",
        "size_bytes": 256,
        "content_type": "application/octet-stream",
        "stored": None,
        "metadata": {},
    } == {name: facts[name] for name in ("key", "size_bytes", "content_type", "stored", "metadata")}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (encode_stored_json({"a": 1}, simple=True), "json"),
        (bytes(encode_stored_text("x" * 5000)), "raw"),
        (b' { "contentType" : "raw", "data": "x"}', "raw"),
        (b'{"contentType":"xml","data":1}', None),
        (b"", None),
    ],
)
def test_stat_tells_stored_objects(on, store, body, kind):
    """What dehydrate wrote is recognised by its beginning."""
    store.put_object("k", body)

    assert kind == documents(on("stat", "k", "-o", "json"))[0]["stored"]


@pytest.mark.parametrize("command", ["stat", "cat"])
def test_missing_objects_and_folders(on, command):
    """A missing object is named; of a folder it is said that it is one."""
    missing, folder = on(command, "nope"), on(command, "data/deep")

    assert (1, "", 1) == (missing.exit_code, missing.stdout, missing.stderr.count("\n"))
    assert "'nope'" in missing.stderr
    assert 1 == folder.exit_code
    assert "'data/deep' is a folder" in folder.stderr
    assert "bubu-storage ls data/deep/" in folder.stderr


def test_cat_is_binary_safe(on):
    """Every byte as it is, nothing added; several objects one after the other."""
    assert bytes(range(256)) == on("cat", "data/1.bin").stdout_bytes
    assert b"hellotwo" == on("cat", "a.txt", "data/deep/2.bin").stdout_bytes


@pytest.mark.parametrize(
    ("text", "expected"), [("0-0", b"h"), ("1-2", b"el"), ("3-", b"lo"), ("-2", b"lo"), ("3-99", b"lo")]
)
def test_cat_range(on, text, expected):
    """Ranges count from 0 and include their end."""
    assert expected == on("cat", "a.txt", "--range", text).stdout_bytes


@pytest.mark.parametrize("text", ["", "-", "5-3", "a-b", "1-2-3", "1,2", "0x1-2", "-1-"])
def test_a_bad_range_is_wrong_usage(on, text):
    """And the message shows the three forms."""
    result = on("cat", "a.txt", f"--range={text}")

    assert (2, "") == (result.exit_code, result.stdout)
    assert "write 0-99" in result.stderr


def test_a_range_past_the_end(on):
    """The store is asked, and its answer is a failure."""
    assert 1 == on("cat", "a.txt", "--range", "5-9").exit_code


def test_cat_decoded(on, store):
    """A text comes as it is, other values as JSON; what is no stored object is said to be none."""
    store.put_object("raw", encode_stored_text("grüße\n"))
    store.put_object("json", encode_stored_json({"b": [1, 2.5], "a": None}, simple=True))

    assert "grüße\n".encode() == on("cat", "--decoded", "raw").stdout_bytes
    assert {"a": None, "b": [1, 2.5]} == json.loads(on("cat", "--decoded", "json").stdout)
    broken = on("cat", "--decoded", "a.txt")
    assert (1, "") == (broken.exit_code, broken.stdout)
    assert 2 == on("cat", "--decoded", "raw", "--range", "0-1").exit_code


@pytest.mark.parametrize("command", ["ls", "du", "stat", "cat", "rm"])
@pytest.mark.parametrize("key", ["../x", "a/../../b", "/etc/passwd", "k" * 5000, "a\\..\\b"])
def test_hostile_keys_are_wrong_usage(on, command, key):
    """What could leave the store never reaches it; the message is one line of bearable length."""
    result = on(command, key)

    assert (2, "") == (result.exit_code, result.stdout)
    assert 1 == result.stderr.count("\n")
    assert len(result.stderr) < 300


@pytest.mark.parametrize("key", ["s3://b/k", "store:k", "file:///x"])
def test_a_url_is_no_key(on, key):
    """Whoever thinks of another tool is told how it is done here."""
    result = on("cat", key)

    assert 2 == result.exit_code
    assert "is not relative to the store" in result.stderr


class CountingBackend(MemoryBackend):
    """Counts the pages it was asked for."""

    pages = 0

    def list_objects(self, prefix="", *, start_after="", page_size=1000):
        """List in pages of ten."""
        for page in super().list_objects(prefix, start_after=start_after, page_size=min(10, page_size)):
            self.pages += 1
            yield page


def test_one_level_does_not_read_deep_folders():
    """A folder of a thousand objects costs no hundred pages, whichever folder comes next."""
    backend = CountingBackend()
    for folder in ("a", "a-b", "b", "c"):
        for number in range(1000):
            backend.put_object(f"{folder}/{number:04}", b"")

    found = [entry for page in one_level(backend, Scope("", "")) for entry in page]

    assert ["a-b/", "a/", "b/", "c/"] == found
    assert backend.pages <= 8


@pytest.mark.parametrize("seed", range(20))
def test_one_level_agrees_with_the_whole_listing(seed):
    """On any keys, also odd ones, one level is exactly what the whole listing says."""
    rng = random.Random(seed)
    backend = CountingBackend()
    for _ in range(rng.randrange(200)):
        key = "".join(rng.choices(["a", "b", "/", "-", "\U0010ffff", "é"], k=rng.randrange(1, 9)))
        if not key.startswith("/"):
            backend.put_object(key, b"")
    for directory in ("", "a/", "a//", "b/a/"):
        scope = Scope("", directory)
        expected = []
        for page in objects_in(backend, scope):
            for item in page:
                name, slash, _ = item.key[len(directory) :].partition("/")
                entry = directory + name + slash
                if entry not in expected:
                    expected.append(entry)
        found = [
            entry if isinstance(entry, str) else entry.key
            for page in one_level(backend, scope)
            for entry in page
        ]

        assert expected == found
