"""Settings from the environment: the table of names, grammars, defaults and errors."""

from __future__ import annotations

import logging
import uuid
from dataclasses import replace

import pytest

from bubu_storage.environment import shared_key
from bubu_storage.errors import ConfigurationError
from bubu_storage.gotext import parse_go_bool, parse_go_int
from bubu_storage.settings import FileSettings, ManagerSettings, RetentionPolicy, S3Settings

S3 = {"BUBU_STORAGE_PROVIDER": "s3", "BUBU_STORAGE_S3_BUCKET": "b"}
ENDPOINT = {**S3, "BUBU_STORAGE_S3_ENDPOINT": "http://minio:9000"}
KEYS = {"BUBU_S3_ACCESS_KEY_ID": "AKIA-PLANTED-ID", "BUBU_S3_SECRET_ACCESS_KEY": "planted-secret"}
AWS_KEYS = {"AWS_ACCESS_KEY_ID": "aws-id", "AWS_SECRET_ACCESS_KEY": "aws-secret"}


def manager(**env):
    """Settings of an environment with nothing else in it."""
    return ManagerSettings.from_env(env)


def s3(env=None, /, **more):
    """Settings of a bucket."""
    return ManagerSettings.from_env({**S3, **(env or {}), **more}).backend


def refused(env, *words):
    """The error's text, which holds every one of the words and no planted secret."""
    with pytest.raises(ConfigurationError) as caught:
        ManagerSettings.from_env(env)
    text = str(caught.value)
    for word in words:
        assert word in text
    assert "planted-secret" not in text
    return text


def test_an_empty_environment_disables_storage():
    """And everything else has its default."""
    assert manager() == ManagerSettings()
    assert manager(BUBU_STORAGE_PROVIDER="none").backend is None
    assert manager(BUBU_STORAGE_PROVIDER="", BUBU_MAX_INLINE_SIZE="").max_inline_size_bytes == 1024


def test_the_process_environment_is_the_default(monkeypatch):
    """Without a mapping, ``os.environ`` is read."""
    monkeypatch.setenv("BUBU_STORAGE_OUTPUT_PREFIX", "elsewhere")
    assert ManagerSettings.from_env().output_prefix == "elsewhere"


def test_a_file_store():
    """The path is taken as it stands."""
    assert manager(BUBU_STORAGE_PROVIDER="file", BUBU_STORAGE_PATH=" /d ").backend == FileSettings(" /d ")
    refused({"BUBU_STORAGE_PROVIDER": "file"}, "BUBU_STORAGE_PATH is not set")


@pytest.mark.parametrize("provider", ["S3", "FILE", " s3", "gcs", "None"])
def test_unknown_providers(provider):
    """Matched exactly, as the Go SDK does."""
    refused({"BUBU_STORAGE_PROVIDER": provider}, "BUBU_STORAGE_PROVIDER", repr(provider), "'file'")


def test_prefixes_are_taken_as_they_are():
    """Untrimmed; empty means the default."""
    settings = manager(BUBU_STORAGE_OUTPUT_PREFIX=" o ", BUBU_STORAGE_INPUT_PREFIX="")
    assert (settings.output_prefix, settings.input_prefix) == (" o ", "inputs")


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("+5", 5), ("007", 7), ("9223372036854775807", 2**63 - 1)]
)
def test_inline_sizes(text, size):
    """A decimal integer with an optional sign."""
    assert manager(BUBU_MAX_INLINE_SIZE=text).max_inline_size_bytes == size


def test_hydrated_sizes():
    """Bytes, above 0; a GiB unless told otherwise."""
    assert manager().max_hydrated_size_bytes == 1 << 30
    assert manager(BUBU_MAX_HYDRATED_SIZE="5000").max_hydrated_size_bytes == 5000
    for text in ("0", "-1", "1Gi", " 5"):
        refused({"BUBU_MAX_HYDRATED_SIZE": text}, "BUBU_MAX_HYDRATED_SIZE", repr(text))


@pytest.mark.parametrize("text", ["-1", "1k", " 5", "5 ", "1_000", "1.0", "٣", "9223372036854775808", "x"])
def test_bad_inline_sizes_are_refused(text):
    """A limit that is not understood must not become another limit."""
    refused({"BUBU_MAX_INLINE_SIZE": text}, "BUBU_MAX_INLINE_SIZE", repr(text))


@pytest.mark.parametrize(
    ("name", "field", "good", "default"),
    [
        ("BUBU_MAX_RECURSION_DEPTH", "max_recursion_depth", {"3": 3, "+4": 4}, 10),
        ("BUBU_STORAGE_TIMEOUT", "timeout_seconds", {"5m": 300.0, "1.5s": 1.5, "250ms": 0.25}, 300.0),
    ],
)
def test_numbers_that_fall_back(name, field, good, default):
    """Valid ones count; invalid, zero, negative and padded ones are the default."""
    for text, value in good.items():
        assert getattr(ManagerSettings.from_env({name: text}), field) == value
    for text in ("0", "-1", "-1s", "abc", " 3", "3 s", "1d", "", "9" * 30):
        assert getattr(ManagerSettings.from_env({name: text}), field) == default


def test_a_fallback_is_logged_once(caplog):
    """The Go SDK says nothing; a person looking for the reason should find it, not drown in it."""
    text = f"odd-{uuid.uuid4()}"
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            ManagerSettings.from_env({"BUBU_MAX_RECURSION_DEPTH": text})

    (record,) = [item for item in caplog.records if text in item.getMessage()]
    assert record.getMessage() == (
        f"BUBU_MAX_RECURSION_DEPTH is {text!r}: not a decimal integer; using the default, 10"
    )


def test_the_workload_namespace():
    """The first of four variables that is not blank."""
    assert manager().workload_namespace == ""
    assert manager(BUBU_POD_NAMESPACE=" \t", BUBU_STEPRUN_NAMESPACE=" s ").workload_namespace == "s"
    assert manager(BUBU_TARGET_STORY_NAMESPACE="t", BUBU_IMPULSE_NAMESPACE="i").workload_namespace == "t"
    assert manager(BUBU_IMPULSE_NAMESPACE="i").workload_namespace == "i"


def test_a_bucket_alone():
    """Everything else is left to the SDK; nothing is anonymous."""
    assert s3() == S3Settings(bucket="b")
    refused(
        {"BUBU_STORAGE_PROVIDER": "s3", "BUBU_STORAGE_S3_BUCKET": " "}, "BUBU_STORAGE_S3_BUCKET is not set"
    )


def test_regions():
    """Ours first, then both names that AWS SDKs know (boto3 alone reads only one of them)."""
    assert s3(BUBU_STORAGE_S3_REGION=" eu ", AWS_REGION="us").region == "eu"
    assert s3(AWS_REGION="us", AWS_DEFAULT_REGION="ap").region == "us"
    assert s3(AWS_DEFAULT_REGION="ap").region == "ap"


@pytest.mark.parametrize(
    ("endpoint", "tls", "url"),
    [
        ("minio:9000", None, "https://minio:9000"),
        ("minio:9000", "on", "https://minio:9000"),
        ("minio:9000", "FALSE", "http://minio:9000"),
        (" http://minio:9000/ ", None, "http://minio:9000/"),
        ("http://minio", "no", "http://minio"),
        ("HTTPS://minio/path#frag", "yes", "https://minio/path"),
        ("https://[::1]:9000", None, "https://[::1]:9000"),
        ("", "off", ""),
    ],
)
def test_endpoints(endpoint, tls, url):
    """The scheme follows from BUBU_S3_TLS where it is missing; a fragment is dropped."""
    env = {"BUBU_STORAGE_S3_ENDPOINT": endpoint} | ({} if tls is None else {"BUBU_S3_TLS": tls})
    assert s3(env).endpoint == url


@pytest.mark.parametrize(
    ("endpoint", "tls", "words"),
    [
        ("http://minio", "true", "make them agree"),
        ("https://minio", "0", "make them agree"),
        ("ftp://minio", None, "http or https"),
        ("https://", None, "needs a host"),
        ("https://:9000", None, "needs a host"),
        ("http://minio:99999", None, "not a valid URL"),
        ("http://[::1", None, "not a valid URL"),
        ("http://id:planted-secret@minio", None, "BUBU_S3_SECRET_ACCESS_KEY"),
        ("minio", "", "BUBU_S3_TLS is ''"),
        ("minio", "maybe", "BUBU_S3_TLS is 'maybe'"),
        ("", " ", "BUBU_S3_TLS"),
    ],
)
def test_bad_endpoints(endpoint, tls, words):
    """Each is refused with the variable and the way out; credentials in it are never shown."""
    env = {**S3, "BUBU_STORAGE_S3_ENDPOINT": endpoint} | ({} if tls is None else {"BUBU_S3_TLS": tls})
    refused(env, words)


def test_path_style():
    """Follows from an endpoint unless it is set."""
    assert s3().use_path_style is False
    assert s3(ENDPOINT).use_path_style is True
    assert s3(ENDPOINT, BUBU_S3_FORCE_PATH_STYLE=" No ").use_path_style is False
    assert s3(BUBU_S3_FORCE_PATH_STYLE="1").use_path_style is True
    assert s3(BUBU_S3_FORCE_PATH_STYLE=" ").use_path_style is False
    refused({**S3, "BUBU_S3_FORCE_PATH_STYLE": "maybe"}, "BUBU_S3_FORCE_PATH_STYLE", "maybe")


def credentials(settings):
    """Who we would be."""
    return settings.access_key_id, settings.secret_access_key, settings.session_token, settings.anonymous


def test_credentials():
    """Ours win over AWS's; a trailing newline of a Secret does not count."""
    assert credentials(s3(ENDPOINT, **KEYS, **AWS_KEYS)) == ("AKIA-PLANTED-ID", "planted-secret", "", False)
    assert credentials(s3(ENDPOINT, **KEYS, BUBU_S3_SESSION_TOKEN=" t\n")) == (
        "AKIA-PLANTED-ID",
        "planted-secret",
        "t",
        False,
    )
    assert credentials(s3(**AWS_KEYS, AWS_SESSION_TOKEN="t")) == ("aws-id", "aws-secret", "t", False)


def test_credentials_that_apply_env_injects_are_used_with_an_endpoint():
    """The Go SDK would ask anonymously here and get a 403 (its defect 16)."""
    assert credentials(s3(ENDPOINT, **AWS_KEYS)) == ("aws-id", "aws-secret", "", False)


def test_anonymous_only_when_nothing_is_configured(tmp_path):
    """An endpoint without any sign of credentials; never for AWS itself."""
    assert s3(ENDPOINT).anonymous is True
    assert s3().anonymous is False
    assert s3(ENDPOINT, HOME=str(tmp_path)).anonymous is True
    for name in ("AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        assert s3(ENDPOINT, **{name: "x"}).anonymous is False
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").touch()
    assert s3(ENDPOINT, HOME=str(tmp_path)).anonymous is False


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (
            {"BUBU_S3_ACCESS_KEY_ID": "AKIA-PLANTED-ID"},
            ("BUBU_S3_ACCESS_KEY_ID is set", "BUBU_S3_SECRET_ACCESS_KEY is not"),
        ),
        ({"BUBU_S3_SECRET_ACCESS_KEY": "planted-secret"}, ("BUBU_S3_ACCESS_KEY_ID is not",)),
        ({"BUBU_S3_SESSION_TOKEN": "planted-secret"}, ("BUBU_S3_SESSION_TOKEN is set", "are not")),
        (
            {"AWS_SECRET_ACCESS_KEY": "planted-secret", "AWS_SESSION_TOKEN": "t"},
            ("are set and AWS_ACCESS_KEY_ID is not",),
        ),
    ],
)
def test_half_a_pair_of_credentials(env, words):
    """Is a mistake, and is named; the half that is there is not shown."""
    text = refused({**ENDPOINT, **env}, *words)
    assert "AKIA-PLANTED-ID" not in text


def test_secrets_do_not_show():
    """Not in the repr of settings either."""
    settings = ManagerSettings.from_env({**S3, **KEYS, "BUBU_S3_SESSION_TOKEN": "planted-token"})
    assert "planted" not in repr(settings).lower()
    assert "planted" not in str(settings).lower()


def test_s3_numbers():
    """Trimmed, unlike the others; what is not above 0 is the default."""
    settings = s3(
        BUBU_S3_MAX_RETRIES=" 7 ",
        BUBU_S3_MAX_BACKOFF=" 2s",
        BUBU_S3_TIMEOUT="1m ",
        BUBU_S3_CONCURRENCY="9",
        BUBU_S3_MAX_PART_SIZE=" 6000000 ",
    )
    assert (settings.max_attempts, settings.max_backoff_seconds, settings.timeout_seconds) == (7, 2.0, 60.0)
    assert (settings.concurrency, settings.part_size_bytes) == (9, 6000000)
    assert s3(BUBU_S3_MAX_RETRIES="0", BUBU_S3_TIMEOUT="-1s", BUBU_S3_MAX_PART_SIZE="x") == S3Settings(
        bucket="b"
    )


@pytest.mark.parametrize("size", ["1", "5242879", "5368709121"])
def test_part_sizes_that_no_store_takes(size):
    """The Go SDK accepts them and then fails every write."""
    refused({**S3, "BUBU_S3_MAX_PART_SIZE": size}, "BUBU_S3_MAX_PART_SIZE", size, "5 MiB", "unset it")
    assert s3(BUBU_S3_MAX_PART_SIZE="5242880").part_size_bytes == 5242880


@pytest.mark.parametrize(
    ("text", "sse"),
    [
        ("", ""),
        (" ", ""),
        ("S3", "AES256"),
        ("sse-s3", "AES256"),
        ("AES256", "AES256"),
        ("kms", "aws:kms"),
        ("AWS:KMS", "aws:kms"),
    ],
)
def test_encryption(text, sse):
    """Two kinds under several names; the key counts only with KMS."""
    settings = s3(BUBU_S3_SSE=text, BUBU_S3_SSE_KMS_KEY=" k ")
    assert (settings.sse, settings.sse_kms_key_id) == (sse, "k" if sse == "aws:kms" else "")


def test_unknown_encryption():
    """Refused at once; the Go SDK fails each write instead."""
    refused({**S3, "BUBU_S3_SSE": "rot13"}, "BUBU_S3_SSE", "rot13", "aws:kms")


def test_retention_policy():
    """Bounds with defaults; nothing here is an error."""
    assert RetentionPolicy.from_env({}) == RetentionPolicy(120.0, 2000, 200)
    env = {"BUBU_STORAGE_RETENTION_GC_INTERVAL": "90s", "BUBU_STORAGE_RETENTION_MAX_SCAN": "0"}
    assert RetentionPolicy.from_env(env) == RetentionPolicy(90.0, 2000, 200)


@pytest.mark.parametrize(
    ("name", "field", "good", "value"),
    [
        ("BUBU_STORAGE_RETENTION_GC_INTERVAL", "gc_interval_seconds", "1h", 3600.0),
        ("BUBU_STORAGE_RETENTION_MAX_SCAN", "max_scan", "+17", 17),
        ("BUBU_STORAGE_RETENTION_MAX_DELETE", "max_delete", "3", 3),
    ],
)
def test_bounds_of_retention(name, field, good, value):
    """A good value counts; a bad one takes the default, and the others stay as they are."""
    defaults = RetentionPolicy()
    assert RetentionPolicy.from_env({name: good}) == replace(defaults, **{field: value})
    for bad in ("0", "-1", "1.5x", " 3"):
        assert RetentionPolicy.from_env({name: bad}) == defaults


def test_shared_keys():
    """What makes two environments the same shared manager, as in the Go SDK."""
    file = {"BUBU_STORAGE_PROVIDER": "file", "BUBU_STORAGE_PATH": "/d"}
    assert shared_key(file) == shared_key(
        {**file, "BUBU_MAX_INLINE_SIZE": "5", **S3, "BUBU_STORAGE_PROVIDER": "file"}
    )
    assert shared_key(file) != shared_key({**file, "BUBU_STORAGE_PATH": "/e"})
    assert shared_key(ENDPOINT) == shared_key({**ENDPOINT, **KEYS, "BUBU_STORAGE_S3_BUCKET": " b "})
    assert shared_key(ENDPOINT) != shared_key({**ENDPOINT, "BUBU_S3_TLS": "off"})
    assert shared_key({**ENDPOINT, "BUBU_S3_TLS": "0"}) == shared_key({**ENDPOINT, "BUBU_S3_TLS": "off"})
    with pytest.raises(ConfigurationError):
        shared_key({**S3, "BUBU_S3_TLS": ""})
    assert shared_key({"BUBU_S3_TLS": ""}) == ("", "", "")


def test_go_integers_and_booleans():
    """Only what Go reads."""
    assert [parse_go_int(text) for text in ("-9223372036854775808", "+0", "00012")] == [-(2**63), 0, 12]
    for text in ("", "+", "-9223372036854775809", "1 ", "１", "0x1"):  # noqa: RUF001 - a full-width digit
        with pytest.raises(ValueError, match=r"decimal|64 bits"):
            parse_go_int(text)
    assert [parse_go_bool(text) for text in ("T", " yes\u2003", "0", "OFF")] == [True, True, False, False]
    for text in ("", "ye", "2", "\x1ctrue"):
        with pytest.raises(ValueError, match="true or false"):
            parse_go_bool(text)


# ---- workers, cache, metrics


def test_workers_and_cache_are_off_or_default():
    """32 objects at a time; no cache, and five minutes for one that is switched on; metrics."""
    settings = manager()
    assert settings.max_workers == 32
    assert (settings.cache_size_bytes, settings.cache_ttl_seconds) == (0, 300.0)
    assert settings.metrics_enabled


def test_workers_and_cache():
    """Bytes, a Go duration, a number."""
    settings = manager(
        BUBU_STORAGE_CONCURRENCY="7", BUBU_STORAGE_CACHE_SIZE="104857600", BUBU_STORAGE_CACHE_TTL="1m30s"
    )
    assert settings.max_workers == 7
    assert (settings.cache_size_bytes, settings.cache_ttl_seconds) == (104_857_600, 90.0)


@pytest.mark.parametrize("text", ["-1", "100MB", "1e6", " 5", "9223372036854775808"])
def test_a_bad_cache_size_is_refused(text):
    """A cache of another size than somebody meant could fill the pod."""
    refused({"BUBU_STORAGE_CACHE_SIZE": text}, "BUBU_STORAGE_CACHE_SIZE", repr(text), "bytes")


@pytest.mark.parametrize(
    ("name", "field", "default"),
    [
        ("BUBU_STORAGE_CACHE_TTL", "cache_ttl_seconds", 300.0),
        ("BUBU_STORAGE_CONCURRENCY", "max_workers", 32),
    ],
)
def test_other_bad_numbers_take_the_default(caplog, name, field, default):
    """As for the numbers that the Go SDK knows; one log line for each value."""
    for text in ("0", "-5", "five", uuid.uuid4().hex):
        for _ in range(2):
            assert getattr(manager(**{name: text}), field) == default
    assert caplog.text.count(name) <= 4
    assert text in caplog.text


@pytest.mark.parametrize(
    ("text", "enabled"),
    [("", True), (" ", True), ("on", True), ("1", True), ("FALSE", False), (" off ", False)],
)
def test_metrics(text, enabled):
    """Counted unless switched off."""
    assert manager(BUBU_STORAGE_METRICS=text).metrics_enabled is enabled


@pytest.mark.parametrize("name", ["BUBU_STORAGE_METRICS", "BUBU_STORAGE_KEEP_SUPERSEDED"])
def test_switches_need_a_boolean(name):
    """Anything else is a typing error."""
    refused({name: "never"}, name, "'never'")


def test_superseded_values_are_kept_unless_switched_off():
    """As the Go SDK does."""
    assert manager().keep_superseded
    assert not manager(BUBU_STORAGE_KEEP_SUPERSEDED="no").keep_superseded


@pytest.mark.parametrize(
    ("text", "engine"), [("", "auto"), (" BOTO3 ", "boto3"), ("obstore", "obstore"), ("Auto", "auto")]
)
def test_engines(text, engine):
    """Whichever is there, unless one is named."""
    assert s3(BUBU_S3_ENGINE=text).engine == engine


def test_unknown_engines():
    """Refused with those that there are."""
    refused({**S3, "BUBU_S3_ENGINE": "curl"}, "BUBU_S3_ENGINE", "'curl'", "auto, boto3, obstore")
