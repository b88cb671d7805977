"""Retention around the engine: planning, scheduling and running passes outside the controller.

Nothing here imports Kopf or decides what is deleted: that is `bubu_storage.retention`.
"""
