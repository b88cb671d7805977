"""The demonstration behind ``make demo``: the main job, end to end, on a real API server.

Nothing here is a mock. The demo starts a cluster, runs the operator's two processes under
their own service accounts, and checks every promise it prints; the first one that does not
hold ends it with exit code 1.
"""
