"""The way to the Kubernetes API: client, informer, conditions, events.

The only package that imports ``kubernetes``. Nothing here knows what the operator is for.
"""
