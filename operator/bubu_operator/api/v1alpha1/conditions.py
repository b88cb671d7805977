"""Condition types, reasons and events: the fixed words of this API, each with its meaning.

The same words appear in conditions, events and metric labels; ``docs/reference/conditions.md``
is generated from this module, so that a word and its explanation cannot drift apart.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self

__all__ = ["ConditionType", "EventReason", "Reason"]


class _Word(StrEnum):
    """A word with its meaning: `meaning` is one sentence for the docs."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        """Make a member that equals ``value`` and carries ``meaning``."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


class ConditionType(_Word):
    """What a condition observes."""

    READY = (
        "Ready",
        "A storage config: the store can be used as asked. A retention policy: its passes can run.",
    )
    RECONCILED = (
        "Reconciled",
        "The operator's last piece of work for this object, a probe or a pass, ended as it should.",
    )
    DEGRADED = ("Degraded", "It works, but not as it should; the reason says what is missing.")
    NOT_SHARED = (
        "NotShared",
        "Each pod has a directory of its own (emptyDir): nothing is shared, and there is nothing to collect.",
    )
    SECRETS_PRESENT = (
        "SecretsPresent",
        "The Secret and ConfigMap that the config names exist and have the keys.",
    )
    INJECTION_DRIFT = (
        "InjectionDrift",
        "Running pods that this config is meant for lack it, or carry an older form of it.",
    )


class Reason(_Word):
    """Why a condition has its status."""

    # Storage configs: the probe
    PROBE_SUCCEEDED = (
        "ProbeSucceeded",
        "An object of the operator's own was written, read, listed and deleted.",
    )
    NOT_PROBED = (
        "NotProbed",
        "The controller cannot reach this store (a claim that no Job may mount): nothing was tried.",
    )
    NO_CREDENTIALS = (
        "NoCredentials",
        "Pods have an identity for this store and the controller has none, nor a Job in their place.",
    )
    BUCKET_NOT_FOUND = ("BucketNotFound", "The bucket, or the directory, does not exist.")
    UNAUTHENTICATED = ("Unauthenticated", "The store does not know the credentials, or they have expired.")
    PERMISSION_DENIED = ("PermissionDenied", "The store knows the credentials and refuses an operation.")
    UNREACHABLE = ("Unreachable", "No connection to the endpoint: name, route, port or certificate.")
    TIMEOUT = ("Timeout", "The endpoint did not answer in time.")
    THROTTLED = ("Throttled", "The store asks for fewer requests; the operator will try again later.")
    ENDPOINT_NOT_ALLOWED = (
        "EndpointNotAllowed",
        "The endpoint leads to an address that the controller must not call, as a metadata service.",
    )
    STORE_ERROR = (
        "StoreError",
        "The store answered with an error that has no reason of its own; see the message.",
    )
    SECRET_NOT_FOUND = ("SecretNotFound", "The Secret that the config names does not exist.")
    SECRET_KEY_MISSING = ("SecretKeyMissing", "The Secret lacks a key that the config names, or it is empty.")
    SECRET_FORBIDDEN = (
        "SecretForbidden",
        "The controller may not read the Secret; grant it that one by a Role.",
    )
    SECRETS_FOUND = ("SecretsFound", "Everything that the config names was found.")
    CONFIG_MAP_NOT_FOUND = (
        "ConfigMapNotFound",
        "The ConfigMap with the certificate authorities does not exist.",
    )
    CONFIG_MAP_KEY_MISSING = ("ConfigMapKeyMissing", "The ConfigMap lacks the key that the config names.")
    CONFIG_MAP_FORBIDDEN = ("ConfigMapForbidden", "The controller may not read the ConfigMap.")
    CA_BUNDLE_INVALID = ("CABundleInvalid", "The ConfigMap's text is no PEM bundle of certificates.")
    PATH_NOT_ALLOWED = (
        "PathNotAllowed",
        "The path lies below none of the controller's --allow-local-root directories.",
    )
    PATH_NOT_WRITABLE = ("PathNotWritable", "The directory cannot be written to.")
    EMPTY_DIR = ("EmptyDir", "Each pod has a directory of its own, which is gone with the pod.")
    PROBE_JOB_RUNNING = (
        "ProbeJobRunning",
        "The Job that probes under the config's ServiceAccount, or with its claim, has not ended yet.",
    )
    PROBE_JOB_STUCK = (
        "ProbeJobStuck",
        "The Job that probes cannot start, or did not end; the message says why. The store may be fine.",
    )
    PROBE_JOB_REFUSED = (
        "ProbeJobRefused",
        "The API server refuses the Job that probes (a quota, a policy); the message is its answer.",
    )
    PROBE_RESULT_UNREADABLE = (
        "ProbeResultUnreadable",
        "The Job's pod ended without a result that can be read; see its log.",
    )
    SERVICE_ACCOUNT_NOT_FOUND = (
        "ServiceAccountNotFound",
        "The ServiceAccount that the config names does not exist; no pod can run under it.",
    )
    CLAIM_NOT_FOUND = (
        "ClaimNotFound",
        "The PersistentVolumeClaim that the config names does not exist; no pod can mount it.",
    )

    # Storage configs: the pods
    PODS_NOT_INJECTED = (
        "PodsNotInjected",
        "Pods that ask for storage run without it, as after an outage of the webhook; restart their owners.",
    )
    PODS_STALE = (
        "PodsStale",
        "Pods run with what an older form of this config said; their owners' next roll-out renews them.",
    )
    PODS_UP_TO_DATE = ("PodsUpToDate", "Every pod that the config is meant for carries it as it is now.")
    PODS_FORBIDDEN = (
        "PodsForbidden",
        "The controller may not read pods, or what belongs to them: if any lack the config is not known.",
    )

    # Retention policies: finding the store
    STORAGE_FOUND = ("StorageFound", "The store that the policy is about was found and is ready.")
    STORAGE_CONFIG_NOT_FOUND = (
        "StorageConfigNotFound",
        "The config that storageRef names does not exist, or none applies to this namespace.",
    )
    AMBIGUOUS_STORAGE = (
        "AmbiguousStorage",
        "Several configs apply to this namespace and none is marked default; name one in storageRef.",
    )
    STORAGE_NOT_READY = (
        "StorageNotReady",
        "The config exists, but its store cannot be used now; see its conditions.",
    )
    PREFIX_OUTSIDE_STORE = (
        "PrefixOutsideStore",
        "A rule's prefix lies below neither outputPrefix nor inputPrefix of the store; it would never match.",
    )
    PREFIX_OVERLAPS = (
        "PrefixOverlaps",
        "What the policy would clean lies inside another config's part; give one of them other prefixes.",
    )

    # Retention policies: passes
    PASS_PENDING = ("PassPending", "No pass has run yet.")
    PASS_SUCCEEDED = ("PassSucceeded", "The last pass did all that its limits allowed, without an error.")
    PASS_PARTIAL = ("PassPartial", "The last pass could not delete some objects; they stay due.")
    PASS_FAILED = ("PassFailed", "The last pass broke off; the next one resumes where it stopped.")
    SUSPENDED = ("Suspended", "spec.suspend is true: no pass is started.")
    APPROVAL_REQUIRED = (
        "ApprovalRequired",
        "More is due than safety.maxDuePercent lets go; set the annotation approve to status.planHash.",
    )
    REHEARSING = (
        "Rehearsing",
        "A dry cycle of this spec is under way; the first deletion follows when it is complete.",
    )
    OWNERS_UNKNOWN = (
        "OwnersUnknown",
        "There is no complete list of the owners of runs, so nobody knows what is live; nothing is deleted.",
    )
    OWNER_KIND_VANISHED = (
        "OwnerKindVanished",
        "A kind of owners that used to be listed is not served any more; nothing is deleted until approved.",
    )
    LIVE_COUNT_DROPPED = (
        "LiveCountDropped",
        "More than half of the live owners are gone since the last list; nothing is deleted until approved.",
    )
    STORE_CLAIMED = (
        "StoreClaimed",
        "Another sweeper holds the claim on this store; one at a time deletes.",
    )
    SHARED_STORE = (
        "SharedStore",
        "Other clusters use the store, so a run without an owner here may have one there: it is kept.",
    )
    BACKLOG_GROWING = (
        "BacklogGrowing",
        "More becomes due than the limits let go, cycle after cycle; raise limits.maxDelete.",
    )
    REFERENCES_UNREADABLE = (
        "ReferencesUnreadable",
        "A document of a live run cannot be read, so nobody knows what it refers to; nothing is deleted.",
    )
    NO_NAMESPACES = (
        "NoNamespaces",
        "The ClusterStorageConfig's namespaceSelector selects no namespace; there is nothing to clean.",
    )
    TOO_MANY_NAMESPACES = (
        "TooManyNamespaces",
        "The policy would cover more namespaces than one pass can; split the store or its rules.",
    )
    PASSES_PAUSED = (
        "PassesPaused",
        "All passes are paused, by the annotation on the operator's namespace or by an option.",
    )
    PAUSE_UNKNOWN = (
        "PauseUnknown",
        "The controller may not read the operator's namespace, whose annotation pauses passes; none starts.",
    )
    PASS_JOB_STUCK = (
        "PassJobStuck",
        "The Job through which a pass would reach this store cannot start; the message says why.",
    )
    PASS_JOB_REFUSED = (
        "PassJobRefused",
        "The Job through which a pass would reach this store may not be made; the message says why.",
    )
    PASS_JOB_FAILED = (
        "PassJobFailed",
        "The Job through which a pass would reach this store ended before the pass; see the message.",
    )

    # Any kind
    INVALID_SPEC = (
        "InvalidSpec",
        "The object fails the operator's own check; the CRD in the cluster may be of another version.",
    )
    RECONCILE_SUCCEEDED = ("ReconcileSucceeded", "The operator did all that it had to do.")
    RECONCILE_FAILED = (
        "ReconcileFailed",
        "The operator could not do its work; see the message. It tries again.",
    )
    AS_EXPECTED = ("AsExpected", "Nothing is wrong.")


class EventReason(_Word):
    """Reasons of events that are no condition's reason."""

    # Retention policies
    DRY_RUN_FINISHED = (
        "DryRunFinished",
        "The first rehearsal of this spec has ended; the note says what is due.",
    )
    REHEARSAL_FINISHED = (
        "RehearsalFinished",
        "A whole dry cycle of this spec has ended; the note says what is due. Deletions may follow.",
    )
    APPROVED = ("Approved", "Somebody has approved what is due; the policy goes on and deletes it.")
    DELETION_STARTED = ("DeletionStarted", "The policy has begun to delete.")
    RECOVERED = ("PassRecovered", "A pass succeeded after one that did not.")

    # Workloads whose pods were found without their storage
    INJECTION_MISSING = ("InjectionMissing", "Pods of this owner ask for storage and run without it.")
    INJECTION_STALE = ("InjectionStale", "Pods of this owner carry an older form of their config.")
    RESTARTED = (
        "RestartedForInjection",
        "The owner was restarted so that its pods get their config (injection.rolloutOnChange).",
    )

    # Workloads whose pod template is injected
    INJECTED = ("Injected", "The config was written into the pod template; the note has the warnings, too.")
    INJECTION_REMOVED = ("InjectionRemoved", "The pod template is as its user wrote it again.")
    INJECTION_REFUSED = (
        "InjectionRefused",
        "The API server refuses the pod template with the config in it; the note says why.",
    )
    INJECTION_REVERTED = (
        "InjectionReverted",
        (
            "Somebody undoes the injection of the pod template again and again; the operator pauses, longer "
            "each time."
        ),
    )
    CONFIG_CHANGED = (
        "ConfigChanged",
        (
            "The config has changed; the pod template gets it when it changes for another reason "
            "(injection.rolloutOnChange is false)."
        ),
    )
    ADMISSION_DIFFERS = (
        "AdmissionDiffers",
        (
            "The webhook sees the pods, too, but not their workload's config label: it chooses another "
            "config than the pod template has, or none."
        ),
    )
    ROLLOUT_HALTED = (
        "RolloutHalted",
        "Another owner of the config failed to roll out, or this one has rolled too often of late; it waits.",
    )
    CONFIG_NOT_FOUND = (
        "ConfigNotFound",
        "The config that a label names does not exist; nothing is injected.",
    )
    CONFIG_DELETING = (
        "ConfigDeleting",
        "The config that a label names is being deleted; nothing is injected.",
    )
    NAMESPACE_NOT_SELECTED = (
        "NamespaceNotSelected",
        "The cluster-wide config that a label names is not offered to this namespace.",
    )
    AMBIGUOUS = ("Ambiguous", "Several configs apply, and nothing says which one; the note names them.")
    INVALID_CONFIG = ("InvalidConfig", "The config that applies is invalid; the note says why.")
    NO_CONFIG = ("NoConfig", "Injection is asked for, and no config applies to this namespace.")

    # Owners of pods that were let through, or refused, without their storage
    NO_MATCHING_CONTAINER = (
        "NoMatchingContainer",
        "The pod has none of the containers that the config is for (injection.containers).",
    )
    POD_TOO_LARGE = ("PodTooLarge", "The pod would be too large to be stored with the config in it.")
    RECORD_TOO_LARGE = (
        "RecordTooLarge",
        "The pod's annotations would be larger than Kubernetes allows with the record of the injection.",
    )
    MALFORMED_POD = (
        "MalformedPod",
        "The pod is not formed in a way that allows injection; the note says why.",
    )
    WEBHOOK_NOT_READY = ("NotReady", "The webhook had just started and could not ask the API server in time.")
    UNKNOWN_NAMESPACE = ("UnknownNamespace", "The webhook did not know the pod's namespace.")
    WEBHOOK_FAULT = ("InternalError", "A fault of the webhook; its log has the details.")
