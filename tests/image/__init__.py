"""The operator's image: built once per content, looked into as files, run without a cluster."""
