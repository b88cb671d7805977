"""The controller process: thin Kopf wiring and one reconcile function per kind.

Kopf is imported below here and nowhere else, and only to hear of changes: no finalizers,
timers, daemons or annotations of its.
"""
