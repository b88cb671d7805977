"""For tests, yours included: the acceptance suite of backends, and backends that fail on purpose.

* `bubu_storage.testing.acceptance`: subclass `BackendAcceptance` to prove a backend (needs pytest).
* `bubu_storage.testing.fakes`: `FaultBackend`, `CountingBackend` and `crash_points`.
"""
