"""Placeholder docstring, replaced by the module's author."""
