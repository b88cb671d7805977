"""For tests, yours included: the acceptance suite of backends, backends that fail on purpose, a mock.

* `bubu_storage.testing.acceptance`: subclass `BackendAcceptance` to prove a backend (needs pytest).
* `bubu_storage.testing.fakes`: `FaultBackend`, `CountingBackend`, `DelayBackend` and `crash_points`.
* `bubu_storage.testing.pytest_plugin`: fixtures ``storage``, ``storage_backend``, ``storage_settings``.
* `bubu_storage.testing.mock`: `MockStorageManager`, which records its calls and fails as told.
"""
