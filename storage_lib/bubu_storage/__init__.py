"""Object storage for workflow pods, byte-compatible with BubuStack's Go SDK."""

from bubu_storage._version import __version__

__all__ = ["__version__"]
