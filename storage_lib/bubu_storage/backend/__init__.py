"""Backends: S3, files, memory, and the factory that builds one from settings."""
