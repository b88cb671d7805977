"""Metrics of stores: whether each config's store can be used, and what looking at it came to.

A config has two series, which go when the config goes; the reasons are counted over all configs and
not by each of them: a config's own reason is in its Ready condition. ``namespace`` is empty for a
ClusterStorageConfig.
"""

from __future__ import annotations

import contextlib

from prometheus_client import CollectorRegistry, Counter, Gauge

__all__ = ["ConfigLabels", "StoreMetrics"]

ConfigLabels = tuple[str, str, str]
"""Kind, namespace ("" for a cluster-wide config) and name."""

_CONFIG = ("kind", "namespace", "name")


class StoreMetrics:
    """Registered in the controller's registry; thread-safe."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ready = Gauge(
            "bubu_store_ready",
            "1 when a config's store can be used as asked, 0 when not; its Ready condition says why. No "
            "series while nobody can tell (Ready is Unknown).",
            _CONFIG,
            registry=registry,
        )
        self._seconds = Gauge(
            "bubu_store_probe_duration_seconds",
            "How long the last probe of a config's store took that worked; no series where none has.",
            _CONFIG,
            registry=registry,
        )
        self._looks = Counter(
            "bubu_store_looks",
            "Looks at the stores of all configs, by the reason that their Ready condition got.",
            ["reason"],
            registry=registry,
        )

    def looked(self, config: ConfigLabels, *, ready: bool | None, reason: str, seconds: float | None) -> None:
        """Show what a look at a config came to.

        Args:
            config: which one.
            ready: None where it is not known.
            reason: of its Ready condition.
            seconds: how long a probe took that worked, None where there was none.
        """
        self._looks.labels(reason).inc()
        if ready is None:
            _remove(self._ready, config)
        else:
            self._ready.labels(*config).set(ready)
        if seconds is not None:
            self._seconds.labels(*config).set(seconds)

    def forget(self, config: ConfigLabels) -> None:
        """Remove the series of a config that is gone; nothing if there are none."""
        _remove(self._ready, config)
        _remove(self._seconds, config)


def _remove(metric: Gauge, config: ConfigLabels) -> None:
    # Releases of the client differ in whether removing what is not there is an error.
    with contextlib.suppress(KeyError):
        metric.remove(*config)
