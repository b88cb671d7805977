"""The Kubernetes operator around `bubu_storage`: injection, probes, retention.

The folder above this package must never get an ``__init__.py``: it would shadow the
standard library's ``operator`` module.
"""
