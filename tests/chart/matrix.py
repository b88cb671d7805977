"""The values that tests render: each case changes which objects there are, or what they say."""

from __future__ import annotations

from typing import Any

__all__ = ["MATRIX", "NODE_AFFINITY", "TENANT"]

TENANT = "team-a"
"""A namespace that cases name; tests on an API server make it first."""

_DIGEST = "sha256:" + "0" * 64
_PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"

NODE_AFFINITY: dict[str, Any] = {
    "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "spot", "operator": "DoesNotExist"}]}]
    }
}
"""Which nodes: this one counts for hooks, too."""
_ANTI_AFFINITY = {
    "requiredDuringSchedulingIgnoredDuringExecution": [
        {
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "controller"}},
        }
    ]
}

MATRIX: dict[str, dict[str, Any]] = {
    "default": {},
    "smallest": {
        "crds": {"enabled": False},
        "controller": {"replicas": 1, "jobs": {"enabled": False}, "healIntervalSeconds": 0},
        "webhook": {"replicas": 1, "podDisruptionBudget": {"enabled": False}},
        "tenantSecrets": {"mode": "none"},
        "rbac": {"aggregate": False},
        "uninstallHook": {"enabled": False},
    },
    "scoped": {
        "scopedNamespace": TENANT,
        "tenantSecrets": {"namespaces": [TENANT]},
        "tenantJobs": {"namespaces": [TENANT]},
    },
    "cert-manager": {
        "webhook": {"certificates": {"mode": "certManager", "certManager": {"createSelfSignedIssuer": True}}}
    },
    "cert-manager-issuer": {
        "webhook": {
            "certificates": {
                "mode": "certManager",
                "certManager": {"issuerRef": {"kind": "ClusterIssuer", "name": "company"}},
            }
        }
    },
    "own-secret": {
        "webhook": {"certificates": {"mode": "secret", "secret": {"name": "my-tls"}, "caBundle": _PEM}}
    },
    "all-secrets": {"tenantSecrets": {"mode": "cluster"}},
    "tenants": {
        "tenantSecrets": {"namespaces": [TENANT, "default"]},
        "tenantJobs": {"namespaces": [TENANT, "default"]},
        "networkPolicy": {
            "enabled": True,
            "apiServerCIDRs": ["10.0.0.0/8"],
            "storeCIDRs": ["10.1.0.0/16", "fd00::/8"],
            "metricsFrom": [
                {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
            ],
        },
        "helmTest": {"namespace": TENANT},
    },
    "policies": {"networkPolicy": {"enabled": True}},
    "host-network": {"webhook": {"hostNetwork": True, "port": 10260, "metricsPort": 10261}},
    "monitoring": {
        "commonLabels": {"release": "storage", "grafana_dashboard": "no"},
        "monitoring": {
            "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "prometheusRule": {
                "enabled": True,
                "labels": {"release": "prometheus"},
                "runbookBaseUrl": "https://git.example/~storage/docs/",
            },
            "dashboard": {"enabled": True},
        },
    },
    "service-monitor": {
        "commonLabels": {"release": "storage"},
        "monitoring": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    },
    "everything": {
        "namePrefix": "second",
        "commonLabels": {"team": "platform"},
        "image": {
            "repository": "registry.example/bubu",
            "digest": "sha256:" + "0" * 64,
            "pullPolicy": "Always",
        },
        "imagePullSecrets": [{"name": "registry"}],
        "log": {"level": "debug", "format": "console"},
        "controller": {
            "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
            "nodeSelector": {"pool": "infra"},
            "tolerations": [{"operator": "Exists"}],
            "affinity": {"nodeAffinity": NODE_AFFINITY, "podAntiAffinity": _ANTI_AFFINITY},
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "topology.kubernetes.io/zone",
                    "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "controller"}},
                }
            ],
            "podAnnotations": {"note": "true", "kubectl.kubernetes.io/default-container": "sidecar"},
            "podLabels": {"mesh": "off", "team": "storage"},
            "priorityClassName": "system-cluster-critical",
            "extraArgs": ["--rollout-timeout-seconds=300"],
            "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
            "extraVolumes": [{"name": "stores", "persistentVolumeClaim": {"claimName": "stores"}}],
            "extraVolumeMounts": [{"name": "stores", "mountPath": "/stores"}],
            "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/x"}},
            "probeIntervalSeconds": 1.5,
            "healIntervalSeconds": 30,
            "maxParallelPasses": 8,
            "pauseRetention": True,
            "allowLocalRoots": ["/stores"],
            "ownerKinds": [
                {"apiGroup": "batch", "resources": ["jobs"]},
                {"apiGroup": "", "resources": ["pods"]},
            ],
            "jobs": {"image": "registry.example/other:1"},
        },
        "webhook": {
            "replicas": 3,
            "nodeSelector": {"pool": "infra"},
            "tolerations": [{"operator": "Exists"}],
            "podAnnotations": {"note": "true"},
            "podLabels": {"mesh": "off", "team": "storage"},
            "priorityClassName": "system-cluster-critical",
            "extraArgs": ["--dns-name=webhook.example"],
            "extraEnv": [{"name": "NO_PROXY", "value": "10.0.0.0/8"}],
            "serviceAccount": {"annotations": {"note": "true"}},
            "timeoutSeconds": 10,
            "reinvocationPolicy": "Never",
            "drainSeconds": 2.5,
            "podDisruptionBudget": {"maxUnavailable": "50%"},
            "port": 9443,
            "metricsPort": 9090,
            "excludedNamespaces": ["observability", "kube-system"],
        },
    },
}
